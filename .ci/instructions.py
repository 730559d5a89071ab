"""Counts instructions of fixed work (tests/end_to_end/costs/instructions.rs) and fails if it takes more than was recorded.

    python3 .ci/instructions.py             compare with .ci/instructions.json
    python3 .ci/instructions.py --record    write down what is counted now

Valgrind counts; without it the check is skipped, unless CI is set: then it is installed where that is possible, or the check fails.

What is counted is the build that the tests have made: not optimised, so an instruction says little about time, but one more clone, parse
or request shows as surely. Each count is divided by that of one parse of the same records into the type of `aws_lambda_events`: another
compiler, C library or processor changes both. Six counts of the same build differed by at most 0.12 % (hashing is random); a change counts as
slower from TOLERANCE on.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORDED = Path(".ci/instructions.json")
# By how much more may be taken: with the compiler, C library and kind of processor that counted, and with others.
TOLERANCE, TOLERANCE_ELSEWHERE = 0.01, 0.10
TEST = "costs::instructions::work_that_is_counted"
COUNTED = ["parse", "decode", "plan", "batch"]


def valgrind():
    found = shutil.which("valgrind")
    if not found and os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing valgrind", flush=True)
        install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends valgrind"
        subprocess.run(["bash", "-c", install], check=True, stdout=subprocess.DEVNULL)
        found = shutil.which("valgrind")
    if not found:
        print("SKIPPED: there is no valgrind; install it", file=sys.stderr)
        sys.exit(1 if os.environ.get("CI") else 0)
    return found


def test_binary():
    build = ["cargo", "test", "--locked", "--workspace", "--test", "end_to_end", "--no-run", "--message-format=json"]
    messages = subprocess.run(build, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line) for line in messages if '"executable":"' in line]
    return next(message["executable"] for message in built if message["target"]["name"] == "end_to_end")


def count(binary):
    """The instructions of each function with all that it calls."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        # Without a star at its end, the pattern leaves out the closures in it.
        options = ["--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no", f"--toggle-collect=*::{TEST}"]
        ran = subprocess.run([valgrind(), *options, binary, "--exact", TEST], capture_output=True, text=True)
        if ran.returncode != 0 or "1 passed" not in ran.stdout:
            sys.exit(f"the work was not done:\n{ran.stdout}{ran.stderr}")
        counts = calls_of(TEST, out.read_text().splitlines())
    if sorted(counts) != sorted(COUNTED):
        sys.exit(f"not everything was counted: {counts}")
    return counts


def calls_of(caller, lines):
    """What the `counted_` functions cost that it calls. A name has a number, and is spelt out where it is first met."""
    names, counts, function, callee = {}, {}, None, None
    lines = iter(lines)
    for line in lines:
        if named := re.match(r"(c?fn)=\((\d+)\)(?: (.*))?$", line):
            kind, number, name = named.groups()
            if name:
                names[number] = name
            if kind == "fn":
                function = names[number]
            else:
                callee = names[number]
        elif line.startswith("calls="):
            inclusive = int(next(lines).split()[1])
            counted = callee.rpartition("::counted_")[2]
            if function.endswith(f"::{caller}") and counted in COUNTED:
                counts[counted] = counts.get(counted, 0) + inclusive
    return counts


def here():
    """What decides how many instructions the same code takes. The C library chooses how to copy by what the processor can."""
    compiler = subprocess.run(["rustc", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    features = set(Path("/proc/cpuinfo").read_text().split()) & {"avx2", "avx512f", "erms"}
    return ", ".join([compiler, " ".join(platform.libc_ver()), *sorted(features)])


counts, counted_with = count(test_binary()), here()
ratios = {name: counts[name] / counts["parse"] for name in COUNTED[1:]}
if "--record" in sys.argv:
    recorded = {"with": counted_with, "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()}, "instructions": counts}
    RECORDED.write_text(json.dumps(recorded, indent=2) + "\n")
    print(f"recorded: {recorded}")
    sys.exit()

recorded = json.loads(RECORDED.read_text())
same = recorded["with"] == counted_with
tolerance = TOLERANCE if same else TOLERANCE_ELSEWHERE
if not same:
    print(f"recorded with {recorded['with']}, counted with {counted_with}: {tolerance:.0%} more pass; record again")
slower = False
for name, ratio in ratios.items():
    change = ratio / recorded["ratios"][name] - 1
    what = "SLOWER" if change > tolerance else "faster: record it" if change < -tolerance else "as recorded"
    slower |= change > tolerance
    print(f"{name:<7} {counts[name]:>12,} instructions, {ratio:.3f} times the parse, {change:+.2%}: {what}")
print(f"more than {tolerance:.0%} above the record fails")
sys.exit(slower)

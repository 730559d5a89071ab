"""Runs cargo-mutants for `.ci/cargo_mutants` and accounts for each mutant that survives."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ACCEPTED = Path(".ci/mutants_accepted")
WORK = Path("target/cargo-mutants").resolve()
# Each rung is tried on what survives the one before. The names are filters of tests.
RUNGS = {
    "unit tests and 300 schedules": {
        "packages": ["projection-worker", "simulation"],
        "tests": ["--lib", "--", "engine::", "store::", "operations::", "schedules::"],
        # They take 7 s. A mutant that loops costs no more than this.
        "seconds": 60,
    },
    "end to end, without programs": {
        "packages": ["projection-worker"],
        "tests": ["--test", "end_to_end", "--"]
        + ["commands::", "engine::", "operations::", "processes::", "queries::", "sources::", "store::"]
        + ["--skip", "cli::", "--skip", "infrastructure::", "--skip", "lambda::"],
        "seconds": 900,
    },
    "end to end, with programs": {
        "packages": ["projection-worker"],
        # Without those that kill many of them.
        "tests": ["--test", "end_to_end", "--", "cli::", "dev::", "lambda::", "--skip", "lambda::processes::"],
        "seconds": 900,
    },
}
CAUGHT, TIMEOUT, MISSED, UNVIABLE = "CaughtMutant", "Timeout", "MissedMutant", "Unviable"


def cargo_mutants(*arguments, **options):
    return subprocess.run([program, "mutants", *arguments], text=True, **options)


def keys(mutants):
    """A name of each mutant that stays when lines move, by its name with the line: equal ones of a function are counted."""
    without_line = [re.sub(r"^([^:]+):\d+:\d+: ", r"\1: ", mutant["name"]) for mutant in mutants]
    total, seen, found = Counter(without_line), Counter(), {}
    for mutant, key in zip(mutants, without_line):
        seen[key] += 1
        found[mutant["name"]] = key if total[key] == 1 else f"{key} ({seen[key]} of {total[key]})"
    return found


def accepted():
    """The reason for each accepted mutant, by its key."""
    reasons = {}
    for number, line in enumerate(ACCEPTED.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, found, reason = line.partition(" # ")
        if not found or not reason.strip() or key in reasons:
            sys.exit(f"{ACCEPTED}:{number}: each line is MUTANT # REASON, and each mutant stands there once")
        reasons[key] = reason
    return reasons


def run(rung, selected):
    """The outcome of each of these mutants, by its name with the line."""
    output = WORK / "output/mutants.out"
    # What an earlier run left there would be left out of this one as well.
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    # `--iterate` leaves out what this file names. Patterns would not do: cargo-mutants ignores them for fields of structs.
    (output / "caught.txt").write_text("".join(f"{mutant['name']}\n" for mutant in listed if mutant["name"] not in selected))
    # The sources are copied to a temporary folder, so a run that is killed leaves no broken code. The dependencies are built once.
    environment = {"CARGO_TARGET_DIR": str(WORK / "build"), "CARGO_INCREMENTAL": "1", "TEST_SCHEDULES": "300"}
    packages = [argument for package in rung["packages"] for argument in ("--test-package", package)]
    limits = ["--timeout", str(rung["seconds"]), "--build-timeout", "900"]
    arguments = ["--iterate", "--colors", "never", "--output", str(output.parent), *limits, *packages, "--", *rung["tests"]]
    status = cargo_mutants(*arguments, env=os.environ | environment).returncode
    # 2: some survive. 3: some time out.
    if status not in (0, 2, 3):
        sys.exit(f"cargo-mutants failed with {status}: do the tests pass without a mutant?")
    outcomes = json.loads((output / "outcomes.json").read_text())["outcomes"]
    outcomes = {outcome["scenario"]["Mutant"]["name"]: outcome["summary"] for outcome in outcomes if outcome["scenario"] != "Baseline"}
    if outcomes.keys() != selected:
        sys.exit(f"cargo-mutants ran {len(outcomes)} mutants instead of {len(selected)}")
    return outcomes


program, part = sys.argv[1:]
listed = json.loads(cargo_mutants("--list", "--json", stdout=subprocess.PIPE, check=True).stdout)
# A field that is left out is no condition.
conditions = [mutant for mutant in listed if mutant["genre"] != "StructField"]
conditions.sort(key=lambda mutant: (mutant["file"], mutant["span"]["start"]["line"], mutant["span"]["start"]["column"]))
names, reasons = keys(conditions), accepted()
wrong = [f"no mutant any more: {key}" for key in reasons if key not in names.values()]
if part != "list":
    first, parts = (0, 1) if part == "all" else map(int, part.split("/"))
    left = list(names)[first::parts]
    for title, rung in RUNGS.items():
        if not left:
            break
        print(f"\n{title}", flush=True)
        outcomes = run(rung, set(left))
        left = [name for name, outcome in outcomes.items() if outcome == MISSED and names[name] not in reasons]
        counts = Counter(outcomes.values())
        print(
            f"{title}: {len(outcomes)} mutants, {counts[CAUGHT]} caught, {counts[TIMEOUT]} timed out, {counts[UNVIABLE]} do not compile, "
            f"{counts[MISSED] - len(left)} accepted, {len(left)} survive"
        )
        wrong += [
            f"accepted, but a test finds it: {names[name]}"
            for name, outcome in outcomes.items()
            if names[name] in reasons and outcome in (CAUGHT, TIMEOUT)
        ]
    wrong += [f"no test finds it: {name}\n    as {names[name]}" for name in left]
for line in wrong:
    print(line)
if wrong:
    sys.exit("failed: add a test that finds the mutant, or simplify the code. What no test can find, list in .ci/mutants_accepted")
print(f"all holds: {len(names)} mutants in all, {len(reasons)} of them accepted")

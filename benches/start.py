"""Measures the Lambda: its size, how fast and how large it starts beside a bare `lambda_runtime` hello, and the processor time of batches.

    cargo build --release --locked --no-default-features --features lambda,included --bin lambda
    python3 benches/start.py                          N = 100 starts of each, alternating; fails above a limit
    python3 benches/start.py --runs 20 NAME=PATH...   other builds of the Lambda beside each other, without limits
    python3 benches/start.py --cpu [NAME=PATH...]     the processor time of batches; needs a projector, of any profile

A start is the time from exec to the first poll of the Runtime API, which this program stands in for. Memory is the peak (VmHWM) at that
moment. `http` has an address of DynamoDB without TLS; `tls` has none, as on Lambda. The hello has the profile and the versions of this
repository. It is made in target/hello, so that no build of this repository has it.

Batches are of 5,000 events, which `projector generate` makes, for the DynamoDB that `projector serve` keeps in its own process: what is
counted is the Lambda's time alone. The machine is never quiet: compare numbers of one run only, and prefer medians.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAMBDA = ROOT / "target/release/lambda"
HELLO = ROOT / "target/hello"
HELLO_MAIN = """
use lambda_runtime::{Error, LambdaEvent, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(|event: LambdaEvent<serde_json::Value>| async move { Ok::<_, Error>(event.payload) })).await
}
"""

SIZE_MB_MAX = 6.5
MEMORY_MB_MAX = 8.0
# Medians, as multiples of the hello's.
START_MAX = {"http": 1.4, "tls": 2.0}
EVENTS = 5_000


def hello():
    """Builds the hello with our profile and our lock file, and returns its path."""
    ours = tomllib.loads((ROOT / "Cargo.toml").read_text())
    profile = "\n".join(f"{key} = {json.dumps(value)}" for key, value in ours["profile"]["release"].items() if key != "package")
    runtime = ours["dependencies"]["lambda_runtime"]["version"]
    manifest = f"""
[package]
name = "hello"
edition = "2024"

[dependencies]
lambda_runtime = {{ version = "{runtime}", default-features = false }}
serde_json = "1"
tokio = {{ version = "1", features = ["macros", "rt", "time"] }}

[workspace]

[profile.release]
{profile}
"""
    (HELLO / "src").mkdir(parents=True, exist_ok=True)
    for file, text in [("Cargo.toml", manifest), ("src/main.rs", HELLO_MAIN)]:
        if not (HELLO / file).exists() or (HELLO / file).read_text() != text:
            (HELLO / file).write_text(text)
            # Cargo removes from it what the hello does not need.
            shutil.copy(ROOT / "Cargo.lock", HELLO / "Cargo.lock")
    target = HELLO / "target"
    subprocess.run(["cargo", "build", "--quiet", "--release", "--manifest-path", HELLO / "Cargo.toml", "--target-dir", target], check=True)
    return target / "release/hello"


def environment(**more):
    """What Lambda and the template set."""
    tables = re.findall(r"^ +([A-Z_]+_TABLE): !Ref", (ROOT / "infra/template.yaml").read_text(), re.M)
    names = {variable: variable.removesuffix("_TABLE").lower().replace("_", "-") for variable in tables}
    function = {"FUNCTION_NAME": "worker", "FUNCTION_VERSION": "1", "FUNCTION_MEMORY_SIZE": "512", "LOG_STREAM_NAME": "", "LOG_GROUP_NAME": ""}
    of_lambda = {f"AWS_LAMBDA_{name}": value for name, value in function.items()}
    identity = {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    return {**names, **of_lambda, **identity, "AWS_LAMBDA_LOG_LEVEL": "ERROR", **more}


class Runtime:
    """The Runtime API for one process at a time: `start` waits for its first poll, `invoke` for its answer."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(60)

    def start(self, program, env):
        address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        null = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        begun = time.perf_counter()
        self.process = os.posix_spawn(program, [str(program)], {**env, "AWS_LAMBDA_RUNTIME_API": address}, file_actions=null)
        self.connection, _ = self.listener.accept()
        self.poll = self.read()
        return time.perf_counter() - begun

    def read(self):
        """One request, as its first line and its body."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.received()
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        while length and len(body) < int(length[1]):
            body += self.received()
        return head.split(b"\r\n")[0].decode(), body

    def received(self):
        # The runtime may poll on another connection than the one that it answered on.
        part = self.connection.recv(1 << 16)
        while not part:
            self.connection, _ = self.listener.accept()
            part = self.connection.recv(1 << 16)
        return part

    def invoke(self, payload):
        deadline = int((time.time() + 600) * 1000)
        head = f"HTTP/1.1 200 OK\r\nlambda-runtime-aws-request-id: 1\r\nlambda-runtime-deadline-ms: {deadline}\r\n"
        head += f"lambda-runtime-invoked-function-arn: arn\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        self.connection.sendall(head.encode() + payload)
        to, answer = self.read()
        assert to.startswith("POST") and "/response " in to, (to, answer[:500])
        self.connection.sendall(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
        self.poll = self.read()
        return json.loads(answer)

    def memory_mb(self):
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    def stop(self):
        """Ends the process and returns the seconds of processor time that it took."""
        os.kill(self.process, signal.SIGKILL)
        _, _, usage = os.wait4(self.process, 0)
        self.connection.close()
        return usage.ru_utime + usage.ru_stime


def starts(builds, runs):
    """Prints the starts of each build; returns medians in ms and peaks in MB, by what was started."""
    plain, tls = environment(AWS_ENDPOINT_URL="http://127.0.0.1:9"), environment()
    kinds = {"hello": (hello(), tls)}
    for name, program in builds.items():
        kinds[f"{name} http"], kinds[f"{name} tls"] = (program, plain), (program, tls)
    runtime = Runtime()
    seconds, peaks = {kind: [] for kind in kinds}, {kind: 0.0 for kind in kinds}
    # The first three fill the page cache.
    for run in range(-3, runs):
        for kind, (program, env) in kinds.items():
            took = runtime.start(program, env)
            assert "/runtime/invocation/next" in runtime.poll[0], runtime.poll
            if run >= 0:
                seconds[kind].append(took * 1000)
                peaks[kind] = max(peaks[kind], runtime.memory_mb())
            runtime.stop()
    print(f"{'exec to first poll':<24} {'median':>8} {'p90':>8} {'/ hello':>8} {'memory':>9}")
    medians = {kind: statistics.median(all_) for kind, all_ in seconds.items()}
    for kind, all_ in seconds.items():
        p90 = statistics.quantiles(all_, n=10)[-1]
        times = medians[kind] / medians["hello"]
        print(f"{kind:<24} {medians[kind]:>5.2f} ms {p90:>5.2f} ms {times:>8.2f} {peaks[kind]:>6.1f} MB")
    return medians, peaks


def batches(projector, folder):
    subprocess.run([projector, "generate", "--events", str(EVENTS), "--aggregates", "1000", "--out", folder], check=True, stdout=subprocess.DEVNULL)
    return [file.read_bytes() for file in sorted(Path(folder).glob("batch-*.json"))]


def processor_time(builds, projector, rounds):
    with tempfile.TemporaryDirectory() as folder:
        payloads = batches(projector, folder)
        runtime = Runtime()
        seconds = {name: [] for name in builds}
        for _ in range(rounds):
            for name, program in builds.items():
                # Each run gets a DynamoDB of its own, or all but the first would see duplicates.
                serve = subprocess.Popen([projector, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
                url = re.search(r"http://[0-9.:]+", serve.stdout.readline())[0]
                runtime.start(program, environment(AWS_ENDPOINT_URL=url))
                for payload in payloads:
                    answer = runtime.invoke(payload)
                    assert answer == {"batchItemFailures": []}, answer
                peak = runtime.memory_mb()
                seconds[name].append(runtime.stop())
                serve.terminate()
                serve.wait()
    first = statistics.median(next(iter(seconds.values())))
    print(f"{'processor time':<24} {'median':>8} {'least':>8} {'/ first':>8}   of {EVENTS} events in {len(payloads)} batches")
    for name, all_ in seconds.items():
        print(f"{name:<24} {statistics.median(all_):>6.3f} s {min(all_):>6.3f} s {statistics.median(all_) / first:>8.3f}   {peak:.1f} MB at last")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("builds", nargs="*", metavar="NAME=PATH")
    arguments.add_argument("--runs", type=int, default=100)
    arguments.add_argument("--cpu", action="store_true")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--projector", default=ROOT / "target/debug/projector")
    given = arguments.parse_args()
    builds = dict(build.split("=", 1) for build in given.builds) or {"lambda": LAMBDA}
    sizes = {name: os.path.getsize(program) / 1e6 for name, program in builds.items()}
    for name, size in sizes.items():
        print(f"{name:<24} {size:>5.2f} MB")
    if given.cpu:
        return processor_time(builds, given.projector, given.rounds)
    medians, peaks = starts(builds, given.runs)
    if given.builds:
        return None
    checks = [("size in MB", sizes["lambda"], SIZE_MB_MAX)]
    for kind, limit in START_MAX.items():
        checks.append((f"start over {kind}, in hellos", medians[f"lambda {kind}"] / medians["hello"], limit))
        checks.append((f"memory at start over {kind}, in MB", peaks[f"lambda {kind}"], MEMORY_MB_MAX))
    above = [f"{what}: {value:.2f}, limit {limit}" for what, value, limit in checks if value > limit]
    print("\n".join(above) or "all within their limits")
    return bool(above)


if __name__ == "__main__":
    sys.exit(main())

"""Replays 50,000 events of JSON Lines and fails if projector needs too much memory: it must stream a capture, not load it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT_MB = 150
EVENTS = 50_000
PROJECTOR = Path("target/debug/projector")

with tempfile.TemporaryDirectory() as folder:
    generated = Path(folder, "generated")
    subprocess.run([PROJECTOR, "generate", "--events", str(EVENTS), "--aggregates", "1000", "--out", generated], check=True)
    lines = Path(folder, "events.jsonl")
    with lines.open("w") as out:
        for batch in sorted(generated.glob("batch-*.json")):
            for record in json.loads(batch.read_text())["Records"]:
                out.write(json.dumps(record) + "\n")
    size_mb = lines.stat().st_size / 1e6
    arguments = ["--batch-size", "10000", "--show", "0", "--expect", generated / "expected.json"]
    replay = subprocess.Popen([PROJECTOR, "replay", lines, *arguments])
    _, status, usage = os.wait4(replay.pid, 0)
    peak_mb = usage.ru_maxrss / 1024
    print(f"{EVENTS} events, {size_mb:.0f} MB of JSON Lines: peak {peak_mb:.0f} MB of memory, limit {LIMIT_MB} MB")
    sys.exit(status != 0 or peak_mb >= LIMIT_MB)

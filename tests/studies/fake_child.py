"""Stands in for ``python -m stablegrad resume RUN``: the same files and exit codes, without any training.

The run's ``env`` says what it does: "ok", "fail", "crash", "silent", "unsummarised", "slow" (until told to finish) or
"pair" (ends when its partner has started, too).
A number after a colon restricts that to one seed; all others are "ok".
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
behaviour, _, seed = config["env"].partition(":")
if seed and int(seed) != config["seed"]:
    behaviour = "ok"

with (folder / "starts.log").open("a") as file:
    start = {"pid": os.getpid(), "at": time.time()}
    file.write(json.dumps(start) + "\n")


def summarise(status):
    summary = {
        "status": status, "seed": config["seed"], "env_steps": 100, "wall_seconds": 2.0, "steps_per_second": 50.0,
        "final_return": 10.0 * config["seed"] + (5 if config["preset"] == "stable" else 0), "seconds": {"act": 1.0},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


for step in (10, 20):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "wall_seconds": 1.0, "train/return": float(step)}) + "\n")
if behaviour == "fail":
    print("a warning\nstablegrad: environment returned NaN at step 20", file=sys.stderr)
    summarise("failed")
    sys.exit(1)
if behaviour == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "silent":
    sys.exit(1)
if behaviour == "slow":
    while not (folder / "finish").exists():
        time.sleep(0.05)
if behaviour == "pair":
    partner = {"baseline": "stable", "stable": "baseline"}[folder.parent.name]
    deadline = time.monotonic() + 60
    while not (folder.parents[1] / partner / folder.name / "starts.log").exists():
        if time.monotonic() > deadline:
            sys.exit("the partner does not start")
        time.sleep(0.01)
if behaviour != "unsummarised":
    time.sleep(0.3)
    summarise("finished")
    (folder / "ended").write_text(str(time.time()))

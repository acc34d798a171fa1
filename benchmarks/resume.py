"""Exact resume: runs killed with -9 at random moments, resumed, and compared bit for bit.

    python benchmarks/resume.py [--kills 20] [--seed 0]

Each run is a process of its own, killed after a time drawn over the whole length of the undisturbed run, imports
included, and resumed until it ends. After every kill all checkpoints on the disk are read.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from common import save
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.config import RunConfig, default_run
from stablegrad.training.run_folder import RunFolder

#: (algorithm, environment, setting, steps): runs of 20 checkpoints, some 20 seconds long.
RUNS = {
    "pqn stable": ("pqn", "LunarLander-v3", "stable", 40_000),
    "pqn": ("pqn", "CartPole-v1", "baseline", 40_000),
    "dqn": ("dqn", "CartPole-v1", "baseline+buffer_size=2000+torso.width=64+batch_size=32", 10_000),
    "dqn n-step": ("dqn", "LunarLander-v3", "kron+n_step=3+buffer_size=2000+torso.width=64+batch_size=32", 10_000),
    "rainbow": ("rainbow", "CartPole-v1", "baseline+buffer_size=2000+torso.width=64+batch_size=32", 10_000),
    "sac": ("sac", "Pendulum-v1", "baseline+torso.width=64+batch_size=64+learning_starts=300", 5_000),
}


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    kills: int = 20
    """Runs to kill."""
    seed: int = 0
    """Draws the moments."""


def start(folder: RunFolder) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "stablegrad", "resume", str(folder.path), "--quiet"], stdout=subprocess.DEVNULL
    )


def config(name: str) -> RunConfig:
    algorithm, env, setting, steps = RUNS[name]
    run = default_run(algorithm, env, setting)
    return dataclasses.replace(run, total_steps=steps, checkpoint_every=steps // 20, threads=1, keep_checkpoints=3)


def final_weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_checkpoint(list_checkpoints(folder.checkpoints_path)[-1])[0]


def main() -> None:
    arguments = tyro.cli(Arguments)
    moments = random.Random(arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        reference = {}
        for name in RUNS:
            folder = RunFolder.create(Path(scratch) / f"{name}-undisturbed", config(name).to_json())
            began = time.perf_counter()
            assert start(folder).wait() == 0
            reference[name] = (final_weights(folder), time.perf_counter() - began)
        for number in range(arguments.kills):
            name = list(RUNS)[number % len(RUNS)]
            weights, seconds = reference[name]
            folder = RunFolder.create(Path(scratch) / f"{name}-{number}", config(name).to_json())
            process = start(folder)
            moment = moments.uniform(0, seconds)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            checkpoints = list_checkpoints(folder.checkpoints_path)
            for path in checkpoints:
                load_checkpoint(path)
            resumed_from = checkpoints[-1].name if checkpoints else "the start"
            assert start(folder).wait() == 0
            after = final_weights(folder)
            equal = all(torch.equal(after[name], tensor) for name, tensor in weights.items())
            rows.append(
                {
                    "run": name,
                    "killed_after_seconds": round(moment, 2),
                    "resumed_from": resumed_from,
                    "equal": equal,
                }
            )
            print(
                f"{number + 1}: {name} killed after {moment:.1f} s, resumed from {resumed_from}: equal {equal}",
                flush=True,
            )
    equal = sum(row["equal"] for row in rows)
    print(f"{equal} of {len(rows)} equal bit for bit")
    save("resume", f"python benchmarks/resume.py {' '.join(sys.argv[1:])}".strip(), {"equal": equal, "kills": rows})


if __name__ == "__main__":
    main()

"""Studies on one machine: what a second worker gains, what scheduling costs, and what killing does not change.

    python benchmarks/study_executor.py [--seeds 12] [--epochs 60] [--kills 10]

A study of short runs, one thread each: by one worker and by two, each in a new process, imports included; then by two
workers, of which one is killed with -9 at random moments ``kills`` times; then the process that runs the study is
killed at a random moment, and the study resumed. Results and final weights are compared with the undisturbed study's,
bit for bit. Scheduling is the study's time over the sum of its runs' own, with one worker.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from common import save
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.studies.runner import run_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint

NAME = "study_executor"
STUDY = """
seeds = {seeds}
report = ["relearning.mean_final_accuracy", "gradients/norm"]
[base]
algorithm = "relearn"
epochs = {epochs}
reshuffle_every = 10
batch_size = 32
checkpoint_every = 3
width = 64
[axes]
setting = [{{name = "baseline"}}, {{name = "stable", preset = "stable"}}]
"""


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    seeds: int = 12
    """Seeds of the study; it has two settings."""
    epochs: int = 60
    """Epochs of a run; the longer it is, the less the study's start-up counts."""
    kills: int = 10
    """Workers to kill."""
    seed: int = 0
    """Draws the moments."""


class Killer(LocalExecutor):
    """Kills a running worker with -9 at random moments, so many times."""

    def __init__(self, kills: int, within: float, moments: random.Random):
        super().__init__()
        self.left, self.within, self.moments = kills, within, moments
        self.next = time.monotonic() + moments.uniform(0, within)

    def ended(self, timeout: float) -> Mapping[Path, int]:
        """What has ended, one more being killed now and then."""
        running = list(self.pids().values())
        if self.left and running and time.monotonic() >= self.next:
            os.kill(self.moments.choice(running), signal.SIGKILL)
            self.left -= 1
            self.next = time.monotonic() + self.moments.uniform(0, self.within)
        return super().ended(min(timeout, 0.02))


def command(file: Path, folder: Path, workers: int) -> list[str]:
    arguments = ["study", "run", str(file), "--dir", str(folder), "--workers", str(workers), "--quiet"]
    return [sys.executable, "-m", "stablegrad", *arguments]


def seconds_of(file: Path, folder: Path, workers: int) -> float:
    started = time.perf_counter()
    subprocess.run(command(file, folder, workers), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def same(one: StudyFolder, other: StudyFolder) -> bool:
    """Whether results and final weights of two studies are equal, bit for bit."""
    if one.results_path.read_bytes() != other.results_path.read_bytes():
        return False
    for run in one.study.runs:
        ours, theirs = (
            load_checkpoint(list_checkpoints(folder.run_folder(run).checkpoints_path)[-1])[0] for folder in (one, other)
        )
        if not all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()):
            return False
    return True


def main() -> None:
    arguments = tyro.cli(Arguments)
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        file = scratch / "executor.toml"
        file.write_text(STUDY.format(seeds=[*range(1, arguments.seeds + 1)], epochs=arguments.epochs))
        one, two = (seconds_of(file, scratch / f"workers-{workers}", workers) for workers in (1, 2))
        undisturbed = StudyFolder.read(scratch / "workers-1")
        runs = undisturbed.study.runs
        summaries = [json.loads(undisturbed.run_folder(run).summary_path.read_text()) for run in runs]
        own = sum(summary["wall_seconds"] for summary in summaries)
        result = {
            "runs": len(runs),
            "seconds_of_a_run": own / len(runs),
            "seconds_one_worker": one,
            "seconds_two_workers": two,
            "speedup": one / two,
            "scheduling_seconds_a_run": (one - own) / len(runs),
            "equal_with_two_workers": same(undisturbed, StudyFolder.read(scratch / "workers-2")),
        }
        print(
            f"{len(runs)} runs of {own / len(runs):.1f} s: one worker {one:.0f} s, two {two:.0f} s, {one / two:.2f} x"
        )
        print(f"scheduling, start-up included: {result['scheduling_seconds_a_run']:.2f} s a run")

        disturbed = StudyFolder.open(scratch / "killed", undisturbed.study, file)
        killer = Killer(arguments.kills, two / arguments.kills, moments)
        summary = run_study(disturbed, killer, 2)
        result["workers_killed"] = arguments.kills - killer.left
        result["equal_after_workers_killed"] = summary["failed"] == 0 and same(undisturbed, disturbed)
        print(f"{result['workers_killed']} workers killed: equal {result['equal_after_workers_killed']}")

        driver = subprocess.Popen(command(file, scratch / "driver", 2), stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.3, 0.8) * two)
        driver.kill()
        driver.wait()
        result["finished_when_driver_was_killed"] = sum(
            StudyFolder.read(scratch / "driver").run_folder(run).summary_path.exists() for run in runs
        )
        seconds_of(file, scratch / "driver", 2)
        result["equal_after_driver_killed"] = same(undisturbed, StudyFolder.read(scratch / "driver"))
        print(
            f"driver killed with {result['finished_when_driver_was_killed']} of {len(runs)} runs finished, resumed: "
            f"equal {result['equal_after_driver_killed']}"
        )
    save(NAME, f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(), result)


if __name__ == "__main__":
    main()

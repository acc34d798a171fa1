"""Breakout at the paper's settings for 1M agent steps, both presets at small size.

    python benchmarks/breakout.py [--precision fp32] [--total-steps 1000000] [--seed 1] [--dir runs/breakout]

128 environments x 32 steps, 32 minibatches, 2 epochs. A random agent scores 1.7. Scores during training are of whole
games in raw points. The two presets run side by side with one thread each, so the steps/s here are those of half a
machine; benchmarks/on_policy_speed.py has the speed of a run alone. Stopped and started again, it goes on.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import kept, save
from stablegrad.training.config import RunConfig, default_run
from stablegrad.training.run_folder import RunFolder


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    precision: str = "fp32"
    """fp32 or bf16."""
    total_steps: int = 1_000_000
    """Agent steps of each run."""
    seed: int = 1
    """Seed of both runs."""
    dir: Path = Path("runs/breakout")
    """Where the runs lie."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    folders, processes = {}, []
    for preset in ("baseline", "stable"):
        run = default_run("pqn", "Breakout-v5", f"{preset}+precision={arguments.precision}")
        run = dataclasses.replace(
            run, total_steps=arguments.total_steps, seed=arguments.seed, threads=1, eval_episodes=16
        )
        folders[preset] = RunFolder(arguments.dir / preset)
        if not folders[preset].config_path.exists():
            RunFolder.create(arguments.dir / preset, run.to_json())
        elif RunConfig.from_json(folders[preset].read_config()) != run:
            sys.exit(f"{arguments.dir / preset} holds a run with other settings; name another --dir")
        command = [sys.executable, "-m", "stablegrad", "resume", str(arguments.dir / preset)]
        processes.append(subprocess.Popen(command))
    codes = [process.wait() for process in processes]
    runs = {preset: kept(folder) for preset, folder in folders.items() if folder.read_summary() is not None}
    for preset, run in runs.items():
        total = sum(run["seconds"].values())
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in run["seconds"].items() if seconds)
        print(f"{preset}: return {run['final_return']:.1f}, {run['steps_per_second']:.0f} steps/s ({shares})")
    save("breakout", f"python benchmarks/breakout.py {' '.join(sys.argv[1:])}".strip(), {"runs": runs})
    if any(codes):
        sys.exit("a run did not finish; the same command goes on")


if __name__ == "__main__":
    main()

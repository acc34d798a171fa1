"""What Kron costs in whole PQN trainings on Breakout, environments included, beside RAdam.

    python benchmarks/pqn_cost.py [--sizes small large] [--rounds 3] [--rollouts 3]

The presets ``baseline`` and ``kron`` (RAdam and Kron, the same network) at the paper's settings, on all cores, in
turns. Kron's warm-up is shortened to 10 steps, so that what is timed, the rollouts after the first, is the long run:
one step in ten refreshes. A whole run has about 220 refreshes more than that, whatever its length.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from common import save
from stablegrad.training.config import default_run
from stablegrad.training.interaction import train
from stablegrad.training.run_folder import RunFolder

PRESETS = {"RAdam": "baseline", "Kron": "kron+optimizer.kron.refresh_warmup=10"}


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    sizes: tuple[str, ...] = ("small", "large")
    """Depth and width of the torso."""
    rounds: int = 3
    """Runs of each optimizer at each size."""
    rollouts: int = 3
    """Timed rollouts of 128 x 32 steps in each run, after one that is not."""


def seconds_a_rollout(preset: str, size: str, rollouts: int) -> float:
    """Mean of the timed rollouts: acting, environments, 64 updates."""
    run = default_run("pqn", "Breakout-v5", f"{preset}+torso.depth={size}+torso.width={size}")
    rollout = run.agent.num_envs * run.agent.num_steps
    # A line of metrics a rollout. Rows that only carry a reset are not steps, so a rollout has a few less than rows.
    run = dataclasses.replace(run, total_steps=rollouts * rollout, log_every=1, checkpoint_every=10**9)
    with tempfile.TemporaryDirectory() as scratch:
        train(run, Path(scratch) / "run", quiet=True)
        rows = RunFolder(Path(scratch) / "run").read_metrics()
    return float(rows[rollouts]["wall_seconds"] - rows[0]["wall_seconds"]) / rollouts


def main() -> None:
    arguments = tyro.cli(Arguments)
    sizes: dict[str, Any] = {}
    command = f"python benchmarks/pqn_cost.py {' '.join(sys.argv[1:])}".strip()
    for size in arguments.sizes:
        seconds: dict[str, list[float]] = {name: [] for name in PRESETS}
        for _ in range(arguments.rounds):
            for name, preset in PRESETS.items():
                seconds[name].append(seconds_a_rollout(preset, size, arguments.rollouts))
            print(f"{size}: " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items()), flush=True)
            ratios = [kron / radam for radam, kron in zip(*seconds.values(), strict=True)]
            sizes[size] = {"seconds_a_rollout": seconds, "ratios": ratios, "median_ratio": statistics.median(ratios)}
            save("pqn_cost", command, {"sizes": sizes}, quiet=True)
        print(
            f"{size}: Kron takes {sizes[size]['median_ratio']:.3f} times RAdam's time a rollout "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()

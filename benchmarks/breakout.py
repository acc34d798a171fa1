"""Breakout at the paper's settings for 1M agent steps, both presets at small size.

    python benchmarks/breakout.py [--precision fp32] [--total-steps 1000000] [--seed 1]

128 environments x 32 steps, 32 minibatches, 2 epochs. A random agent scores 1.7. Scores during training are of whole
games in raw points. The two presets run side by side with one thread each, so the steps/s here are those of a half of
the machine that is shared with the other run; benchmarks/cleanrl_speed.py has the speed of a run alone.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

import tyro
from common import save, train_all

from stablegrad.training.config import default_run


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    precision: str = "fp32"
    """fp32 or bf16."""
    total_steps: int = 1_000_000
    """Agent steps of each run."""
    seed: int = 1
    """Seed of both runs."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    configs = {}
    for preset in ("baseline", "stable"):
        run = default_run("Breakout-v5", f"{preset}+precision={arguments.precision}")
        configs[preset] = dataclasses.replace(
            run, total_steps=arguments.total_steps, seed=arguments.seed, threads=1, eval_episodes=16
        )
    results = train_all(configs)
    for preset, result in results.items():
        total = sum(result["seconds"].values())
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in result["seconds"].items() if seconds)
        print(f"{preset}: return {result['final_return']:.1f}, {result['steps_per_second']:.0f} steps/s ({shares})")
    save("breakout", f"python benchmarks/breakout.py {' '.join(sys.argv[1:])}".strip(), {"runs": results})


if __name__ == "__main__":
    main()

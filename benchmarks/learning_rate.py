"""Which learning rate Kron needs, as a multiple of RAdam's, on a small and on a large network.

    python benchmarks/learning_rate.py [--seeds 3] [--workers 2]

PQN on LunarLander for 200k steps with torsos 128 wide: the 4-layer MLP and the multi-skip torso of 10 blocks.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

import tyro

from common import PQN_64X16, over_seeds, save, train_all
from stablegrad.training.config import RunConfig, default_run

NETWORKS = {
    "4 layers": "torso.kind=mlp+torso.depth=small+torso.width=128",
    "10 blocks": "torso.kind=multi_skip+torso.depth=xlarge+torso.width=128",
}
RATIOS = {"1/3": 1 / 3, "1": 1.0, "3": 3.0}
BASE_RATE = 5e-4
STEPS = 200_000


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    seeds: int = 3
    """Seeds of every cell."""
    workers: int = 2
    """Runs at once."""


def config(network: str, optimizer: str, ratio: str, seed: int) -> RunConfig:
    rate = BASE_RATE * RATIOS[ratio]
    setting = f"baseline{PQN_64X16}+{NETWORKS[network]}+optimizer.name={optimizer}+optimizer.learning_rate={rate}"
    return dataclasses.replace(default_run("pqn", "LunarLander-v3", setting), total_steps=STEPS, seed=seed, threads=1)


def main() -> None:
    arguments = tyro.cli(Arguments)
    cells = [(network, optimizer, ratio) for network in NETWORKS for optimizer in ("radam", "kron") for ratio in RATIOS]
    configs = {
        f"{', '.join(cell)}, seed {seed}": config(*cell, seed)
        for seed in range(1, arguments.seeds + 1)
        for cell in cells
    }
    results = train_all(configs, arguments.workers)
    table = {}
    for cell in cells:
        names = [f"{', '.join(cell)}, seed {seed}" for seed in range(1, arguments.seeds + 1)]
        table[", ".join(cell)] = result = over_seeds(results, names)
        low, high = result["interval"]
        print(f"{', '.join(cell)} x {BASE_RATE}: {result['mean']:.1f} [{low:.1f}, {high:.1f}]")
    command = f"python benchmarks/learning_rate.py {' '.join(sys.argv[1:])}".strip()
    save("learning_rate", command, {"base_rate": BASE_RATE, "total_steps": STEPS, "cells": table})


if __name__ == "__main__":
    main()

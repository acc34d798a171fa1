"""What priorities add to a replay of a million transitions: to a batch, to a step, in memory.

    python benchmarks/prioritised.py [--transitions 1000000] [--rounds 300]

One thread, times of the process's own. Batches are 256 transitions of state vectors of 8 numbers, so that what is timed
is the sampling and not the copy of pictures (``benchmarks/replay.py`` has that). ``tree_ms`` is what the priorities
alone take of a batch: drawing places in the sum tree, and giving them new priorities. ``add_us`` is a step of 64
environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import tyro

from common import save
from replay import BATCH, median_ms
from stablegrad.agents.prioritised import PrioritisedReplay
from stablegrad.agents.replay import Replay
from stablegrad.agents.sum_tree import SumTree
from stablegrad.environments import EpisodeStatistics, StepResult

NUM_ENVS, FEATURES, EPISODE = 64, 8, 200


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    transitions: int = 1_000_000
    """Capacity of the replays."""
    rounds: int = 300
    """Timed batches; medians are reported."""


def step(number: int) -> StepResult:
    observation = np.full((NUM_ENVS, FEATURES), number, np.float32)
    terminated, no = np.full(NUM_ENVS, number % EPISODE == EPISODE - 1), np.zeros(NUM_ENVS, bool)
    valid = np.full(NUM_ENVS, number % EPISODE != 0)
    nothing = EpisodeStatistics(no, np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, np.int64))
    return StepResult(observation, np.ones(NUM_ENVS, np.float32), terminated, no, valid, nothing)


def main() -> None:
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    options = {"discount": 0.99, "n_step": 3, "device": "cpu"}
    shape = (arguments.transitions, NUM_ENVS, (FEATURES,), torch.float32)
    uniform, prioritised = Replay(*shape, **options), PrioritisedReplay(*shape, **options, exponent=0.5)
    generator, action = torch.Generator().manual_seed(0), np.zeros(NUM_ENVS, np.int64)
    results: dict[str, dict[str, float]] = {}
    for name, replay in (("uniform", uniform), ("prioritised", prioritised)):
        replay.begin(np.zeros((NUM_ENVS, FEATURES), np.float32))
        for number in range(1, arguments.transitions // NUM_ENVS + 1000):
            replay.add(action, step(number))
        add_ms = median_ms(partial(replay.add, action, step(1)), 1000)
        results[name] = {"transitions": len(replay), "add_us": round(1e3 * add_ms, 1)}

    def batch() -> None:
        drawn = prioritised.sample_prioritised(BATCH, 0.4, generator)
        prioritised.prioritise(drawn.place, torch.rand(BATCH, generator=generator))

    for _ in range(1000):
        batch()  # so that priorities are spread out
    results["uniform"]["batch_ms"] = median_ms(lambda: uniform.sample(BATCH, generator), arguments.rounds)
    results["prioritised"]["batch_ms"] = median_ms(batch, arguments.rounds)
    tree, random = SumTree(arguments.transitions), np.random.default_rng(0)
    tree.load(random.exponential(size=arguments.transitions).astype(np.float32))
    weights = random.exponential(size=BATCH)
    results["prioritised"]["tree_ms"] = median_ms(
        lambda: tree.set(tree.find(random.random(BATCH) * tree.total), weights), arguments.rounds
    )
    results["prioritised"]["priority_bytes"] = SumTree.bytes_needed(arguments.transitions)
    for name, result in results.items():
        print(name, result)
    save("prioritised", "python benchmarks/prioritised.py", {"results": results})


if __name__ == "__main__":
    main()

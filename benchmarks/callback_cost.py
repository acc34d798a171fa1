"""What ``DiagnosisCallback()`` costs an off-policy agent of Stable-Baselines3 that updates after every step.

    python benchmarks/callback_cost.py [--rounds 5] [--steps 5000]

DQN (one update a step) and SAC train with the callback and without, in turns in one process of one thread; times are
the process's own. Each pair starts from the same seed, and its weights are compared bit for bit.
"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from stable_baselines3 import DQN, SAC

from common import save
from stablegrad.hardware import denormals_flushed
from stablegrad.integrations.sb3 import DiagnosisCallback


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    rounds: int = 5
    """Pairs of trainings; medians are reported."""
    steps: int = 5000
    """Environment steps of DQN, with as many updates; SAC takes a fifth."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    agents = {
        "DQN CartPole-v1": (
            lambda seed: DQN("MlpPolicy", "CartPole-v1", learning_starts=100, train_freq=1, seed=seed, device="cpu"),
            arguments.steps,
        ),
        "SAC Pendulum-v1": (
            lambda seed: SAC("MlpPolicy", "Pendulum-v1", seed=seed, device="cpu"),
            arguments.steps // 5,
        ),
    }
    results: dict[str, Any] = {}
    for name, (make, steps) in agents.items():
        make(0).learn(300)  # warm up
        ratios, shares = [], []
        for seed in range(arguments.rounds):
            order = (False, True) if seed % 2 else (True, False)
            seconds, weights = {}, {}
            for watched in order:
                agent = make(seed)
                callback = DiagnosisCallback() if watched else None
                with denormals_flushed():
                    start = time.process_time()
                    agent.learn(steps, callback=callback)
                    seconds[watched] = time.process_time() - start
                weights[watched] = [one.detach().clone() for one in agent.policy.parameters()]
                if callback is not None:
                    shares.append(callback.monitor.seconds / seconds[watched])
            assert all(torch.equal(a, b) for a, b in zip(weights[True], weights[False], strict=True)), "bits differ"
            ratios.append(seconds[True] / seconds[False])
        results[name] = {"steps": steps, "ratios": ratios, "median": statistics.median(ratios), "told": shares}
        print(
            f"{name}, {steps} steps: {statistics.median(ratios):.3f} times the time without "
            f"({min(ratios):.3f} to {max(ratios):.3f}); the monitor says {statistics.median(shares):.1%}",
            flush=True,
        )
    save("callback_cost", "python benchmarks/callback_cost.py", {"results": results})


if __name__ == "__main__":
    main()

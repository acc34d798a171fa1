"""Verdicts on agents of Stable-Baselines3 that learn: none should be called collapsing.

    python benchmarks/sb3_verdicts.py [--agents "PPO zoo" A2C] [--seeds 2] [--workers 2]

On CartPole and Pendulum, at the package's defaults and, "zoo", at rl-baselines3-zoo's for CartPole. What has been
measured is kept in results/sb3_verdicts.json and not run again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sb3_contrib
import stable_baselines3
import torch
import tyro
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from common import measure
from stablegrad.diagnostics import LEVELS
from stablegrad.hardware import denormals_flushed
from stablegrad.integrations.sb3 import DiagnosisCallback


def falling(start: float) -> Callable[[float], float]:
    """A schedule that falls linearly to 0."""
    return lambda left: left * start


#: (algorithm, environment, number of environments, steps, options)
AGENTS: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "PPO": ("PPO", "CartPole-v1", 1, 40_000, {}),
    "PPO zoo": (
        *("PPO", "CartPole-v1", 8, 60_000),
        {"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0},
    ),
    "A2C": ("A2C", "CartPole-v1", 1, 60_000, {}),
    "DQN": ("DQN", "CartPole-v1", 1, 60_000, {}),
    "DQN zoo": (
        *("DQN", "CartPole-v1", 1, 50_000),
        {"learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000}
        | {"target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16}
        | {"exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]}},
    ),
    "TRPO": ("TRPO", "CartPole-v1", 1, 40_000, {}),
    "RecurrentPPO": ("RecurrentPPO", "CartPole-v1", 1, 10_000, {}),
    "SAC": ("SAC", "Pendulum-v1", 1, 6000, {}),
    "TD3": ("TD3", "Pendulum-v1", 1, 6000, {}),
    "DDPG": ("DDPG", "Pendulum-v1", 1, 6000, {}),
    "TQC": ("TQC", "Pendulum-v1", 1, 4000, {}),
}


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    agents: tuple[str, ...] = tuple(AGENTS)
    """Which agents."""
    seeds: int = 1
    """Trainings of each."""
    workers: int = 2
    """Trainings at once, one thread each."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    jobs = {f"{name} seed {seed}": (run, (name, seed)) for name in arguments.agents for seed in range(arguments.seeds)}
    runs = measure("sb3_verdicts", "python benchmarks/sb3_verdicts.py", jobs, arguments.workers)
    bad = [name for name, one in runs.items() if one["verdict"] in LEVELS[2:]]
    print(f"{len(bad)} of {len(runs)} are called collapsing or collapsed {bad or ''}")


def run(name: str, seed: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    algorithm, env_id, environments, steps, options = AGENTS[name]
    if name == "PPO zoo":
        options = options | {"learning_rate": falling(1e-3), "clip_range": falling(0.2)}
    make = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    policy = "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"
    with denormals_flushed():
        agent = make(policy, make_vec_env(env_id, environments, seed=seed), seed=seed, device="cpu", **options)
        callback = DiagnosisCallback(warn=False)
        agent.learn(steps, callback=callback)
        score = float(evaluate_policy(agent, agent.get_env(), 10)[0])
    report = callback.report()
    rules = sorted({f"{finding.rule} ({finding.level})" for finding in report.findings})
    shown = f"return {score:.0f} after {steps:,} steps, {report.verdict} {', '.join(rules)}"
    return {"score": score, "steps": steps, "verdict": report.verdict, "rules": rules, "shown": shown}


if __name__ == "__main__":
    main()

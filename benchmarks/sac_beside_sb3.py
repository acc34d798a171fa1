"""SAC on HalfCheetah beside Stable-Baselines3's: the same environment, steps, networks, batch and updates.

    python benchmarks/sac_beside_sb3.py [--steps 25000] [--seeds 3] [--workers 2]

Both step envpool's HalfCheetah-v4, one environment, and learn once a step after the same random steps, at the published
settings, which are the same. The returns are those of greedy episodes on fresh environments after training, by the same
code. Run in turns, one thread each.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from common import measure
from stablegrad.environments import environment_seeds, environment_spec, make_vector_env
from stablegrad.studies.statistics import mean_interval
from stablegrad.training.config import default_run
from stablegrad.training.evaluation import evaluate
from stablegrad.training.interaction import train

ENV = "HalfCheetah-v4"
LEARNING_STARTS = 5_000
EPISODES = 16


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    steps: int = 25_000
    """Environment steps of a run."""
    seeds: int = 3
    """Seeds of each side."""
    workers: int = 2
    """Runs at once."""


class SingleEnv(gymnasium.Env):
    """One of our environments as gymnasium's: the row that only carries a reset is stepped in ``reset``."""

    def __init__(self, env_id: str, seed: int):
        self._env = make_vector_env(env_id, 1, seeds=environment_seeds(seed, 0, 1))
        spec = self._env.spec
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, spec.observation_shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action_space.size,), np.float32)
        self._started = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The first observation of the next episode; seeds are those of the environment."""
        if not self._started:
            self._started = True
            return self._env.reset()[0], {}
        result = self._env.step(np.zeros((1, *self.action_space.shape), np.float32))
        assert not result.valid[0], "reset in the middle of an episode"
        return result.observation[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step, an action of [-1, 1]."""
        result = self._env.step(action[None])
        reward = float(result.reward[0])
        return result.observation[0], reward, bool(result.terminated[0]), bool(result.truncated[0]), {}


def stable_baselines3(steps: int, seed: int) -> dict[str, Any]:
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    agent = SAC(
        "MlpPolicy",
        SingleEnv(ENV, seed),
        learning_starts=LEARNING_STARTS,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )
    began = time.perf_counter()
    agent.learn(steps)
    seconds = time.perf_counter() - began
    result = evaluate(lambda seen: agent.predict(seen, deterministic=True)[0], ENV, episodes=EPISODES, seed=seed)
    return _kept(result["mean_return"], seconds)


def stablegrad(steps: int, seed: int) -> dict[str, Any]:
    run = default_run("sac", ENV, f"baseline+learning_starts={LEARNING_STARTS}")
    run = dataclasses.replace(run, total_steps=steps, seed=seed, threads=1, eval_episodes=EPISODES)
    # Stable-Baselines3 keeps its episodes; ours are cut at checkpoints, so there is one at the end alone.
    run = dataclasses.replace(run, checkpoint_every=steps)
    with tempfile.TemporaryDirectory() as folder:
        summary = train(run, Path(folder) / "run", quiet=True)
    return _kept(summary["evaluation"]["mean_return"], summary["wall_seconds"])


def _kept(mean_return: float, seconds: float) -> dict[str, Any]:
    return {"return": mean_return, "seconds": round(seconds, 1), "shown": f"{mean_return:.0f}, {seconds:.0f} s"}


def main() -> None:
    arguments = tyro.cli(Arguments)
    environment_spec(ENV)
    jobs = {}
    for seed in range(1, arguments.seeds + 1):
        for name, function in (("stablegrad", stablegrad), ("stable_baselines3", stable_baselines3)):
            jobs[f"{name}, {arguments.steps} steps, seed {seed}"] = (function, (arguments.steps, seed))
    command = f"python benchmarks/sac_beside_sb3.py {' '.join(sys.argv[1:])}".strip()
    runs = measure("sac_beside_sb3", command, jobs, arguments.workers)
    for name in ("stablegrad", "stable_baselines3"):
        returns = [one["return"] for key, one in runs.items() if key.startswith(f"{name}, {arguments.steps} ")]
        interval = mean_interval(returns)
        low, high = interval.interval
        print(f"{name}: {interval.mean:.0f} [{low:.0f}, {high:.0f}] of {len(returns)} seeds")


if __name__ == "__main__":
    main()

"""Returns of uniformly random play in the common tasks with discrete actions, for the page for those who decide.

    python benchmarks/random_returns.py

writes ``src/stablegrad/environments/random_returns.json``: for each task the mean return, its
standard error and the number of episodes. (CliffWalking is left out: random play hardly ever ends there.)
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np

from stablegrad.environments import environment_seeds, make_vector_env

TASKS = (
    "Acrobot-v1",
    "Blackjack-v1",
    "CartPole-v0",
    "CartPole-v1",
    "FrozenLake-v1",
    "FrozenLake8x8-v1",
    "LunarLander-v3",
    "MountainCar-v0",
    "Taxi-v3",
)
EPISODES = 1000
NUM_ENVS = 50
SEED = 0
OUTPUT = Path(__file__).parents[1] / "src/stablegrad/environments/random_returns.json"


def random_returns(env_id: str) -> list[float]:
    """Returns of ``EPISODES`` whole episodes, the same number from every environment."""
    generator = np.random.default_rng(SEED)
    returns: list[list[float]] = [[] for _ in range(NUM_ENVS)]
    quota = EPISODES // NUM_ENVS
    with closing(make_vector_env(env_id, NUM_ENVS, seeds=environment_seeds(SEED, 0, NUM_ENVS))) as env:
        env.reset()
        while min(map(len, returns)) < quota:
            result = env.step(generator.integers(env.spec.action_space.n, size=NUM_ENVS))
            for index in np.flatnonzero(result.episode.finished):
                returns[index].append(float(result.episode.returns[index]))
    return [one for own in returns for one in own[:quota]]


def main() -> None:
    table = {}
    for task in TASKS:
        values = np.array(random_returns(task))
        error = values.std(ddof=1) / np.sqrt(len(values))
        table[task] = {"mean": round(float(values.mean()), 4), "error": round(float(error), 4), "episodes": len(values)}
        print(f"{task}: {values.mean():.2f} +- {error:.2f}")
    OUTPUT.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()

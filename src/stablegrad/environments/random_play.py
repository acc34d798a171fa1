"""Observations of random policies, one after the other: what an agent may see as its own policy changes."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from stablegrad.environments.contract import Discrete
from stablegrad.environments.make import make_vector_env
from stablegrad.environments.seeds import environment_seeds

#: How evenly a policy draws its actions, the Dirichlet distribution's parameter, and how often it draws anew.
EVENNESS, DRAWS = 0.5, 0.25


def random_play(
    env: str, phases: int, *, steps: int = 64, rows: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Play with as many random policies as phases, each of which prefers actions of its own.

    Args:
        env: the environment's name.
        phases: how many policies; each goes on where the last one stopped.
        steps: of a phase.
        rows: environments side by side.
        seed: of environments and policies.

    Returns:
        observations [phases, steps, rows, ...], and bool [phases, steps, rows]: no observation of the same episode
        follows, as it ended or the phase did.

    Raises:
        UsageError: as of ``make_vector_env``.
    """
    generator = np.random.default_rng(seed)
    observations, ended = [], np.zeros((phases, steps, rows), bool)
    with closing(make_vector_env(env, rows, seeds=environment_seeds(seed, 0, rows))) as envs:
        envs.reset()
        space = envs.spec.action_space
        size = space.n if isinstance(space, Discrete) else len(space.low)
        for phase in range(phases):
            preferred = generator.dirichlet(np.full(size, EVENNESS), rows)
            middle = generator.uniform(-1, 1, (rows, size))
            action = None
            for step in range(steps):
                if isinstance(space, Discrete):
                    # The first place whose cumulated probability exceeds a uniform number.
                    drawn = (preferred.cumsum(1) > generator.random((rows, 1))).argmax(1)
                else:
                    drawn = np.clip(middle + 0.5 * generator.standard_normal((rows, size)), -1, 1)
                anew = generator.random(rows) < DRAWS
                action = (
                    drawn if action is None else np.where(anew if drawn.ndim == 1 else anew[:, None], drawn, action)
                )
                result = envs.step(action)
                observations.append(result.observation)
                ended[phase, step] = result.terminated | result.truncated
    ended[:, -1] = True
    return np.stack(observations).reshape(phases, steps, *observations[0].shape), ended

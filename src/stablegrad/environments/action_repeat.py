"""Action repeat: each action is taken several times, and its rewards are summed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from stablegrad.environments.actions import check_actions
from stablegrad.environments.contract import EnvironmentSpec, EpisodeStatistics, StepResult, VectorEnv
from stablegrad.errors import EnvironmentFault, UsageError


def repeated_spec(spec: EnvironmentSpec, action_repeat: int) -> EnvironmentSpec:
    """The description of an environment in which each action is taken ``action_repeat`` times.

    Raises:
        UsageError: fewer than one time, or an Atari game, which has ``frame_skip``.
    """
    if isinstance(action_repeat, bool) or not isinstance(action_repeat, int) or action_repeat < 1:
        raise UsageError(f"action_repeat must be a whole number of at least 1, got {action_repeat!r}")
    if action_repeat > 1 and spec.atari_game is not None:
        raise UsageError(
            f"action_repeat is not for Atari games such as {spec.env_id!r}; use the Atari option frame_skip"
        )
    if action_repeat == 1 or spec.max_episode_steps is None:
        return spec
    return dataclasses.replace(spec, max_episode_steps=-(-spec.max_episode_steps // action_repeat))


class ActionRepeat:
    """A ``VectorEnv`` that takes each action ``action_repeat`` times.

    A repeat stops where the episode ends, and that row carries the true last observation. So sub-environments do
    unequal numbers of engine steps, and each is a vector environment of its own.

    Args:
        parts: the sub-environments, each a ``VectorEnv`` of one environment.
        action_repeat: how often each action is taken.

    Raises:
        UsageError: see ``repeated_spec``.
        EnvironmentFault: the sub-environments differ.
    """

    def __init__(self, parts: Sequence[VectorEnv], action_repeat: int) -> None:
        self.num_envs = len(parts)
        self.spec = repeated_spec(parts[0].spec, action_repeat)
        self._parts = parts
        self._action_repeat = action_repeat
        for index, part in enumerate(parts):
            if part.spec != parts[0].spec:
                raise EnvironmentFault(f"sub-environment {index} of {self.spec.env_id!r} is not like number 0")

    def reset(self) -> np.ndarray:
        """Start all environments; see ``VectorEnv.reset``."""
        observations = []
        for index, part in enumerate(self._parts):
            with _numbered(index):
                observations.append(part.reset())
        return np.concatenate(observations)

    def step(self, action: np.ndarray) -> StepResult:
        """Step all environments; see ``VectorEnv.step``."""
        action = check_actions(self.spec.env_id, self.spec.action_space, self.num_envs, action)
        rows, rewards = zip(*(self._repeat(i, action[i : i + 1]) for i in range(self.num_envs)), strict=True)
        with np.errstate(over="ignore"):
            reward = np.array(rewards, dtype=np.float64).astype(np.float32)
        if not np.isfinite(reward).all():
            raise EnvironmentFault(
                f"the rewards of {self._action_repeat} steps of {self.spec.env_id!r} overflow float32"
            )
        engine_steps = np.concatenate([row.episode.lengths for row in rows])
        return StepResult(
            observation=np.concatenate([row.observation for row in rows]),
            reward=reward,
            terminated=np.concatenate([row.terminated for row in rows]),
            truncated=np.concatenate([row.truncated for row in rows]),
            valid=np.concatenate([row.valid for row in rows]),
            episode=EpisodeStatistics(
                finished=np.concatenate([row.episode.finished for row in rows]),
                returns=np.concatenate([row.episode.returns for row in rows]),
                lengths=-(-engine_steps // self._action_repeat),  # only an episode's last repeat may be cut short
            ),
        )

    def _repeat(self, index: int, action: np.ndarray) -> tuple[StepResult, float]:
        """The last row of one sub-environment's repeat, and the sum of its rewards."""
        reward = 0.0
        with _numbered(index):
            for _ in range(self._action_repeat):
                row = self._parts[index].step(action)
                reward += float(row.reward[0])
                if row.terminated[0] or row.truncated[0] or not row.valid[0]:
                    break
        return row, reward

    def render(self) -> np.ndarray | None:
        """Picture of environment 0; see ``VectorEnv.render``."""
        return self._parts[0].render()

    def close(self) -> None:
        """Release the environments."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.close)


@contextmanager
def _numbered(index: int) -> Iterator[None]:
    """Give the number of a sub-environment to its faults: alone in a vector, it calls itself number 0."""
    try:
        yield
    except EnvironmentFault as fault:
        raise EnvironmentFault(str(fault).replace("sub-environment 0", f"sub-environment {index}")) from fault

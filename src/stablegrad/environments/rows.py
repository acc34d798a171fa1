"""Rows of an engine with next-step autoreset -> ``StepResult``: masks, whole-game statistics, health.

After a row that ended an episode, the engine ignores the next action and answers with the first observation of the
next episode. What else stands in such a row is the engine's affair (dm_control in envpool repeats the last reward), so
none of it is used.
"""

from __future__ import annotations

import numpy as np

from stablegrad.environments.contract import EpisodeStatistics, StepResult
from stablegrad.errors import EnvironmentFault


class RowKeeper:
    """Follows the rows of ``num_envs`` environments from the first reset on.

    Args:
        env_id: the environment's name, for messages.
        num_envs: number of sub-environments.
    """

    def __init__(self, env_id: str, num_envs: int) -> None:
        self.env_id = env_id
        self.steps = 0
        """Number of calls of ``row`` so far."""
        self.resetting = np.zeros(num_envs, dtype=bool)
        """True where the next row will only carry a reset."""
        self._returns = np.zeros(num_envs, dtype=np.float64)
        self._lengths = np.zeros(num_envs, dtype=np.int64)

    def first(self, observation: np.ndarray) -> np.ndarray:
        """Check and return the observations of the first reset."""
        self._require_finite("observation", observation)
        return observation

    def row(
        self,
        observation: np.ndarray,
        reward: np.ndarray,
        raw_reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        game_over: np.ndarray,
    ) -> StepResult:
        """Turn one step of the engine into a ``StepResult``.

        Args:
            observation: [num_envs, ...], already in the contract's layout.
            reward: [num_envs], to learn from.
            raw_reward: [num_envs], for the statistics.
            terminated: bool [num_envs], as the contract means it.
            truncated: bool [num_envs]; where ``terminated`` is True as well, the row counts as terminated.
            game_over: bool [num_envs], the whole game ended. True on a reset row means that it ended unseen, inside
                the engine's reset.

        Raises:
            EnvironmentFault: an observation, or the reward of a transition, is not finite.
        """
        self.steps += 1
        resetting = self.resetting
        valid = ~resetting
        self.resetting = terminated | truncated
        terminated = terminated & valid
        truncated = truncated & valid & ~terminated
        with np.errstate(over="ignore"):  # becomes infinite, and is reported as such
            reward = np.where(valid, reward, 0).astype(np.float32, copy=False)
        raw_reward = np.where(valid, raw_reward, 0).astype(np.float64, copy=False)
        self._require_finite("observation", observation)
        self._require_finite("reward", raw_reward)
        self._require_finite("reward", reward)

        returns = self._returns + raw_reward
        lengths = self._lengths + valid
        self._returns = np.where(game_over, 0.0, returns)
        self._lengths = np.where(game_over, 0, lengths)
        return StepResult(
            observation, reward, terminated, truncated, valid, EpisodeStatistics(game_over, returns, lengths)
        )

    def _require_finite(self, what: str, values: np.ndarray) -> None:
        if values.dtype.kind != "f":
            return
        finite = np.isfinite(values)
        if finite.all():
            return
        index = int(np.argwhere(~finite)[0, 0])
        value = values[index][~finite[index]].flat[0] if values.ndim > 1 else values[index]
        raise EnvironmentFault(
            f"environment {self.env_id!r} returned a non-finite {what} ({value}) in sub-environment {index}"
            f" at step {self.steps}; every {what} must be a finite number"
        )

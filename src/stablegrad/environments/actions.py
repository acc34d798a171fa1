"""Agents' actions -> the engine's: checked, and shifted where a discrete space does not start at 0."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from stablegrad.errors import UsageError


class ActionAdapter:
    """Checks and translates batches of actions for one action space.

    Args:
        env_id: the environment's name, for messages.
        space: action space of one environment.
        num_envs: number of environments in a batch.
    """

    num_actions: int | None
    """Number of discrete actions, or None where an action is not one choice out of a list."""

    def __init__(self, env_id: str, space: spaces.Space, num_envs: int) -> None:
        self._env_id = env_id
        self.num_actions, self._start = (
            (int(space.n), int(space.start)) if isinstance(space, spaces.Discrete) else (None, 0)
        )
        self._shape = (num_envs, *(space.shape or ()))

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Return the batch as the engine wants it.

        Args:
            action: [num_envs] integers from 0 to ``num_actions - 1``; [num_envs, *action_shape] where that is None.

        Raises:
            UsageError: wrong shape, a number that is no integer, or one out of range. (Engines do not check:
                an action out of range reads beyond a table in envpool.)
        """
        action = np.asarray(action)
        if action.shape != self._shape:
            raise UsageError(f"environment {self._env_id!r} takes actions of shape {self._shape}, got {action.shape}")
        if self.num_actions is None:
            return action
        if action.dtype.kind not in "iu":
            raise UsageError(f"environment {self._env_id!r} takes integers as actions, got {action.dtype}")
        if action.min() < 0 or action.max() >= self.num_actions:
            raise UsageError(
                f"environment {self._env_id!r} has actions 0 .. {self.num_actions - 1},"
                f" got {action.min()} .. {action.max()}"
            )
        return action + self._start if self._start else action

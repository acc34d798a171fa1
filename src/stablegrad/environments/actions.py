"""Action spaces and actions: the engine's space -> the contract's, the agent's actions -> the engine's."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from stablegrad.environments.contract import Box, Discrete
from stablegrad.errors import UsageError

UNBOUNDED = 1e10
"""Bounds of this size are none: MuJoCo writes 1e10 where an actuator has no limit, envpool the dtype's largest number
where it does not know any."""

TOLERANCE = 1e-6
"""How far outside [-1, 1] an action may be, as float32 rounds; it is clipped."""


def action_space(env_id: str, space: spaces.Space) -> Discrete | Box:
    """Describe an engine's action space.

    Args:
        env_id: the environment's name, for messages.
        space: action space of one environment.

    Raises:
        UsageError: no agent can act in it: neither ``Discrete`` nor a ``Box`` of floats, or a ``Box`` that is empty or
            has no finite range.
    """
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        kind = f"{type(space).__name__} of {space.dtype}" if isinstance(space, spaces.Box) else type(space).__name__
        raise UsageError(f"environment {env_id!r} has actions of kind {kind}; expected Discrete, or a Box of floats")
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    if not low.size:
        raise UsageError(f"environment {env_id!r} has actions of shape {space.shape}; expected at least one number")
    for index, (lowest, highest) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        has = f"environment {env_id!r} has actions whose number {index} goes from {lowest:g} to {highest:g}"
        if not (abs(lowest) < UNBOUNDED and abs(highest) < UNBOUNDED):
            raise UsageError(
                f"{has}, which is unbounded; expected finite bounds in its action_space (to give some, wrap it in"
                " gymnasium.wrappers.TransformAction)"
            )
        if lowest >= highest:
            raise UsageError(f"{has}; expected low < high")
    return Box(tuple(low.tolist()), tuple(high.tolist()))


def check_actions(env_id: str, space: Discrete | Box, num_envs: int, action: np.ndarray) -> np.ndarray:
    """Return a batch of actions as an array, or say what is wrong with it.

    Args:
        env_id: the environment's name, for messages.
        space: the space of one action.
        num_envs: number of actions.
        action: integers [num_envs] from 0 to ``n - 1`` for ``Discrete``; floats [num_envs, size] in [-1, 1] for
            ``Box``.

    Raises:
        UsageError: wrong shape, wrong kind of number, or one out of range. (Engines do not check: an action out of
            range reads beyond a table in envpool.)
    """
    action = np.asarray(action)
    shape = (num_envs,) if isinstance(space, Discrete) else (num_envs, space.size)
    if action.shape != shape:
        raise UsageError(f"environment {env_id!r} takes actions of shape {shape}, got {action.shape}")
    if isinstance(space, Discrete):
        if action.dtype.kind not in "iu":
            raise UsageError(f"environment {env_id!r} takes integers as actions, got {action.dtype}")
        if action.min() < 0 or action.max() >= space.n:
            raise UsageError(
                f"environment {env_id!r} has actions 0 .. {space.n - 1}, got {action.min()} .. {action.max()}"
            )
        return action
    if action.dtype.kind != "f":
        raise UsageError(f"environment {env_id!r} takes floats as actions, got {action.dtype}")
    outside = ~(np.abs(action) <= 1 + TOLERANCE)  # also true of NaN
    if outside.any():
        raise UsageError(f"environment {env_id!r} takes actions in [-1, 1], got {action[outside][0]}")
    return action


class ActionAdapter:
    """Checks batches of actions and translates them for one engine.

    Args:
        env_id: the environment's name, for messages.
        space: the engine's action space of one environment.
        num_envs: number of environments in a batch.

    Raises:
        UsageError: as ``action_space``.
    """

    space: Discrete | Box
    """The space that agents act in."""

    def __init__(self, env_id: str, space: spaces.Space, num_envs: int) -> None:
        self.space = action_space(env_id, space)
        self._env_id = env_id
        self._num_envs = num_envs
        self._engine_space = space
        if isinstance(space, spaces.Box):
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            self._center, self._half_range = (low + high) / 2, (high - low) / 2

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Return the batch as the engine wants it.

        Args:
            action: as for ``check_actions``.

        Returns:
            Integers [num_envs] from the engine's first action on, or [num_envs, *action_shape] of the engine's dtype,
            within its bounds.

        Raises:
            UsageError: as ``check_actions``.
        """
        action = check_actions(self._env_id, self.space, self._num_envs, action)
        space = self._engine_space
        if isinstance(space, spaces.Discrete):
            return action + int(space.start) if space.start else action
        assert isinstance(space, spaces.Box)
        unit = np.clip(action.astype(np.float64), -1.0, 1.0).reshape(self._num_envs, *space.shape)
        scaled = (self._center + self._half_range * unit).astype(space.dtype)
        return np.clip(scaled, space.low, space.high)

"""The contract between an environment and everything that trains on it.

All engines (envpool, gymnasium, a user's own factory) are brought to the same shape: batched NumPy arrays of length
``num_envs``, and *next-step autoreset*: the row on which an episode ends carries the true last observation, and the row
after it carries the first observation of the next episode and nothing else. Such a row is not a transition;
``StepResult.valid`` is False there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class Discrete:
    """One choice out of ``n``, numbered from 0."""

    n: int


@dataclass(frozen=True)
class Box:
    """``size`` real numbers, flattened row by row. Agents act in [-1, 1], which is scaled to [``low``, ``high``]."""

    low: tuple[float, ...]
    """The engine's own lower bounds; finite."""
    high: tuple[float, ...]
    """The engine's own upper bounds; finite, and above ``low``."""

    @property
    def size(self) -> int:
        """How many numbers an action has."""
        return len(self.low)


@dataclass(frozen=True)
class EnvironmentSpec:
    """What a network and an agent need to know of an environment before the first step."""

    env_id: str
    """The name it was asked for by."""
    observation_shape: tuple[int, ...]
    """Shape of one observation: ``(D,)`` for vectors, ``(C, H, W)`` for images."""
    observation_dtype: Literal["uint8", "float32"]
    """``uint8`` for images, ``float32`` for everything else."""
    action_space: Discrete | Box
    """What an action is."""
    is_image: bool
    """Whether observations are uint8 images, channels first."""
    max_episode_steps: int | None
    """Time limit in agent steps; None where there is none, or where a factory does not tell."""
    engine: Literal["envpool", "gymnasium", "factory"]
    """What runs it."""
    atari_game: str | None
    """Name of the game as in ``atari_scores`` ("Breakout"), or None when it is no Atari game."""


@dataclass(frozen=True, slots=True)
class EpisodeStatistics:
    """Whole games: over life losses, in raw (never clipped) reward, reset rows not counted.

    All three arrays have length ``num_envs``. ``returns`` and ``lengths`` are those of the game so far, and final where
    ``finished`` is True.
    """

    finished: np.ndarray
    """bool: on this row a game was over or was cut by the time limit."""
    returns: np.ndarray
    """float64: sum of raw rewards."""
    lengths: np.ndarray
    """int64: number of agent steps."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One row for each of ``num_envs`` environments. The arrays are fresh: they may be kept without a copy."""

    observation: np.ndarray
    """[num_envs, *observation_shape]. The true observation after the action, also where the episode ended on this row;
    where ``valid`` is False, the first observation of a new episode."""
    reward: np.ndarray
    """float32 [num_envs]. The reward to learn from: its sign where rewards are clipped; 0 where ``valid`` is False."""
    terminated: np.ndarray
    """bool [num_envs]. The return ends here: nothing is bootstrapped. Includes a lost life where that is asked for."""
    truncated: np.ndarray
    """bool [num_envs]. The episode was cut: bootstrap from ``observation``. Never True where ``terminated`` is."""
    valid: np.ndarray
    """bool [num_envs]. False on a row that only carries a reset: its action was ignored and it is no transition."""
    episode: EpisodeStatistics
    """Returns and lengths of whole games."""

    @property
    def final_observation(self) -> np.ndarray:
        """The last observation of the episodes that ended on this row: with next-step autoreset, ``observation``."""
        return self.observation


class VectorEnv(Protocol):
    """``num_envs`` copies of one environment, stepped together."""

    num_envs: int
    spec: EnvironmentSpec

    def reset(self) -> np.ndarray:
        """Start all environments and return their first observations, [num_envs, *observation_shape].

        Called once, before the first step; afterwards environments reset themselves.
        """
        ...

    def step(self, action: np.ndarray) -> StepResult:
        """Step all environments.

        Args:
            action: int64 [num_envs], each from 0 to ``n - 1``, where ``spec.action_space`` is ``Discrete``; where it is
                a ``Box``, float [num_envs, size], each in [-1, 1]. Ignored on rows that come out with ``valid`` False.
        """
        ...

    def render(self) -> np.ndarray | None:
        """Return a picture of environment 0, [H, W, 3] uint8. Needs an environment made with ``render=True``."""
        ...

    def close(self) -> None:
        """Release the environments. May be called twice."""
        ...

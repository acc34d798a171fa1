"""What an off-policy agent remembers: a replay buffer with n-step returns that stores every frame once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.environments import StepResult
from stablegrad.errors import UsageError

# What a row is. Up to START no transition leads into it, above STEP the episode ends with it.
START, STEP, TRUNCATED, TERMINATED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions, on the replay's device."""

    observation: Tensor
    """[batch, *observation_shape], in the dtype of the storage."""
    action: Tensor
    """[batch, *action_shape]."""
    reward: Tensor
    """float32 [batch]: r_t + gamma r_{t+1} + ... over the m steps of the transition."""
    next_observation: Tensor
    """[batch, *observation_shape]: the true observation m steps later, also where the episode was truncated there."""
    discount: Tensor
    """float32 [batch]: gamma^m, which multiplies the value of ``next_observation``; 0 where the episode terminated."""

    def split(self, size: int) -> Iterator[Batch]:
        """Batches of ``size`` transitions; the last may have fewer."""
        fields = (self.observation, self.action, self.reward, self.next_observation, self.discount)
        return (Batch(*parts) for parts in zip(*(one.split(size) for one in fields), strict=True))


class Replay:
    """Transitions of ``num_envs`` environments, the newest ``capacity`` of them, sampled uniformly.

    Every environment has a ring of its own in arrays [num_envs, rows, ...] on the CPU. A row is what the environment
    returned at a step: its observation, with the action and the reward that led to it. So an observation is stored
    once, the transition from row t leads into row t + 1, and a row never changes until it is overwritten. Rows that
    start an episode (resets, ``begin``) have no transition leading into them. Neither steps nor stacks cross them.

    With ``n_step`` n, the transition from row t spans m = min(n, steps to the end of the episode) rows (Sutton 1988;
    Hessel et al. 2018). The tail of an episode keeps its shorter transitions. A transition can be sampled as soon as
    its last row is known.

    With ``frame_stack`` s, an observation is s frames, oldest first, along its first axis, and a row stores the newest
    alone: the stack of row t is in rows t - s + 1 to t. Where an episode starts with a stack that does not continue the
    rows before it, s - 1 more rows store its older frames, so that every stack comes back as it was given. (envpool's
    Atari games: a game starts with its first frame s times; after a lost life the stack goes on.)

    Args:
        capacity: transitions over all environments. Rows that start an episode take places too.
        num_envs: environments, each with ``capacity // num_envs`` transitions.
        observation_shape: shape of one observation, the whole stack included.
        observation_dtype: its dtype, in which it is stored and sampled.
        action_shape: shape of one action; () for a discrete one.
        action_dtype: its dtype.
        discount: gamma, from 0 to 1.
        n_step: largest number of steps of a transition.
        frame_stack: frames in an observation; 1 where it is not a stack.
        device: where batches are put. The storage stays on the CPU.

    Raises:
        UsageError: an argument is out of range, or ``frame_stack`` does not divide the first axis of an observation.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_shape: Sequence[int],
        observation_dtype: torch.dtype,
        *,
        action_shape: tuple[int, ...] = (),
        action_dtype: torch.dtype = torch.int64,
        discount: float,
        n_step: int = 1,
        frame_stack: int = 1,
        device: torch.device | str,
    ):
        layout = _layout(
            capacity, num_envs, observation_shape, observation_dtype, action_shape, action_dtype, n_step, frame_stack
        )
        if not 0.0 <= discount <= 1.0:
            raise UsageError(f"discount must be from 0 to 1, got {discount}")
        # torch.empty: the system hands out the memory page by page, when it is first written.
        self._arrays = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
        self._frame, self._action, self._reward, self._kind = (self._arrays[name].numpy() for name in layout)
        self._num_envs, self._rows = self._kind.shape
        self._channels = observation_shape[0]
        self._n_step = n_step
        self._frame_stack = frame_stack
        self._device = torch.device(device)
        self._powers = np.power(discount, np.arange(n_step + 1)).astype(np.float32)
        self._older = np.arange(1 - frame_stack, 1)  # rows of a stack, counted from its newest
        self._pinned = torch.empty(0)
        self._envs = np.arange(num_envs)
        self._totals = np.zeros(num_envs, np.int64)  # rows ever written
        self._runs = np.zeros(num_envs, np.int64)  # steps of the running episode
        self._length = 0
        self.manifest: dict[str, Any] | None = None  # what checkpoints hold of it; training.experience keeps it

    @staticmethod
    def bytes_needed(
        capacity: int,
        num_envs: int,
        observation_shape: Sequence[int],
        observation_dtype: torch.dtype,
        *,
        action_shape: tuple[int, ...] = (),
        action_dtype: torch.dtype = torch.int64,
        n_step: int = 1,
        frame_stack: int = 1,
    ) -> int:
        """Bytes of the storage of such a replay once it is full, without allocating it. Arguments as of ``Replay``."""
        layout = _layout(
            capacity, num_envs, observation_shape, observation_dtype, action_shape, action_dtype, n_step, frame_stack
        )
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())

    def __len__(self) -> int:
        """Transitions that can be sampled now."""
        return self._length

    @property
    def totals(self) -> list[int]:
        """Rows ever written of each environment; row i lies at ``i % rows`` of its ring."""
        return self._totals.tolist()

    def begin(self, observation: np.ndarray) -> None:
        """Start episodes in fresh environments; those that ran are truncated at their last row.

        Args:
            observation: [num_envs, *observation_shape], what ``VectorEnv.reset`` returned.
        """
        frames = self._split(observation)
        self._fill(~self._continues(frames), frames)
        self._append(self._envs, frames[:, -1], np.full(self._num_envs, START))

    def add(self, action: np.ndarray, result: StepResult) -> None:
        """Store one step of all environments.

        Args:
            action: [num_envs, *action_shape], what was passed to ``VectorEnv.step``.
            result: what it returned.

        Raises:
            UsageError: ``begin`` was not called before, or ``frame_stack`` is not the environment's.
        """
        if not self._totals[0]:
            raise UsageError("call begin() with the first observations once before add()")
        frames = self._split(result.observation)
        continues = self._continues(frames)
        if not continues[result.valid].all():
            raise UsageError(
                f"frame_stack {self._frame_stack} does not fit this environment: "
                "the older frames of an observation are not the newer frames of the one before it"
            )
        self._fill(~continues, frames)
        kind = np.where(result.terminated, TERMINATED, np.where(result.truncated, TRUNCATED, STEP))
        self._append(self._envs, frames[:, -1], np.where(result.valid, kind, START), action, result.reward)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw transitions uniformly, with replacement.

        Args:
            batch_size: how many.
            generator: a generator of the CPU, the only source of randomness.

        Raises:
            UsageError: there is no transition to sample yet.
        """
        if not self._length:
            raise UsageError("the replay holds no transition yet; sample() needs at least one")
        filled = min(int(self._totals.max()), self._rows)

        def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
            numbers = torch.randint(self._num_envs * filled, (count,), generator=generator).numpy()
            return np.divmod(numbers, filled)

        env, row = draw(batch_size)
        steps = self._steps(env, row)
        while (rejected := np.flatnonzero(steps == 0)).size:
            env[rejected], row[rejected] = draw(rejected.size)
            steps[rejected] = self._steps(env[rejected], row[rejected])
        return self._batch(env, row, steps)

    def _batch(self, env: np.ndarray, row: np.ndarray, steps: np.ndarray) -> Batch:
        """The transitions from some rows, with their steps from ``_steps``; all are int64 [batch]."""
        last = row + steps
        after = np.arange(1, self._n_step + 1)
        rewards = np.where(
            after <= steps[:, None], self._reward[env[:, None], (row[:, None] + after) % self._rows], 0.0
        )
        reward = (rewards * self._powers[:-1]).sum(axis=1)
        terminated = self._kind[env, last % self._rows] == TERMINATED
        # One step further, a stack has one frame that the first has not.
        following = self._older if self._n_step > 1 else np.zeros(1, np.int64)
        frames = self._gather(env, np.concatenate([row[:, None] + self._older, last[:, None] + following], axis=1))
        return Batch(
            observation=frames[:, : self._channels],
            action=torch.from_numpy(self._action[env, (row + 1) % self._rows]).to(self._device),
            reward=torch.from_numpy(reward).to(self._device),
            next_observation=frames[:, -self._channels :],
            discount=torch.from_numpy(np.where(terminated, np.float32(0), self._powers[steps])).to(self._device),
        )

    def arrays(self) -> Mapping[str, Tensor]:
        """The storage itself: "frame", "action", "reward" and "kind", each [num_envs, rows, ...]."""
        return self._arrays

    def state_dict(self) -> dict[str, Any]:
        """What is not in the arrays: lists and integers."""
        return {"totals": self.totals, "runs": self._runs.tolist(), "length": self._length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; the arrays must hold its rows."""
        self._totals[:] = state["totals"]
        self._runs[:] = state["runs"]
        self._length = state["length"]

    def _split(self, observation: np.ndarray) -> np.ndarray:
        """An observation by frames, [num_envs, frame_stack, *frame_shape]."""
        return observation.reshape(self._num_envs, self._frame_stack, *self._frame.shape[2:])

    def _continues(self, frames: np.ndarray) -> np.ndarray:
        """Whether the older frames of each stack are the newest ones that are stored; bool [num_envs]."""
        if self._frame_stack == 1:
            return np.ones(self._num_envs, bool)
        stored = self._frame[self._envs[:, None], (self._totals[:, None] + self._older[:-1]) % self._rows]
        equal = (stored == frames[:, :-1]).reshape(self._num_envs, -1).all(axis=1)
        return equal & (self._totals >= self._frame_stack - 1)

    def _fill(self, chosen: np.ndarray, frames: np.ndarray) -> None:
        """Store the older frames of the stacks of the ``chosen`` environments (bool [num_envs])."""
        if chosen.any():
            envs = np.flatnonzero(chosen)
            for position in range(self._frame_stack - 1):
                self._append(envs, frames[envs, position], np.full(envs.size, START))

    def _append(
        self,
        envs: np.ndarray,
        frame: np.ndarray,
        kind: np.ndarray,
        action: np.ndarray | int = 0,
        reward: np.ndarray | float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write the next row of some environments.

        Returns:
            (env, row), int64 [transitions] each: those that can be sampled from now on.
        """
        totals, runs = self._totals[envs], self._runs[envs]
        row = totals % self._rows
        # This overwrites the oldest frame of the oldest transition; whether there is one tells the row after it.
        lost = (totals >= self._rows) & (self._kind[envs, (row + self._frame_stack) % self._rows] > START)
        self._frame[envs, row] = frame
        self._action[envs, row] = action
        self._reward[envs, row] = reward
        self._kind[envs, row] = kind
        # Of the n rows before, those of this episode wait for their last row; a step makes the n-th of them known, an
        # end all, and a start all but the first, which was the last row of its episode.
        kind, before = kind[:, None], np.arange(1, self._n_step + 1)
        known = (before <= runs[:, None] + 1) & np.where(
            kind == STEP, before == self._n_step, (kind > STEP) | (before > 1)
        )
        which, number = np.nonzero(known)
        self._length += len(which) - int(lost.sum())
        self._runs[envs] = np.where(kind[:, 0] == STEP, runs + 1, 0)
        self._totals[envs] = totals + 1
        return envs[which], (row[which] - before[number]) % self._rows

    def _steps(self, env: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Steps of the transitions from some rows; 0 where none can be sampled. All are int64 [batch]."""
        totals = self._totals[env]
        later = (totals - 1 - row) % self._rows  # rows written after this one
        after = np.arange(1, self._n_step + 1)
        kind = self._kind[env[:, None], (row[:, None] + after) % self._rows]
        known = np.logical_and.accumulate((kind > START) & (after <= later[:, None]), axis=1)
        steps = known.sum(axis=1)
        # Known to be the last: the n-th, one before a start, or one with which the episode ended.
        ended = ((kind > STEP) & known).any(axis=1)
        stack_is_stored = later + self._frame_stack <= np.minimum(totals, self._rows)
        return np.where(((steps == self._n_step) | (steps < later) | ended) & stack_is_stored, steps, 0)

    def _gather(self, env: np.ndarray, rows: np.ndarray) -> Tensor:
        """Frames of some rows, [batch, number of rows * frame_shape[0], ...] on the device.

        Args:
            env: int64 [batch].
            rows: int64 [batch, number of rows], modulo the rows of the ring.
        """
        frame_shape = self._frame.shape[2:]
        shape = (len(env), rows.shape[1] * frame_shape[0], *frame_shape[1:])
        places = torch.from_numpy((env[:, None] * self._rows + rows % self._rows).ravel())
        frames = self._arrays["frame"].flatten(0, 1)
        if self._device.type != "cuda":
            return torch.index_select(frames, 0, places).view(shape).to(self._device)
        if self._pinned.shape != shape:
            # Transfers from pinned memory are faster, and taking it is slow.
            self._pinned = torch.empty(shape, dtype=frames.dtype, pin_memory=True)
        torch.index_select(frames, 0, places, out=self._pinned.view(len(places), *frame_shape))
        return self._pinned.to(self._device)


def ring_shape(capacity: int, num_envs: int, n_step: int, frame_stack: int) -> tuple[int, int]:
    """(environments, rows of each) of a replay."""
    # The oldest rows lack frames of their stacks, the newest wait for their last step.
    return num_envs, capacity // num_envs + frame_stack - 1 + n_step


def _layout(
    capacity: int,
    num_envs: int,
    observation_shape: Sequence[int],
    observation_dtype: torch.dtype,
    action_shape: tuple[int, ...],
    action_dtype: torch.dtype,
    n_step: int,
    frame_stack: int,
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every array of a replay."""
    for name, value in (("num_envs", num_envs), ("n_step", n_step), ("frame_stack", frame_stack)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if capacity < num_envs:
        raise UsageError(f"capacity must be at least num_envs, one transition each ({num_envs}), got {capacity}")
    if not observation_shape or observation_shape[0] % frame_stack:
        shape = list(observation_shape)
        raise UsageError(f"frame_stack {frame_stack} must divide the first axis of an observation, got shape {shape}")
    frame_shape = (observation_shape[0] // frame_stack, *observation_shape[1:])
    ring = ring_shape(capacity, num_envs, n_step, frame_stack)
    return {
        "frame": ((*ring, *frame_shape), observation_dtype),
        "action": ((*ring, *action_shape), action_dtype),
        "reward": (ring, torch.float32),
        "kind": (ring, torch.uint8),
    }

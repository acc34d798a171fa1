"""What an on-policy agent collects between two updates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stablegrad.environments import StepResult


class Rollout:
    """``num_steps`` rows of ``num_envs`` environments, time-major, allocated once.

    ``observation`` has one row more than the rest: the observation after the last step. Observations keep their dtype
    (bytes stay bytes). Images lie in memory with their channels last, which convolutions want: each is turned once,
    when it comes in, instead of in every pass that reads it. Tensors lie on ``device``.
    """

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        observation_shape: Sequence[int],
        observation_dtype: torch.dtype,
        device: torch.device,
        *,
        action_shape: Sequence[int] = (),
        action_dtype: torch.dtype = torch.int64,
    ):
        shape = (num_steps, num_envs)
        self.num_steps = num_steps
        is_image = len(observation_shape) == 3
        stored_shape = (*observation_shape[1:], observation_shape[0]) if is_image else observation_shape
        self._filled = 0
        self._stored = torch.empty((num_steps + 1, num_envs, *stored_shape), dtype=observation_dtype, device=device)
        self.observation = self._stored.movedim(-1, 2) if is_image else self._stored
        self.action = torch.empty((*shape, *action_shape), dtype=action_dtype, device=device)
        self.log_prob = torch.empty(shape, device=device)
        self.value = torch.empty(shape, device=device)
        self.reward = torch.empty(shape, device=device)
        self.terminated = torch.empty(shape, dtype=torch.bool, device=device)
        self.truncated = torch.empty(shape, dtype=torch.bool, device=device)
        self.valid = torch.empty(shape, dtype=torch.bool, device=device)

    def begin(self, observation: np.ndarray) -> None:
        """Start over from the first observations of fresh environments."""
        self.observation[0].copy_(torch.from_numpy(observation))
        self._filled = 0

    @property
    def newest(self) -> Tensor:
        """The newest observations, [num_envs, *observation_shape]; after a full rollout, of the next one."""
        if self._filled == self.num_steps:
            # Only now, so that a full rollout can be read until the next one begins.
            self.observation[0].copy_(self.observation[-1])
            self._filled = 0
        return self.observation[self._filled]

    def choose(self, action: Tensor, value: Tensor, log_prob: Tensor | None = None) -> None:
        """Store the actions taken in the newest observations, [num_envs, ...].

        With them the values of their states and, of policies that draw, the actions' log probabilities, [num_envs].
        """
        self.action[self._filled] = action
        self.value[self._filled] = value
        if log_prob is not None:
            self.log_prob[self._filled] = log_prob

    def spread(self, rows: int) -> Tensor:
        """Numbers of at most ``rows`` rows, evenly spread, int64."""
        every = self.valid.numel()
        return torch.linspace(0, every - 1, min(every, rows), device=self.valid.device).long()

    def observations_at(self, rows: Tensor) -> Tensor:
        """Observations of some of the ``num_steps * num_envs`` rows, [len(rows), *observation_shape]."""
        # index_select copies whole rows; indexing would go element by element.
        chosen = self._stored[:-1].flatten(0, 1).index_select(0, rows)
        return chosen.movedim(-1, 1) if self.observation is not self._stored else chosen

    def add(self, result: StepResult) -> None:
        """Store what came of the actions that were chosen."""
        t = self._filled
        self.observation[t + 1].copy_(torch.from_numpy(result.observation))
        self.reward[t] = torch.from_numpy(result.reward)
        self.terminated[t] = torch.from_numpy(result.terminated)
        self.truncated[t] = torch.from_numpy(result.truncated)
        self.valid[t] = torch.from_numpy(result.valid)
        self._filled = t + 1


def rollout_bytes(num_steps: int, num_envs: int, observation_shape: Sequence[int], observation_dtype: str) -> int:
    """Memory of a rollout's observations; the rest is small beside them."""
    entry = np.dtype(observation_dtype).itemsize
    return (num_steps + 1) * num_envs * math.prod(observation_shape) * entry

"""What an on-policy agent collects between two updates."""

from __future__ import annotations

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
    ):
        shape = (num_steps, num_envs)
        self.num_steps = num_steps
        is_image = len(observation_shape) == 3
        stored_shape = (*observation_shape[1:], observation_shape[0]) if is_image else observation_shape
        self._stored = torch.empty((num_steps + 1, num_envs, *stored_shape), dtype=observation_dtype, device=device)
        self.observation = self._stored.movedim(-1, 2) if is_image else self._stored
        self.action = torch.empty(shape, dtype=torch.int64, device=device)
        self.value = torch.empty(shape, device=device)
        self.reward = torch.empty(shape, device=device)
        self.terminated = torch.empty(shape, dtype=torch.bool, device=device)
        self.truncated = torch.empty(shape, dtype=torch.bool, device=device)
        self.valid = torch.empty(shape, dtype=torch.bool, device=device)

    def begin(self, observation: np.ndarray | None = None) -> None:
        """Start a rollout from ``observation``, or from the one after the last step."""
        if observation is None:
            self.observation[0].copy_(self.observation[-1])
        else:
            self.observation[0].copy_(torch.from_numpy(observation))

    def observations_at(self, rows: Tensor) -> Tensor:
        """Observations of some of the ``num_steps * num_envs`` rows, [len(rows), *observation_shape]."""
        # index_select copies whole rows; indexing would go element by element.
        chosen = self._stored[:-1].flatten(0, 1).index_select(0, rows)
        return chosen.movedim(-1, 1) if self.observation is not self._stored else chosen

    def add(self, t: int, action: Tensor, value: Tensor, result: StepResult) -> None:
        """Store row ``t``: the action taken in observation ``t``, its state's value, and what came of it."""
        self.action[t] = action
        self.value[t] = value
        self.observation[t + 1].copy_(torch.from_numpy(result.observation))
        self.reward[t] = torch.from_numpy(result.reward)
        self.terminated[t] = torch.from_numpy(result.terminated)
        self.truncated[t] = torch.from_numpy(result.truncated)
        self.valid[t] = torch.from_numpy(result.valid)

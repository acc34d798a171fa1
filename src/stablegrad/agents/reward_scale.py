"""Rewards divided by the running standard deviation of the discounted return."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stablegrad.agents.contract import AverageGradients, averaged
from stablegrad.networks.running_norm import RunningNorm


class RewardScale:
    """The scale of rewards, which follows the returns of the environments; Stable-Baselines3's VecNormalize.

    The moments are saved with the agent; the sums of the episodes under way are not, as a resumed run begins new ones.

    Args:
        num_envs: environments.
        discount: gamma.
        device: of all tensors.
        average_gradients: as of ``MakeAgent``.
    """

    def __init__(
        self, num_envs: int, discount: float, device: torch.device, average_gradients: AverageGradients | None = None
    ):
        self.discount, self.average_gradients = discount, average_gradients
        self.norm = RunningNorm(()).to(device)
        self.discounted = torch.zeros(num_envs, device=device)
        """[num_envs] discounted rewards of the episodes so far."""

    @property
    def scale(self) -> Tensor:
        """What rewards are multiplied with, a scalar."""
        return self.norm.scale

    def begin(self) -> None:
        """Start from fresh environments."""
        self.discounted.zero_()

    def follow(self, reward: Tensor, ended: Tensor, valid: Tensor) -> None:
        """Update the moments by what the environments returned, all [steps, num_envs].

        Args:
            reward: before it is scaled.
            ended: whether the episode ends with the step.
            valid: False where a row only carries a reset.
        """
        seen = torch.empty_like(reward)
        for t, one in enumerate(reward):
            torch.add(one, self.discounted, alpha=self.discount, out=seen[t])
            self.discounted = seen[t].masked_fill(ended[t], 0.0)
        self.norm.update(seen.flatten(), valid.flatten().float(), lambda x: averaged(x, self.average_gradients))

    def state_dict(self) -> Mapping[str, Tensor]:
        """The moments."""
        return self.norm.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict()``."""
        self.norm.load_state_dict(state)

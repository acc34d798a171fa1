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
        max_return: discounted return that no episode seen so far may exceed once scaled, as in SimbaV2
            (arXiv 2502.15280); None: any may.
    """

    def __init__(
        self,
        num_envs: int,
        discount: float,
        device: torch.device,
        average_gradients: AverageGradients | None = None,
        max_return: float | None = None,
    ):
        self.max_return = max_return
        self.largest = torch.zeros((), device=device)
        """The largest size of a discounted return so far; followed where there is a ``max_return``."""
        self.discount, self.average_gradients = discount, average_gradients
        self.norm = RunningNorm(()).to(device)
        self.discounted = torch.zeros(num_envs, device=device)
        """[num_envs] discounted rewards of the episodes so far."""

    @property
    def scale(self) -> Tensor:
        """What rewards are multiplied with, a scalar."""
        if self.max_return is None:
            return self.norm.scale
        return torch.minimum(self.norm.scale, self.max_return / self.largest)

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
        if self.max_return is not None:
            size = seen.abs().masked_fill(~valid, 0.0).amax()
            torch.maximum(self.largest, averaged(size, self.average_gradients), out=self.largest)
        self.norm.update(seen.flatten(), valid.flatten().float(), lambda x: averaged(x, self.average_gradients))

    def state_dict(self) -> Mapping[str, Tensor]:
        """The moments, and the largest return where it is followed."""
        return {**self.norm.state_dict(), **({} if self.max_return is None else {"largest": self.largest})}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict()``."""
        self.norm.load_state_dict({name: value for name, value in state.items() if name != "largest"})
        if self.max_return is not None:
            self.largest.copy_(state["largest"])

"""Values of continuous actions, by one or more networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig
from stablegrad.networks.q_network import QNetwork
from stablegrad.networks.running_norm import RunningNorm


class Critic(nn.Module):
    """Independent Q-values of a state and an action, which networks read as one vector.

    Args:
        observation_shape: shape of one observation.
        action_size: how many numbers an action has.
        num_critics: networks.
        encoder: settings of every encoder.
        torso: settings of every torso.
        num_atoms: returns whose probabilities each critic gives; None: a value alone.
        normalize: normalise observations by their running moments, without a bound; see ``RunningNorm``.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        action_size: int,
        num_critics: int,
        *,
        encoder: EncoderConfig,
        torso: TorsoConfig,
        num_atoms: int | None = None,
        normalize: bool = False,
    ):
        super().__init__()
        self.normalizer = RunningNorm((prod(observation_shape),), clip=None) if normalize else None
        inputs = (prod(observation_shape) + action_size,)
        self.members = nn.ModuleList(
            QNetwork(inputs, 1, encoder=encoder, torso=torso, is_image=False, num_atoms=num_atoms)
            for _ in range(num_critics)
        )

    def forward(self, observation_and_action: Tensor) -> Tensor:
        """``[batch, observation + action]`` to q_values ``[batch, num_critics]``, or logits ``[..., num_atoms]``."""
        if self.normalizer is not None:
            size = len(self.normalizer.mean)
            observation, action = observation_and_action[:, :size], observation_and_action[:, size:]
            observation_and_action = torch.cat([self.normalizer(observation), action], dim=1)
        return torch.cat([member(observation_and_action) for member in self.members], dim=1)

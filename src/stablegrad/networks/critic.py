"""Values of continuous actions, by one or more networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig
from stablegrad.networks.q_network import QNetwork


class Critic(nn.Module):
    """Independent Q-values of a state and an action, which networks read as one vector.

    Args:
        observation_shape: shape of one observation.
        action_size: how many numbers an action has.
        num_critics: networks.
        encoder: settings of every encoder.
        torso: settings of every torso.
        num_atoms: returns whose probabilities each critic gives; None: a value alone.
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
    ):
        super().__init__()
        inputs = (prod(observation_shape) + action_size,)
        self.members = nn.ModuleList(
            QNetwork(inputs, 1, encoder=encoder, torso=torso, is_image=False, num_atoms=num_atoms)
            for _ in range(num_critics)
        )

    def forward(self, observation_and_action: Tensor) -> Tensor:
        """``[batch, observation + action]`` to q_values ``[batch, num_critics]``, or logits ``[..., num_atoms]``."""
        return torch.cat([member(observation_and_action) for member in self.members], dim=1)

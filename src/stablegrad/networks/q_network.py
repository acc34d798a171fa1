"""Action values: encoder, torso, head."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig, make_encoder, make_torso
from stablegrad.networks.dueling import DuelingHead
from stablegrad.networks.heads import make_head


class QNetwork(nn.Module):
    """One Q-value per action, or a distribution of returns per action.

    Args:
        observation_shape: shape of one observation.
        num_actions: actions.
        encoder: settings of the encoder.
        torso: settings of the torso.
        is_image: whether observations are (C, H, W) bytes.
        dueling: a dueling head instead of a linear one, with the torso's norm and activation.
        num_atoms: returns whose probabilities each action has; None: a value alone.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        encoder: EncoderConfig,
        torso: TorsoConfig,
        is_image: bool,
        dueling: bool = False,
        num_atoms: int | None = None,
    ):
        super().__init__()
        self.num_atoms = num_atoms
        self.encoder = make_encoder(encoder, observation_shape, is_image=is_image)
        self.torso = make_torso(torso, self.encoder.out_features)
        features, outputs = self.torso.out_features, num_atoms or 1
        self.head: nn.Module = (
            DuelingHead(features, num_actions, outputs, norm=torso.norm, activation=torso.activation)
            if dueling
            else make_head(self.torso, num_actions * outputs, gain=math.sqrt(2.0))
        )

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to q_values ``[batch, num_actions]``.

        With ``num_atoms`` to logits of their probabilities, ``[batch, num_actions, num_atoms]``.
        """
        outputs = self.head(self.torso(self.encoder(observation)))
        return outputs if self.num_atoms is None else outputs.unflatten(1, (-1, self.num_atoms))

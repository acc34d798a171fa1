"""Action values: encoder, torso, linear head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig, make_encoder, make_torso
from stablegrad.networks.layers import linear


class QNetwork(nn.Module):
    """One Q-value per action.

    Args:
        observation_shape: shape of one observation.
        num_actions: outputs of the head.
        encoder: settings of the encoder.
        torso: settings of the torso.
        is_image: whether observations are (C, H, W) bytes.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        encoder: EncoderConfig,
        torso: TorsoConfig,
        is_image: bool,
    ):
        super().__init__()
        self.encoder = make_encoder(encoder, observation_shape, is_image=is_image)
        self.torso = make_torso(torso, self.encoder.out_features)
        self.head = linear(self.torso.out_features, num_actions)

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to q_values ``[batch, num_actions]``."""
        return self.head(self.torso(self.encoder(observation)))

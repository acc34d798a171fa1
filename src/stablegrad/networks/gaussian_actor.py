"""Gaussian policies: encoder, torso, linear head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig, make_encoder, make_torso
from stablegrad.networks.layers import linear


class GaussianActor(nn.Module):
    """Mean and log standard deviation of every number of an action.

    The head starts with small weights (gain 0.01, as the policies of arXiv 2506.15544), so that the first policy is
    nearly a standard Gaussian in every state.

    Args:
        observation_shape: shape of one observation.
        action_size: how many numbers an action has.
        encoder: settings of the encoder.
        torso: settings of the torso.
    """

    def __init__(
        self, observation_shape: Sequence[int], action_size: int, *, encoder: EncoderConfig, torso: TorsoConfig
    ):
        super().__init__()
        self.encoder = make_encoder(encoder, observation_shape, is_image=False)
        self.torso = make_torso(torso, self.encoder.out_features)
        self.head = linear(self.torso.out_features, 2 * action_size, gain=0.01)

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to means and log standard deviations, ``[batch, 2 * action_size]``."""
        return self.head(self.torso(self.encoder(observation)))

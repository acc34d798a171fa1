"""Gaussian policies: encoder, torso, linear head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig, make_encoder, make_torso
from stablegrad.networks.heads import make_head
from stablegrad.networks.running_norm import RunningNorm


class GaussianActor(nn.Module):
    """Mean and log standard deviation of every number of an action.

    The head starts with small weights (gain 0.01, as the policies of arXiv 2506.15544), so that the first policy is
    nearly a standard Gaussian in every state.

    Args:
        observation_shape: shape of one observation.
        action_size: how many numbers an action has.
        encoder: settings of the encoder.
        torso: settings of the torso.
        normalize: normalise observations by their running moments, without a bound; see ``RunningNorm``.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        action_size: int,
        *,
        encoder: EncoderConfig,
        torso: TorsoConfig,
        normalize: bool = False,
    ):
        super().__init__()
        self.normalizer = RunningNorm(observation_shape, clip=None) if normalize else nn.Identity()
        self.encoder = make_encoder(encoder, observation_shape, is_image=False)
        self.torso = make_torso(torso, self.encoder.out_features)
        self.head = make_head(self.torso, 2 * action_size, gain=0.01, groups=2)

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to means and log standard deviations, ``[batch, 2 * action_size]``."""
        return self.head(self.torso(self.encoder(self.normalizer(observation))))

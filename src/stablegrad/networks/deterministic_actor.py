"""Deterministic policies: encoder, torso, linear head, tanh."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig, make_encoder, make_torso
from stablegrad.networks.heads import make_head
from stablegrad.networks.running_norm import RunningNorm


class DeterministicActor(nn.Module):
    """One action for every observation.

    The head starts with small weights (gain 0.01, as ``GaussianActor``), so that the first actions are near 0, where
    the tanh is steep (Lillicrap et al. 2016, arXiv 1509.02971, section 7).

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
        self.head = make_head(self.torso, action_size, gain=0.01)

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to actions ``[batch, action_size]`` in [-1, 1]."""
        return self.head(self.torso(self.encoder(self.normalizer(observation)))).tanh()

"""Policies and state values of on-policy agents: apart, or on one encoder and torso."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stablegrad.networks.config import EncoderConfig, TorsoConfig, make_encoder, make_torso
from stablegrad.networks.layers import linear
from stablegrad.networks.running_norm import RunningNorm

#: Gains of the last layers (arXiv 2506.15544): nearly uniform first policies, values of unit scale.
POLICY_GAIN, VALUE_GAIN = 0.01, 1.0


class Body(nn.Module):
    """Normalisation, encoder and torso.

    Args:
        observation_shape: shape of one observation.
        encoder: settings of the encoder.
        torso: settings of the torso.
        is_image: whether observations are (C, H, W) bytes.
        normalize: normalise observations by their running moments; see ``RunningNorm``.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        *,
        encoder: EncoderConfig,
        torso: TorsoConfig,
        is_image: bool,
        normalize: bool,
    ):
        super().__init__()
        self.normalizer = RunningNorm(observation_shape) if normalize else None
        self.encoder = make_encoder(encoder, observation_shape, is_image=is_image)
        self.torso = make_torso(torso, self.encoder.out_features)
        self.out_features = self.torso.out_features

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to features ``[batch, out_features]``."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        return self.torso(self.encoder(observation))


class GaussianHead(nn.Module):
    """Features to the means of a diagonal Gaussian, whose standard deviations are the same in every state.

    Args:
        in_features: size of the input.
        size: how many numbers an action has.
        log_std: logarithm of every standard deviation at the start.
    """

    def __init__(self, in_features: int, size: int, log_std: float):
        super().__init__()
        self.linear = linear(in_features, size, gain=POLICY_GAIN)
        self.log_std = nn.Parameter(torch.full((size,), log_std))

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to means and log standard deviations, ``[batch, 2 * size]``."""
        mean = self.linear(features)
        return torch.cat([mean, self.log_std.to(mean.dtype).expand_as(mean)], dim=1)


class Policy(nn.Module):
    """A policy of its own: body and head."""

    def __init__(self, body: Body, head: nn.Module):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to what the head returns."""
        return self.head(self.body(observation))


class StateValue(nn.Module):
    """A value of its own: body and one output, or logits of ``outputs`` returns."""

    def __init__(self, body: Body, outputs: int = 1):
        super().__init__()
        self.body = body
        self.head = linear(body.out_features, outputs, gain=VALUE_GAIN)

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to ``[batch, outputs]``."""
        return self.head(self.body(observation))


class ActorCritic(nn.Module):
    """Policy and value on one body; the value is one output, or logits of ``outputs`` returns."""

    def __init__(self, body: Body, head: nn.Module, outputs: int = 1):
        super().__init__()
        self.body, self.value = body, linear(body.out_features, outputs, gain=VALUE_GAIN)
        self.head = head

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, *observation_shape]`` to what the head returns, and values ``[batch, outputs]``."""
        features = self.body(observation)
        value = self.value(features)
        # The policy's head last: the monitor takes the last layer called for the head.
        return self.head(features), value

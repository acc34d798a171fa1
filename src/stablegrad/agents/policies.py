"""Distributions of actions as pure functions of a network's outputs, drawn with a generator of one's own.

``torch.distributions`` takes no generator, without which a resumed run could not draw what the first one drew.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """A family of distributions over actions; outputs are [batch, ...], float32."""

    def sample(self, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions, and their log probabilities [batch]."""

    def mode(self, outputs: Tensor) -> Tensor:
        """The most likely action of each row."""

    def log_prob_and_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities of actions, and entropies in nats, [batch] each."""


class Categorical:
    """One of several actions by its logits, [batch, actions]; actions are int64 [batch]."""

    def sample(self, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The largest logit after Gumbel noise, which is a draw by the probabilities, and its log probability."""
        noise = torch.empty_like(outputs).exponential_(generator=generator)
        action = (outputs - noise.log()).argmax(dim=1)
        return action, outputs.log_softmax(dim=1).gather(1, action[:, None]).squeeze(1)

    def mode(self, outputs: Tensor) -> Tensor:
        """The action of the largest logit."""
        return outputs.argmax(dim=1)

    def log_prob_and_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log p(action), and -sum p log p."""
        log_probs = outputs.log_softmax(dim=1)
        return log_probs.gather(1, action[:, None]).squeeze(1), -(log_probs.exp() * log_probs).sum(dim=1)


class DiagonalGaussian:
    """Independent normal numbers by means and log standard deviations, [batch, 2 * size]; actions are [batch, size].

    Actions are unbounded; who acts clips them to the environment's box, and the density stays that of the draw.
    """

    def sample(self, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """mean + std * noise, and its log density."""
        mean, log_std = outputs.chunk(2, dim=1)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return torch.addcmul(mean, log_std.exp(), noise), self._log_density(noise, log_std)

    def mode(self, outputs: Tensor) -> Tensor:
        """The mean."""
        return outputs.chunk(2, dim=1)[0]

    def log_prob_and_entropy(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of the actions, and the differential entropy."""
        mean, log_std = outputs.chunk(2, dim=1)
        entropy = (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=1)
        return self._log_density((action - mean) * (-log_std).exp(), log_std), entropy

    @staticmethod
    def _log_density(noise: Tensor, log_std: Tensor) -> Tensor:
        return (-0.5 * (noise.square() + math.log(2.0 * math.pi)) - log_std).sum(dim=1)

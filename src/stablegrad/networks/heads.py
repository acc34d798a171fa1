"""The last layer behind a torso."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from stablegrad.networks.layers import linear
from stablegrad.networks.simba import SimbaTorso
from stablegrad.networks.simba_v2 import SimbaV2Head, SimbaV2Torso

if TYPE_CHECKING:
    from stablegrad.networks.config import Torso


def make_head(torso: Torso, outputs: int, *, gain: float, groups: int = 1) -> nn.Module:
    """A linear layer that reads a torso's features; behind SimbaV2's torso, SimbaV2's head.

    Args:
        torso: carries ``out_features``.
        outputs: size of the output.
        gain: of the orthogonal first weights; behind SimBa's torso they have its gain of 1.
        groups: parts of the output that have hidden layers of their own in SimbaV2's head.
    """
    if isinstance(torso, SimbaV2Torso):
        return SimbaV2Head(torso.out_features, outputs, groups)
    return linear(torso.out_features, outputs, gain=1.0 if isinstance(torso, SimbaTorso) else gain)

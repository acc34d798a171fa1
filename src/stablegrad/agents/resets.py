"""Resets of hidden units that do nothing or learn nothing: which they are, and how they begin anew.

ReDo: Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", 2023 (arXiv 2302.12902). ReGraMa:
Liu et al., "Measure gradients, not activations!", 2025 (arXiv 2505.24061).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.networks.units import Units
from stablegrad.optimizers.held import held_of


def activity(units: Units, output: Tensor) -> Tensor:
    """[batch, units] float32: mean absolute activation of each row, over a channel's places and CReLU's two channels.

    Args:
        units: some units.
        output: what their activation gave, [batch, channels, ...].
    """
    return units.by_unit(output.detach()).float().abs().mean(dim=(1, 3))


def gradient_size(units: Units) -> Tensor:
    """[units]: mean absolute gradient of each unit's incoming weights; zero where there was no backward pass."""
    gradient = units.layer.weight.grad
    if gradient is None:
        return torch.zeros(units.count, device=units.layer.weight.device)
    return gradient.flatten(1).abs().mean(dim=1)


def dormant(size: Tensor, threshold: float) -> Tensor:
    r"""[units] bool: :math:`m_i \le \tau \frac{1}{H} \sum_k m_k` (arXiv 2302.12902, definition 3.1).

    A layer that is zero throughout is dormant throughout; of one that is not finite no unit is.

    Args:
        size: [units] m, at least 0, in any unit.
        threshold: tau.
    """
    return size <= threshold * size.mean()


@torch.no_grad()
def renew_(layers: Sequence[Units], chosen: Sequence[Tensor], optimizer: Optimizer, generator: torch.Generator) -> None:
    """Let units begin anew, in place and without waiting for the device.

    Incoming weights are rows of a new orthogonal matrix of gain sqrt(2), as at the start; the bias is 0, and where a
    norm stands behind the layer, so is its bias, and its gain 1. Outgoing weights are 0, also between two units that
    both begin anew, so the outputs of a network without norms change only by what the units gave. What the optimizer
    keeps for each of these entries is 0; counts of steps, and what it keeps for several entries together, stay (see
    ``held_of``).

    Args:
        layers: the units of several layers of one network.
        chosen: for each of them [units] bool, those that begin anew.
        optimizer: of the network.
        generator: draws the weights, those of all units whether they are chosen or not; on the network's device.
    """
    for units, rows in zip(layers, chosen, strict=True):
        weight = units.layer.weight
        fresh = nn.init.orthogonal_(torch.empty_like(weight), math.sqrt(2.0), generator=generator)
        weight.copy_(torch.where(_unit_first(rows, weight), fresh, weight))
        for held in held_of(optimizer, weight):
            _fill_(held, rows, 0.0)
        for owner in (units.layer, units.norm):
            for name, parameter in owner.named_parameters(recurse=False):
                if parameter is weight:
                    continue
                _fill_(parameter, rows, 1.0 if name == "weight" else 0.0)
                for held in held_of(optimizer, parameter):
                    _fill_(held, rows, 0.0)
    for units, rows in zip(layers, chosen, strict=True):
        for reader, first in units.readers:
            for entries in (reader.weight, *held_of(optimizer, reader.weight)):
                _fill_(units.outgoing(entries, first), rows, 0.0)


def _fill_(entries: Tensor, rows: Tensor, value: float) -> None:
    entries.masked_fill_(_unit_first(rows, entries), value)


def _unit_first(rows: Tensor, entries: Tensor) -> Tensor:
    """[units] in the shape of what has the units in its first dimension, to be broadcast."""
    return rows.view(-1, *[1] * (entries.ndim - 1))

"""Weights that a parametrization computes (``torch.nn.utils.parametrize``), as an optimizer's steps see them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer


def stored_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer that an optimizer steps: ``layer.weight``, or what a parametrization computes it from."""
    stored: Any = _parametrization(layer)
    return layer.weight if stored is None else stored.original  # type: ignore[return-value]


def hold_masked(network: nn.Module, optimizer: Optimizer) -> None:
    """After every step, set weights that a parametrization masks to exactly 0.

    They have no gradient and take no part in a pass, but Kron, Shampoo, SOAP and Muon mix the entries of a matrix and
    so move them. Norms of weights and updates are then those of the network that computes.

    Args:
        network: its parametrizations with a tensor ``mask`` count; without any, nothing is done.
        optimizer: after whose steps.
    """
    masked = [
        (stored_weight(layer), one)
        for layer in network.modules()
        for one in _parametrization(layer) or ()
        if isinstance(getattr(one, "mask", None), Tensor)
    ]

    @torch.no_grad()
    def hold(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for weight, parametrization in masked:
            weight.mul_(parametrization.mask)

    if masked:
        optimizer.register_step_post_hook(hold)


def _parametrization(layer: nn.Module) -> Any:
    """What computes a layer's weight, in this order, as a ``ParametrizationList``; None: it is a plain parameter."""
    return layer.parametrizations["weight"] if parametrize.is_parametrized(layer, "weight") else None  # type: ignore[index]

"""Weight-norm projection: the weights of every unit keep the norm with which they began."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.errors import UsageError
from stablegrad.optimizers.parametrized import stored_weight
from stablegrad.optimizers.saved import save_with

#: The part of a network whose layers are projected; its head must be free to reach any value.
PART = "torso"
#: Name of the norms in the optimizer's state.
ROW_NORMS = "row_norms"


def project_rows(network: nn.Module, optimizer: Optimizer) -> None:
    """After every step, scale each row of the torso's linear weights back to the norm that it has now.

    SimbaV2 (arXiv 2502.15280) and FlashSAC (arXiv 2604.04539) project rows to norm 1, at the start and after every
    step, so that weights cannot grow and steps not fade beside them. Here the norm at the start stays, so that a
    network without LayerNorm keeps its scale from layer to layer. Biases, norms, encoders and heads are left alone;
    FlashSAC projects heads and norms, too. The norms are saved with the optimizer's state.

    Args:
        network: has a part, or parts, called ``torso`` with linear layers.
        optimizer: after whose steps; what it does not train stays as it is.

    Raises:
        UsageError: there is no such part.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    layers = [
        layer
        for name, layer in network.named_modules()
        if PART in name.split(".") and isinstance(layer, nn.Linear) and id(stored_weight(layer)) in trained
    ]
    if not layers:
        raise UsageError(f"optimizer project-rows needs trained linear layers in a part of the network called {PART!r}")
    weights = [stored_weight(layer) for layer in layers]
    norms = [_row_norms(weight) for weight in weights]
    save_with(optimizer, ROW_NORMS, norms)

    @torch.no_grad()
    def project(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for weight, norm in zip(weights, norms, strict=True):
            weight.mul_(norm / _row_norms(weight).clamp_min(torch.finfo(weight.dtype).tiny))

    optimizer.register_step_post_hook(project)


def _row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight.detach(), dim=1, keepdim=True)

"""Weight-norm projection: the weights of every unit keep one norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.errors import UsageError
from stablegrad.optimizers.parametrized import stored_weight
from stablegrad.optimizers.saved import save_with

#: Norms of rows: unchanged by us, that of the first weights, or 1.
ROW_NORM_KINDS = ("none", "first", "unit")
#: The parts of a network whose layers are projected. With "first" the head is free to reach any value.
PARTS = {"first": {"torso"}, "unit": {"torso", "head"}}
#: Name of the norms in the optimizer's state.
ROW_NORMS = "row_norms"


def project_rows(network: nn.Module, optimizer: Optimizer, kind: str = "first") -> None:
    """After every step, scale each row of linear weights to one norm, so that weights cannot grow and steps not fade.

    "unit" is the projection of SimbaV2 (arXiv 2502.15280), XQC (arXiv 2509.25174) and FlashSAC (arXiv 2604.04539): norm
    1, of torso and head, at once and after every step. It wants norms behind the layers and a head that classifies, as
    theirs. "first" keeps the norms of the torso's rows as they are now, so that a network without LayerNorm keeps its
    scale from layer to layer, and leaves the head alone. Biases, norms and encoders stay free; FlashSAC projects norms,
    and XQC biases of linear layers, too. The norms are saved with the optimizer's state.

    Args:
        network: has a part, or parts, called ``torso`` with linear layers.
        optimizer: after whose steps; what it does not train stays as it is.
        kind: "first" or "unit".

    Raises:
        UsageError: there is no such part.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    layers = [
        layer
        for name, layer in network.named_modules()
        if PARTS[kind].intersection(name.split("."))
        and isinstance(layer, nn.Linear)
        and id(stored_weight(layer)) in trained
    ]
    if not layers:
        raise UsageError("optimizer project-rows needs trained linear layers in a part of the network called 'torso'")
    weights = [stored_weight(layer) for layer in layers]
    norms = [_row_norms(weight) if kind == "first" else torch.ones_like(weight[:, :1]) for weight in weights]
    save_with(optimizer, ROW_NORMS, norms)

    @torch.no_grad()
    def project(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for weight, norm in zip(weights, norms, strict=True):
            weight.mul_(norm / _row_norms(weight).clamp_min(torch.finfo(weight.dtype).tiny))

    if kind == "unit":
        project(optimizer, (), {})
    optimizer.register_step_post_hook(project)


def _row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight.detach(), dim=1, keepdim=True)

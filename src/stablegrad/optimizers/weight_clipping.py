"""Weight clipping: weights stay within a multiple of where they usually begin (Elsayed et al., arXiv 2407.01704)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from stablegrad.optimizers.parametrized import stored_weight


def clip_weights(network: nn.Module, optimizer: Optimizer, bound: float) -> RemovableHandle:
    """After every step, clamp weights and biases of linear layers and convolutions to +-bound / sqrt(inputs).

    One over the root of a layer's inputs is the bound of torch's own initialisation, which the paper clips at small
    multiples of. Norms are left alone.

    Args:
        network: whose layers are clipped; what ``optimizer`` does not train stays as it is.
        optimizer: after whose steps.
        bound: multiple of the initialisation's bound, above 0.

    Returns:
        a handle; its ``remove`` ends the clipping.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    weights: list[Tensor] = []
    limits: list[float] = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            weight = stored_weight(layer)
            limit = bound / math.sqrt(weight[0].numel())
            for parameter in (weight, layer.bias):
                if parameter is not None and id(parameter) in trained:
                    weights.append(parameter)
                    limits.append(limit)

    @torch.no_grad()
    def clip(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if weights:
            torch._foreach_clamp_min_(weights, [-limit for limit in limits])
            torch._foreach_clamp_max_(weights, limits)

    return optimizer.register_step_post_hook(clip)

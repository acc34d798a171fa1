"""Which parameters form a layer, by the names a person finds in ``print(network)``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def layer_groups(network: nn.Module) -> tuple[list[str], Tensor]:
    """Layers with a weight matrix (linear, convolution), in forward order, each with its bias.

    Returns:
        (names, layer_of_parameter): for each parameter of ``network.parameters()`` the index of its layer, or -1 where
        it belongs to none (norms), int64.
    """
    modules = dict(network.named_modules())
    names = [name for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
    number = {name: index for index, name in enumerate(names)}
    owners = [name.rpartition(".")[0] for name, _ in network.named_parameters()]
    return names, torch.tensor([number.get(owner, -1) for owner in owners])

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
    names: list[str] = []
    layer_of_parameter = []
    for parameter_name, parameter in network.named_parameters():
        module = parameter_name.rpartition(".")[0]
        if parameter.dim() >= 2:
            names.append(module)
        layer_of_parameter.append(len(names) - 1 if names and names[-1] == module else -1)
    return names, torch.tensor(layer_of_parameter)

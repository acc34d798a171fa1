"""What an optimizer saves, and going on from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

#: What pytorch_optimizer's optimizers add to a group in their first step.
COUNTED = {"step"}


def load_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state, which must be of the same kind of optimizer.

    torch takes over whatever options it is given, and fails in the next step only.

    Raises:
        ValueError: the state is of another optimizer or of other parameters.
    """
    own, saved = optimizer.param_groups[0].keys(), state["param_groups"][0].keys()
    if own - COUNTED != saved - COUNTED:
        raise ValueError(f"it was saved with the options {', '.join(sorted(saved))}")
    optimizer.load_state_dict(state)


def save_with(optimizer: Optimizer, name: str, tensors: Sequence[Tensor]) -> None:
    """Make tensors a part of an optimizer's state: ``state_dict`` copies them, ``load_state_dict`` fills them in place.

    Args:
        optimizer: whose ``load_state_dict`` then raises a ValueError for a state without them, or of other shapes.
        name: their key in the state.
        tensors: whatever belongs to the optimizer and not to a single parameter.
    """

    def add(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, name: [tensor.clone() for tensor in tensors]}

    @torch.no_grad()
    def restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
        saved = state.get(name)
        if saved is None or [one.shape for one in saved] != [one.shape for one in tensors]:
            raise ValueError(f"the optimizer's state has no {name.replace('_', ' ')} of this network")
        for own, one in zip(tensors, saved, strict=True):
            own.copy_(one)

    optimizer.register_state_dict_post_hook(add)
    optimizer.register_load_state_dict_pre_hook(restore)

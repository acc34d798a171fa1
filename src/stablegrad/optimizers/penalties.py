"""L2 penalties in the gradient: towards 0, or towards where the weights began."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from stablegrad.optimizers.saved import save_with

#: Name of the first weights in the optimizer's state.
FIRST_WEIGHTS = "first_weights"


def pull_to_zero(optimizer: Optimizer, strength: float) -> None:
    """Before every step, add ``strength * weight`` to the gradient: the penalty strength / 2 * ||weights||^2.

    As torch's own ``weight_decay`` of Adam, RAdam, SGD and RMSprop, for every optimizer: it goes through the moments or
    the preconditioner, as decoupled decay does not. After any clipping of gradients; parameters without a gradient are
    passed over. It comes before a closure that makes the gradients, so not for steps that take one.

    Args:
        optimizer: all of whose parameters are pulled.
        strength: at least 0.
    """

    @torch.no_grad()
    def pull(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        members = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        if members:
            torch._foreach_add_([one.grad for one in members], members, alpha=strength)

    optimizer.register_step_pre_hook(pull)


def pull_to_start(optimizer: Optimizer, strength: float) -> None:
    """Before every step, add ``strength * (weight - first weight)`` to the gradient (Kumar et al., arXiv 2308.11958).

    The first weights are those of now. They belong to the optimizer's state and are saved with it, one more copy of
    the network. Otherwise as :func:`pull_to_zero`.

    Args:
        optimizer: all of whose parameters are pulled.
        strength: at least 0.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    first = [one.detach().clone() for one in parameters]
    save_with(optimizer, FIRST_WEIGHTS, first)

    @torch.no_grad()
    def pull(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        pairs = [(one, start) for one, start in zip(parameters, first, strict=True) if one.grad is not None]
        if pairs:
            members, starts = map(list, zip(*pairs, strict=True))
            gradients = [one.grad for one in members]
            torch._foreach_add_(gradients, members, alpha=strength)
            torch._foreach_add_(gradients, starts, alpha=-strength)

    optimizer.register_step_pre_hook(pull)

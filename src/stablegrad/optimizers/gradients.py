"""Gradient norms and clipping, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradient_norm_(parameters: Sequence[Tensor], max_norm: float) -> tuple[Tensor, Tensor]:
    """Scale all gradients in place so that their global L2 norm is at most ``max_norm``.

    The same as ``torch.nn.utils.clip_grad_norm_``, which throws away the norm of every single parameter; here they come
    back, as they are what a diagnosis needs and cost nothing more.

    Args:
        parameters: parameters that all have a gradient.
        max_norm: largest global norm.

    Returns:
        (total, norms): the global norm, a scalar, and the norm of each parameter's gradient, [len(parameters)], both
        before clipping, on the device of the gradients.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    total = torch.linalg.vector_norm(norms)
    torch._foreach_mul_(gradients, (max_norm / (total + 1e-6)).clamp(max=1.0))
    return total, norms

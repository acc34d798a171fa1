"""Gradient norms and clipping, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradient_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float | None) -> tuple[Tensor, Tensor]:
    """Scale all gradients in place so that their global L2 norm is at most ``max_norm``.

    The same as ``torch.nn.utils.clip_grad_norm_``, which throws away the norm of every single parameter; here they come
    back, as they are what a diagnosis needs and cost nothing more.

    Args:
        parameters: parameters, or one; those without a gradient are passed over.
        max_norm: largest global norm; None: nothing is scaled.

    Returns:
        (total, norms): the global norm, a scalar, and the norm of each parameter's gradient, [number of parameters], 0
        where there is none, both before clipping, on the device of the first gradient.
    """
    members = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, member in enumerate(members):
        if member.grad is not None:
            groups.setdefault((member.grad.device, member.grad.dtype), []).append(i)
    if not groups:
        return torch.tensor(0.0), torch.zeros(len(members))
    first = next(iter(groups))[0]
    norm_of: dict[int, Tensor] = {}
    for indices in groups.values():
        norms = torch._foreach_norm([grad for i in indices if (grad := members[i].grad) is not None])
        norm_of.update(zip(indices, (norm.to(first) for norm in norms), strict=True))
    found = torch.stack(list(norm_of.values()))
    total = torch.linalg.vector_norm(found)
    if max_norm is not None:
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for (device, _), indices in groups.items():
            torch._foreach_mul_([grad for i in indices if (grad := members[i].grad) is not None], scale.to(device))
    if list(norm_of) != list(range(len(members))):
        zero = found.new_zeros(())
        found = torch.stack([norm_of.get(i, zero).to(found.dtype) for i in range(len(members))])
    return total, found

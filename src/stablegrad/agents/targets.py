"""Target networks, and the noise on actions that targets are taken of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def smoothed_action(action: Tensor, noise: Tensor, clip: float) -> Tensor:
    """Actions with noise of at most ``clip``, kept in [-1, 1]: target policy smoothing (Fujimoto et al. 2018, eq. 14).

    Args:
        action: [batch, size] in [-1, 1], of the target policy.
        noise: [batch, size].
        clip: largest noise, at least 0.

    Returns:
        [batch, size] in [-1, 1].
    """
    return (action + noise.clamp(-clip, clip)).clamp(-1.0, 1.0)


@torch.no_grad()
def polyak_update_(target: Iterable[Tensor], online: Iterable[Tensor], tau: float) -> None:
    """Move ``target`` to ``(1 - tau) * target + tau * online`` in place; ``tau`` of 1 copies."""
    torch._foreach_lerp_(list(target), list(online), tau)


@torch.no_grad()
def update_target_(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move a target network to the trained one, see ``polyak_update_``.

    Buffers of numbers, such as the singular vectors of a spectral norm, are copied: they are estimates that belong to
    the newest weights, and no mean of two makes one. Masks never change.
    """
    polyak_update_(target.parameters(), online.parameters(), tau)
    for kept, newest in zip(target.buffers(), online.buffers(), strict=True):
        if kept.is_floating_point():
            kept.copy_(newest)

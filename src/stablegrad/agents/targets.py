"""Targets of one transition each, and target networks; for targets along a rollout see ``returns``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def q_learning_target(reward: Tensor, discount: Tensor, next_q: Tensor, choosing_q: Tensor | None = None) -> Tensor:
    r"""Targets of Q-learning, :math:`r + \gamma \max_a Q(s', a)` (Mnih et al. 2015).

    With ``choosing_q`` those of Double Q-learning, :math:`r + \gamma Q(s', \arg\max_a Q_{choosing}(s', a))` (van
    Hasselt et al. 2016, arXiv 1509.06461, eq. 4).

    Args:
        reward: [batch], of one step or the discounted sum of several.
        discount: [batch], what multiplies the bootstrap: gamma to the number of steps, 0 where the episode terminated.
        next_q: [batch, actions] of the target network, at the last of the steps.
        choosing_q: [batch, actions] of the network that chooses the action; None: the target network chooses.

    Returns:
        [batch].
    """
    if choosing_q is None:
        next_value = next_q.amax(dim=1)
    else:
        next_value = next_q.gather(1, choosing_q.argmax(dim=1, keepdim=True)).squeeze(1)
    return torch.addcmul(reward, discount, next_value)


def soft_q_target(
    reward: Tensor, discount: Tensor, next_q: Tensor, next_log_prob: Tensor, temperature: Tensor
) -> Tensor:
    r"""Targets of soft Q-learning, :math:`r + \gamma (\min_i Q_i(s', a') - \alpha \log \pi(a' | s'))`.

    Haarnoja et al. 2018 (arXiv 1812.05905, eqs. 2, 3); the minimum over critics is that of Fujimoto et al. 2018.

    Args:
        reward: [batch], of one step or the discounted sum of several.
        discount: [batch], what multiplies the bootstrap: gamma to the number of steps, 0 where the episode terminated.
        next_q: [batch, critics], values of actions a' that were drawn from the policy.
        next_log_prob: [batch], their log probabilities.
        temperature: alpha, a scalar.

    Returns:
        [batch].
    """
    return torch.addcmul(reward, discount, next_q.amin(dim=1) - temperature * next_log_prob)


def clipped_q_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    r"""Targets of clipped double Q-learning, :math:`r + \gamma \min_i Q_i(s', a')` (Fujimoto et al. 2018, eq. 10).

    Args:
        reward: [batch], of one step or the discounted sum of several.
        discount: [batch], what multiplies the bootstrap: gamma to the number of steps, 0 where the episode terminated.
        next_q: [batch, critics], values of the policy's actions a'; of one critic, the targets of DDPG.

    Returns:
        [batch].
    """
    return torch.addcmul(reward, discount, next_q.amin(dim=1))


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

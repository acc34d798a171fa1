"""How much of a policy one update turns over. Nothing here makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def policy_churn(q_before: Tensor, q_after: Tensor) -> Tensor:
    r"""Share of states whose greedy action an update changed, :math:`\mathbb{E}_s [\arg\max q \ne \arg\max q']`.

    Schaul et al. (2022, arXiv 2206.00730). Of equal values the first is greedy.

    Args:
        q_before: [..., actions] values or logits before the update.
        q_after: the same states after it.

    Returns:
        0-d float32 in [0, 1]; NaN if a value is.
    """
    changed = (q_before.argmax(dim=-1) != q_after.argmax(dim=-1)).float().mean()
    return torch.where(q_before.isnan().any() | q_after.isnan().any(), torch.nan, changed)


@torch.no_grad()
def expected_atoms(logits: Tensor) -> Tensor:
    """Means of distributions over evenly spaced atoms, as places among the atoms.

    The best of them is the best expected value, whatever range the atoms have.

    Args:
        logits: [..., atoms], from the lowest atom to the highest.

    Returns:
        [...] float32, from 0 to atoms - 1.
    """
    places = torch.arange(logits.shape[-1], dtype=torch.float32, device=logits.device)
    return logits.float().softmax(dim=-1) @ places


@torch.no_grad()
def action_churn(before: Tensor, after: Tensor) -> Tensor:
    r"""Distance between the actions of a deterministic policy before and after an update.

    The root of :math:`\mathbb{E}_{s,i} [(a_i - a'_i)^2]` over states and action dimensions: what policy churn is where
    no action is greedy (Schaul et al. 2022, arXiv 2206.00730; of continuous policies as the deviation of their actions,
    Tang & Berseth 2024, arXiv 2409.04792).

    Args:
        before: [..., size] actions before the update.
        after: the same states after it.

    Returns:
        0-d float32 in units of an action, in [0, 2] where that goes from -1 to 1; NaN if an action is.
    """
    return (before.float() - after.float()).square().mean().sqrt()


def gaussian_churn(before: Tensor, after: Tensor) -> Tensor:
    """Distance between the mean actions of a Gaussian policy: :func:`action_churn` of its means.

    Args:
        before: [..., 2 * size] means, then log standard deviations, which do not count.
        after: the same states after the update.

    Returns:
        0-d float32 in units of an action; NaN if a mean is.
    """
    return action_churn(_means(before), _means(after))


def tanh_gaussian_churn(before: Tensor, after: Tensor) -> Tensor:
    """Distance between the mean actions of a tanh-Gaussian policy: :func:`action_churn` of the tanh of its means.

    Args:
        before: [..., 2 * size] means of the Gaussian, then log standard deviations, which do not count.
        after: the same states after the update.

    Returns:
        0-d float32 in [0, 2]; NaN if a mean is.
    """
    return action_churn(_means(before).float().tanh(), _means(after).float().tanh())


def _means(outputs: Tensor) -> Tensor:
    return outputs[..., : outputs.shape[-1] // 2]


@torch.no_grad()
def churn_split(
    q_before: Tensor,
    q_encoder: Tensor,
    q_head: Tensor,
    q_after: Tensor,
    churn: Callable[[Tensor, Tensor], Tensor] = policy_churn,
) -> tuple[Tensor, Tensor, Tensor]:
    """Churn of an update, and what the encoder's and the head's change would each have made alone.

    The parts need not add up to the total: changes that only act together, or undo each other, are in neither or both.

    Args:
        q_before: [..., actions] of the old encoder and the old head.
        q_encoder: of the **new** encoder and the old head.
        q_head: of the old encoder and the **new** head.
        q_after: of the new encoder and the new head.
        churn: :func:`policy_churn`, or that of a continuous policy, such as :func:`action_churn`.

    Returns:
        (total, encoder, head), each as ``churn`` returns it.
    """
    return churn(q_before, q_after), churn(q_before, q_encoder), churn(q_before, q_head)

"""How much of the greedy policy one update turns over. Nothing here makes the host wait for the device."""

from __future__ import annotations

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
def churn_split(q_before: Tensor, q_encoder: Tensor, q_head: Tensor, q_after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`policy_churn` of an update, and what the encoder's and the head's change would each have made alone.

    The parts need not add up to the total: changes that only act together, or undo each other, are in neither or both.

    Args:
        q_before: [..., actions] of the old encoder and the old head.
        q_encoder: of the **new** encoder and the old head.
        q_head: of the old encoder and the **new** head.
        q_after: of the new encoder and the new head.

    Returns:
        (total, encoder, head), each 0-d float32 in [0, 1]; NaN if a value is.
    """
    return policy_churn(q_before, q_after), policy_churn(q_before, q_encoder), policy_churn(q_before, q_head)

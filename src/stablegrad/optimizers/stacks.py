"""Parameters of one block shape, preconditioned together.

The state of every parameter is a slice of the stack's tensors, so one batched product serves all of them, and what the
optimizer saves stays keyed by parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stablegrad.optimizers.partition import Partition, block_extents, from_blocks, to_blocks
from stablegrad.optimizers.whitening import (
    Factors,
    SideRule,
    gram,
    per_block,
    refresh,
    refresh_diagonal,
)

State = dict[str, Any]

# The root mean square above which a parameter's update is scaled down (Adam's is about 1).
LARGEST_UPDATE = 1.1


class Preconditioner(Protocol):
    """What a stack asks of its preconditioner."""

    def refresh(self, X: Tensor, rate: float) -> None:
        """Fit the factors to averaged gradients X [B, m, n]."""

    def apply(self, X: Tensor) -> Tensor:
        """Precondition X [B, m, n]."""


def join(states: Sequence[State], key: str) -> Tensor:
    """Concatenate one entry of all states along the blocks and make every state's entry a slice of the result."""
    stacked = torch.cat([state[key] for state in states])
    slices = stacked.split([len(state[key]) for state in states])
    for state, own in zip(states, slices, strict=True):
        state[key] = own
    return stacked


class DensePreconditioner:
    """A pair of dense factors a block; P1 = Q1' Q1 and P2 = Q2' Q2 are kept between refreshes."""

    def __init__(self, states: Sequence[State], partitions: Sequence[Partition], rule: SideRule) -> None:
        self.rule = rule
        self.factors = Factors(*(join(states, key) for key in Factors._fields))
        self.P1, self.P2 = gram(self.factors.Q1), gram(self.factors.Q2)
        extents = [block_extents(part) for part in partitions]
        self.rows = self.factors.L1.new_tensor([length for rows, _ in extents for length in rows])
        self.columns = self.factors.L1.new_tensor([length for _, columns in extents for length in columns])

    def refresh(self, X: Tensor, rate: float) -> None:
        """Fit the factors to averaged gradients X [B, m, n]."""
        fitted = refresh(self.rule, self.factors, self.P1, self.P2, X, self.rows, self.columns, rate)
        for held, new in zip(self.factors, fitted, strict=True):
            held.copy_(new)
        self.P1, self.P2 = gram(self.factors.Q1), gram(self.factors.Q2)

    def apply(self, X: Tensor) -> Tensor:
        """P1 X P2."""
        return self.P1 @ X @ self.P2


class DiagonalPreconditioner:
    """A diagonal P = q^2 a tensor, for scalars and vectors."""

    def __init__(self, states: Sequence[State]) -> None:
        self.q, self.L = join(states, "q"), join(states, "L")

    def refresh(self, X: Tensor, rate: float) -> None:
        """Fit the diagonals to averaged gradients X [B, 1, n]."""
        q, L = refresh_diagonal(self.q, self.L, X, rate)
        self.q.copy_(q)
        self.L.copy_(L)

    def apply(self, X: Tensor) -> Tensor:
        """q^2 X."""
        return self.q.square() * X


class Stack:
    """Parameters whose blocks have one shape and that have taken the same number of steps.

    Args:
        params: the parameters.
        states: their states; their tensors become slices of the stack's.
        partitions: how each of them is cut.
        rule: how dense factors are refreshed.
    """

    def __init__(
        self, params: Sequence[Tensor], states: Sequence[State], partitions: Sequence[Partition], rule: SideRule
    ) -> None:
        self.params = list(params)
        self.partitions = list(partitions)
        self.momentum = join(states, "momentum")
        self.slices = [state["momentum"] for state in states]
        self.preconditioner: Preconditioner = (
            DiagonalPreconditioner(states) if "q" in states[0] else DensePreconditioner(states, partitions, rule)
        )
        counts = [part.count for part in partitions]
        self.counts = torch.tensor(counts, device=self.momentum.device)
        self.owner = torch.repeat_interleave(self.counts, output_size=sum(counts))
        self.sizes = self.momentum.new_tensor([param.numel() for param in params])

    def holds(self, states: Sequence[State]) -> bool:
        """Whether the given states are still slices of this stack: not after a load, or a change by hand."""
        return all(state["momentum"] is own for state, own in zip(states, self.slices, strict=True))

    def per_parameter_sum(self, values: Tensor) -> Tensor:
        """Sum a number a block [B] to a number a parameter [len(params)]; deterministic on every device."""
        return torch.segment_reduce(values, "sum", lengths=self.counts, unsafe=True)

    def step(
        self,
        step: int,
        refresh: bool,
        *,
        lr: float | Tensor,
        momentum: float,
        weight_decay: float,
        precondition_lr: float,
    ) -> None:
        """One update of every parameter from its gradient.

        Nothing here waits for the device. A parameter with a gradient that is not finite is left as it is, momentum and
        preconditioner included.

        Args:
            step: how many steps these parameters have taken, this one included.
            refresh: whether this step refreshes the preconditioner.
            lr: learning rate, a number or a scalar tensor.
            momentum: decay of the gradient's running mean.
            weight_decay: decoupled weight decay, for tensors of two dimensions and more.
            precondition_lr: step size of a refresh.
        """
        gradient = torch.cat(
            [
                to_blocks(param.grad.to(self.momentum.dtype), part)
                for param, part in zip(self.params, self.partitions, strict=True)
                if param.grad is not None
            ]
        )
        broken = (~gradient.abs().amax((1, 2)).isfinite()).to(gradient.dtype)
        finite = self.per_parameter_sum(broken) == 0
        live = per_block(finite[self.owner])
        self.momentum.lerp_(torch.where(live, gradient, self.momentum), 1 - momentum)
        X = self.momentum / (1 - momentum**step)
        if refresh:
            self.preconditioner.refresh(torch.where(live, X, 0.0), precondition_lr)
        update = self.preconditioner.apply(X)
        rms = (self.per_parameter_sum(update.square().sum((1, 2))) / self.sizes).sqrt()
        scale = finite * lr * (LARGEST_UPDATE / rms).clamp_max(1.0)
        update *= per_block(scale[self.owner])
        decayed = [i for i, param in enumerate(self.params) if param.dim() >= 2]
        if weight_decay and decayed:
            kept = (1 - weight_decay * (finite * lr)).unbind()
            torch._foreach_mul_([self.params[i] for i in decayed], [kept[i] for i in decayed])
        pieces = update.split([part.count for part in self.partitions])
        changes = [from_blocks(blocks, part) for blocks, part in zip(pieces, self.partitions, strict=True)]
        torch._foreach_sub_(self.params, changes)

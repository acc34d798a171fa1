"""Parameters that are preconditioned together, so that one batched product serves many.

The state of every parameter is a slice of its stack's tensors, and what the optimizer saves stays keyed by parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from stablegrad.optimizers.partition import Partition, like
from stablegrad.optimizers.whitening import (
    SideRule,
    each,
    first_scale,
    gram,
    refreshed,
    refreshed_diagonal,
    root_mean_square,
)

State = dict[str, Any]

# Entries of a matrix stack that are worked on at once: what lies between two products stays in the processor's cache,
# and nothing as large as the parameters is allocated in passing. A GPU wants few, large products instead.
CHUNK_ON_CPU = 2**20
CHUNK_ELSEWHERE = 2**26


def join(states: Sequence[State], key: str) -> Tensor:
    """Concatenate one entry of all states and make every state's entry a slice of the result."""
    stacked = torch.cat([state[key] for state in states])
    for state, own in zip(states, stacked.split([len(state[key]) for state in states]), strict=True):
        state[key] = own
    return stacked


class MatrixStack:
    """Parameters that are matrices of one shape, with a dense factor for every block of rows and of columns.

    Attributes:
        momentum: running means of the gradients [V, rows, columns], padded.
        update: the preconditioned momentum of the last step, likewise, in the dtype of the products.

    Args:
        params: the parameters.
        states: their states; their tensors become slices of the stack's.
        part: how each of them is cut.
        rule: how factors are refreshed.
        dtype: of the products of each step; factors and momentum have the state's own.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        states: Sequence[State],
        part: Partition,
        rule: SideRule,
        dtype: torch.dtype,
    ) -> None:
        self.params, self.part, self.rule = list(params), part, rule
        self.momentum = join(states, "momentum")
        self.Q1, self.Q2, self.L1, self.L2 = (join(states, key) for key in ("Q1", "Q2", "L1", "L2"))
        self.P1, self.P2 = (torch.empty_like(Q, dtype=dtype) for Q in (self.Q1, self.Q2))
        self.update = torch.zeros_like(self.momentum, dtype=dtype)
        self.chunk = CHUNK_ON_CPU if self.momentum.device.type == "cpu" else CHUNK_ELSEWHERE
        for Q, P in ((self.Q1, self.P1), (self.Q2, self.P2)):
            self._cache_gram(Q, P)
        self._products: list[Any] = []

    def views(self, stacked: Tensor) -> list[Tensor]:
        """The parts of ``momentum`` or ``update`` that belong to the parameters, in the parameters' shapes."""
        return [like(matrix, param.shape) for matrix, param in zip(stacked, self.params, strict=True)]

    def norms(self) -> Tensor:
        """L2 norm of every parameter's update [V]."""
        return torch.linalg.vector_norm(self.update, dim=(1, 2), dtype=self.momentum.dtype)

    def precondition(self) -> None:
        """Set ``update`` to P1 momentum P2."""
        for momentum, narrowed, products in self._products:
            if narrowed is not momentum:
                narrowed.copy_(momentum)
            for left, right, out in products:
                torch.bmm(left, right, out=out)

    def refresh(self, live: Tensor, correction: Tensor, rate: float) -> None:
        """Precondition, then fit the factors to what came out.

        Args:
            live: parameters whose factors may change [V], bool.
            correction: what makes of the momentum an average, a scalar.
            rate: step size in (0, 1).
        """
        self._scale_fresh(live, correction)
        self.precondition()
        (_down, across), (rows, columns) = self.part.grid, self.part.padded
        whitened = self.update.view(-1, self.part.block_rows, columns)
        second_moment = torch.bmm(whitened, whitened.mT)
        self._fit(self.Q1, self.L1, self.P1, second_moment, self.part.columns, live, correction, rate)
        panels = [matrix.view(rows, across, -1).transpose(0, 1) for matrix in self.update]
        second_moment = torch.cat([torch.bmm(panel.mT, panel) for panel in panels])
        self._fit(self.Q2, self.L2, self.P2, second_moment, self.part.rows, live, correction, rate)
        self._balance()
        for Q, P in ((self.Q1, self.P1), (self.Q2, self.P2)):
            self._cache_gram(Q, P)

    def _scale_fresh(self, live: Tensor, correction: Tensor) -> None:
        """Give factors that were never fitted the scale of their gradient."""
        fresh = live & (self.L1.view(len(live), -1).amax(1) == 0)
        if fresh.device.type == "cpu" and not fresh.any():
            return  # on the CPU it costs nothing to look; a GPU would have to be waited for
        rms = correction * root_mean_square(self.momentum, self.part.rows * self.part.columns)
        scale = first_scale(rms, fresh, sides=2)
        for Q, P, blocks in zip((self.Q1, self.Q2), (self.P1, self.P2), self.part.grid, strict=True):
            own = each(scale.repeat_interleave(blocks))
            Q.mul_(own)
            P.mul_(own.square())

    def _fit(
        self,
        Q: Tensor,
        L: Tensor,
        P: Tensor,
        second_moment: Tensor,
        tau: float,
        live: Tensor,
        correction: Tensor,
        rate: float,
    ) -> None:
        live = live.repeat_interleave(len(Q) // len(live))
        for some in self._factor_chunks(Q):
            T = correction.square() * second_moment[some].to(Q.dtype)
            new_Q, new_L = refreshed(self.rule, Q[some], L[some], P[some], T, tau, live[some], rate)
            Q[some].copy_(new_Q)
            L[some].copy_(new_L)

    def _balance(self) -> None:
        """Give both sides of every parameter the same root mean square.

        P1 -> c P1, P2 -> P2 / c changes no update; it only keeps both sides away from the ends of the number range.
        """
        count = len(self.params)
        first, second = (torch.linalg.vector_norm(Q.view(count, -1), dim=1) for Q in (self.Q1, self.Q2))
        factor = (second / first * (self.Q1.numel() / self.Q2.numel()) ** 0.5).sqrt()
        down, across = self.part.grid
        self.Q1.mul_(each(factor.repeat_interleave(down)))
        self.Q2.div_(each(factor.repeat_interleave(across)))

    def _cache_gram(self, Q: Tensor, P: Tensor) -> None:
        for some in self._factor_chunks(Q):
            P[some].copy_(gram(Q[some]))

    def _factor_chunks(self, Q: Tensor) -> list[slice]:
        length = max(1, self.chunk // (Q.shape[1] * Q.shape[2]))
        return [slice(start, start + length) for start in range(0, len(Q), length)]

    @property
    def scratch_size(self) -> int:
        """Entries that :meth:`plan` needs."""
        buffers = 1 if self.update.dtype == self.momentum.dtype else 2
        return buffers * chunk_entries(self.part, len(self.params), self.chunk)

    def plan(self, scratch: Tensor) -> None:
        """List the products of a step as (left, right, out), all of them views made once.

        A chunk is a number of whole matrices or, of a matrix larger than a chunk, a number of its blocks of rows.

        Args:
            scratch: what lies between two products, in the dtype of the products; other stacks may use it in turn.
        """
        count, rows, columns = self.momentum.shape
        block, (down, across) = self.part.block_rows, self.part.grid
        matrices = max(1, self.chunk // (rows * columns))
        blocks = max(1, min(down, self.chunk // (block * columns)))
        self._products = []
        for v, v_end in pairwise([*range(0, count, matrices), count]):
            for i, i_end in pairwise([*range(0, down, blocks), down]):
                span = slice(i * block, i_end * block)
                X = self.momentum[v:v_end, span]
                Y = scratch[: X.numel()].view(X.shape)
                Z = self.update[v:v_end, span]
                narrowed = X if X.dtype == Y.dtype else scratch[X.numel() : 2 * X.numel()].view(X.shape)
                P1 = self.P1[v * down : v_end * down] if v_end - v > 1 else self.P1[v * down + i : v * down + i_end]
                first = (P1, narrowed.view(-1, block, columns), Y.view(-1, block, columns))
                P2 = self.P2.view(count, across, self.part.block_columns, -1)[v:v_end]
                if across == 1:
                    second = [(Y, P2[:, 0], Z)]
                else:
                    panel = (X.shape[1], across, self.part.block_columns)
                    second = [
                        (y.view(panel).transpose(0, 1), p, z.view(panel).transpose(0, 1))
                        for y, p, z in zip(Y, P2, Z, strict=True)
                    ]
                self._products.append((X, narrowed, [first, *second]))


def chunk_entries(part: Partition, count: int, chunk: int) -> int:
    """Entries of the largest chunk in which ``count`` matrices are preconditioned."""
    rows, columns = part.padded
    if rows * columns <= chunk:
        return min(count, chunk // (rows * columns)) * rows * columns
    return max(1, chunk // (part.block_rows * columns)) * part.block_rows * columns


class VectorStack:
    """Scalars and vectors, one after the other, with a diagonal preconditioner; attributes as of MatrixStack."""

    def __init__(self, params: Sequence[Tensor], states: Sequence[State]) -> None:
        self.params = list(params)
        self.momentum, self.q, self.L = (join(states, key) for key in ("momentum", "q", "L"))
        self.update = torch.zeros_like(self.momentum)
        self.lengths = torch.tensor([param.numel() for param in params], device=self.momentum.device)
        self.owner = torch.repeat_interleave(self.lengths, output_size=len(self.momentum))

    def views(self, stacked: Tensor) -> list[Tensor]:
        """The parts of ``momentum`` or ``update`` that belong to the parameters, in the parameters' shapes."""
        pieces = stacked.split([param.numel() for param in self.params])
        return [piece.view(param.shape) for piece, param in zip(pieces, self.params, strict=True)]

    def norms(self) -> Tensor:
        """L2 norm of every parameter's update [V]."""
        return torch.segment_reduce(self.update.square(), "sum", lengths=self.lengths, unsafe=True).sqrt()

    def precondition(self) -> None:
        """Set ``update`` to q^2 momentum."""
        torch.mul(self.q.square(), self.momentum, out=self.update)

    def refresh(self, live: Tensor, correction: Tensor, rate: float) -> None:
        """Fit the diagonals, then precondition; arguments as of MatrixStack's."""
        x = correction * self.momentum
        q, L = refreshed_diagonal(self.q, self.L, x, self.lengths, self.owner, live, rate)
        self.q.copy_(q)
        self.L.copy_(L)
        self.precondition()


Stack = MatrixStack | VectorStack

"""Parameters that are preconditioned together, so that one batched product serves many.

The state of every parameter is a slice of its stack's tensors, and what the optimizer saves stays keyed by parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stablegrad.optimizers.denormals import floor_of_gradients, floor_of_updates, flush_
from stablegrad.optimizers.partition import Partition, like
from stablegrad.optimizers.whitening import (
    each,
    first_scale,
    gram,
    refreshed,
    refreshed_diagonal,
    root_mean_square,
)

State = dict[str, Any]

# Entries of factors that are fitted at once: what lies between two operations stays in the processor's cache, and
# nothing as large as the parameters is allocated in passing. A GPU wants few, large products instead.
CHUNK_ON_CPU = 2**18
CHUNK_ELSEWHERE = 2**26

# Multiply-adds of a product with the factors of one side on the CPU: enough to be worth a call on every core, and the
# less lies between two products the longer the blocks are.
WORK_ON_CPU = 2**26


def chunk_size(device: torch.device) -> int:
    """Entries to work on at once."""
    return CHUNK_ON_CPU if device.type == "cpu" else CHUNK_ELSEWHERE


def product_chunk(part: Partition, device: torch.device) -> int:
    """Entries of a matrix stack to multiply at once."""
    return WORK_ON_CPU // max(part.block_rows, part.block_columns) if device.type == "cpu" else CHUNK_ELSEWHERE


def join(states: Sequence[State], key: str | Sequence[str]) -> Tensor:
    """Concatenate one entry of all states and make every state's entry a slice of the result.

    Args:
        states: the states.
        key: the entry of all of them, or one a state.
    """
    keys = [key] * len(states) if isinstance(key, str) else key
    pieces = [state[name] for state, name in zip(states, keys, strict=True)]
    stacked = torch.cat(pieces)
    for state, name, own in zip(states, keys, stacked.split(list(map(len, pieces))), strict=True):
        state[name] = own
    return stacked


class FactorBank:
    """All factors of one size, of any number of stacks and of both sides, fitted together.

    Args:
        sides: (state, side, tau): whose factors, "1" (left) or "2" (right), and the target of their second moments. The
            states' tensors become slices of the bank's.
        dtype: of ``P``, the cached products Q' Q.
        chunk: entries that are worked on at once.
    """

    def __init__(self, sides: Sequence[tuple[State, str, float]], dtype: torch.dtype, chunk: int) -> None:
        self.Q, self.L = (join([state for state, _, _ in sides], [key + s for _, s, _ in sides]) for key in ("Q", "L"))
        lengths = torch.tensor([len(state["Q" + side]) for state, side, _ in sides])
        self.tau = self.L.new_tensor([tau for _, _, tau in sides]).repeat_interleave(lengths.to(self.L.device))
        self.P = torch.empty_like(self.Q, dtype=dtype)
        piece = max(1, chunk // (self.Q.shape[1] * self.Q.shape[2]))
        self._chunks = [slice(start, start + piece) for start in range(0, len(self.Q), piece)]
        self.cache_gram()

    def cache_gram(self) -> None:
        """Bring P up to date."""
        for some in self._chunks:
            self.P[some].copy_(flush_(gram(self.Q[some]), floor_of_gradients(self.Q.dtype)))

    def fit(self, second_moment: Tensor, scale: Tensor, live: Tensor, rate: float) -> None:
        """One refresh of all factors, P excepted.

        Args:
            second_moment: of what was preconditioned, before ``scale`` [F, b, b].
            scale: what to multiply it by, a scalar.
            live: factors that may change [F], bool.
            rate: step size in (0, 1).
        """
        for some in self._chunks:
            T = scale * second_moment[some].to(self.Q.dtype)
            Q, L = refreshed(self.Q[some], self.L[some], self.P[some], T, self.tau[some], live[some], rate)
            self.Q[some].copy_(flush_(Q, floor_of_updates(Q.dtype)))
            self.L[some].copy_(L)


class Side(NamedTuple):
    """One stack's factors in a bank: a run of them, ``blocks`` a parameter."""

    bank: FactorBank
    span: slice
    blocks: int


class MatrixStack:
    """Parameters that are matrices of one shape, with a dense factor for every block of rows and of columns.

    Attributes:
        momentum: running means of the gradients [V, rows, columns], padded.
        update: the momentum as it was preconditioned last, likewise, in the dtype of the products.

    Args:
        params: the parameters.
        states: their states; their tensors become slices of the stack's.
        part: how each of them is cut.
        left: where the factors of their rows are.
        right: where those of their columns are.
    """

    def __init__(
        self, params: Sequence[Tensor], states: Sequence[State], part: Partition, left: Side, right: Side
    ) -> None:
        self.params, self.part, self.left, self.right = list(params), part, left, right
        self.momentum = join(states, "momentum")
        for state in states:  # one that was saved may have had another precision
            state["update"] = state["update"].to(left.bank.P.dtype)
        self.update = join(states, "update")
        self._products: list[Any] = []
        self._all_fitted = False  # once they are, bounds never fall to 0 again

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
        flush_(self.update, floor_of_updates(self.update.dtype))

    def scale_fresh(self, live: Tensor, correction: Tensor) -> None:
        """Give factors that were never fitted the scale of their gradient.

        Args:
            live: parameters whose factors may change [V], bool.
            correction: what makes of the momentum an average, a scalar.
        """
        if self._all_fitted:
            return
        fresh = self.left.bank.L[self.left.span].view(len(live), -1).amax(1) == 0
        if fresh.device.type == "cpu" and not fresh.any():  # a GPU would have to be waited for
            self._all_fitted = True
            return
        fresh &= live
        rms = correction * root_mean_square(self.momentum, self.part.rows * self.part.columns)
        scale = first_scale(rms, fresh, sides=2)
        for bank, span, blocks in (self.left, self.right):
            own = each(scale.repeat_interleave(blocks))
            bank.Q[span].mul_(own)
            bank.P[span].mul_(own.square())

    def second_moments(self, left: Tensor, right: Tensor) -> None:
        """Write those of the last update, by block of rows and by block of columns, into ``left`` and ``right``."""
        (_, across), (rows, columns) = self.part.grid, self.part.padded
        whitened = self.update.view(-1, self.part.block_rows, columns)
        torch.bmm(whitened, whitened.mT, out=left)
        for matrix, out in zip(self.update, right.split(across), strict=True):
            panels = matrix.view(rows, across, -1).transpose(0, 1)
            torch.bmm(panels.mT, panels, out=out)

    def balance(self) -> None:
        """Give both sides of every parameter the same root mean square.

        P1 -> c P1, P2 -> P2 / c changes no update; it only keeps both sides away from the ends of the number range.
        """
        Q1, Q2 = (side.bank.Q[side.span] for side in (self.left, self.right))
        first, second = (torch.linalg.vector_norm(Q.view(len(self.params), -1), dim=1) for Q in (Q1, Q2))
        factor = (second / first * (Q1.numel() / Q2.numel()) ** 0.5).sqrt()
        Q1.mul_(each(factor.repeat_interleave(self.left.blocks)))
        Q2.div_(each(factor.repeat_interleave(self.right.blocks)))

    @property
    def scratch_size(self) -> int:
        """Entries that :meth:`plan` needs."""
        buffers = 1 if self.update.dtype == self.momentum.dtype else 2
        return buffers * chunk_entries(self.part, len(self.params), product_chunk(self.part, self.momentum.device))

    def plan(self, scratch: Tensor) -> None:
        """List the products of a step as (left, right, out), all of them views made once.

        A chunk is a number of whole matrices or, of a matrix larger than a chunk, a number of its blocks of rows.

        Args:
            scratch: what lies between two products, in the dtype of the products; other stacks may use it in turn.
        """
        count, rows, columns = self.momentum.shape
        P1s, P2s = (side.bank.P[side.span] for side in (self.left, self.right))
        block, (down, across) = self.part.block_rows, self.part.grid
        chunk = product_chunk(self.part, self.momentum.device)
        matrices = even_share(count, chunk // (rows * columns))
        blocks = even_share(down, chunk // (block * columns))
        self._products = []
        for v, v_end in pairwise([*range(0, count, matrices), count]):
            for i, i_end in pairwise([*range(0, down, blocks), down]):
                span = slice(i * block, i_end * block)
                X = self.momentum[v:v_end, span]
                Y = scratch[: X.numel()].view(X.shape)
                Z = self.update[v:v_end, span]
                narrowed = X if X.dtype == Y.dtype else scratch[X.numel() : 2 * X.numel()].view(X.shape)
                P1 = P1s[v * down : v_end * down] if v_end - v > 1 else P1s[v * down + i : v * down + i_end]
                first = (P1, narrowed.view(-1, block, columns), Y.view(-1, block, columns))
                P2 = P2s.view(count, across, self.part.block_columns, -1)[v:v_end]
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
    (rows, columns), (down, _) = part.padded, part.grid
    blocks = even_share(down, chunk // (part.block_rows * columns))
    return even_share(count, chunk // (rows * columns)) * blocks * part.block_rows * columns


def even_share(count: int, most: int) -> int:
    """The size of the pieces, ``most`` at the most but at least 1, into which ``count`` things are cut evenly."""
    pieces = -(-count // max(1, most))
    return -(-count // pieces)


class VectorStack:
    """Scalars and vectors, one after the other, with a diagonal preconditioner; attributes as of MatrixStack."""

    def __init__(self, params: Sequence[Tensor], states: Sequence[State]) -> None:
        self.params = list(params)
        self.momentum, self.update, self.q, self.L = (join(states, key) for key in ("momentum", "update", "q", "L"))
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
        flush_(self.update, floor_of_updates(self.update.dtype))

    def refresh(self, live: Tensor, correction: Tensor, rate: float) -> None:
        """Fit the diagonals, then precondition.

        Args:
            live: parameters that may change [V], bool.
            correction: what makes of the momentum an average, a scalar.
            rate: step size in (0, 1).
        """
        x = correction * self.momentum
        q, L = refreshed_diagonal(self.q, self.L, x, self.lengths, self.owner, live, rate)
        self.q.copy_(q)
        self.L.copy_(L)
        self.precondition()

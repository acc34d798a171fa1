"""What Kron costs, before a single byte of it is allocated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from stablegrad.optimizers.classic import LARGEST_DENSE_SIDE
from stablegrad.optimizers.partition import matrix_shape, partition
from stablegrad.optimizers.schedule import Kind
from stablegrad.optimizers.stacks import CHUNK_ON_CPU, chunk_entries, product_chunk

# A parameter's step count, and an index into the stack of vectors.
STEP_BYTES = INDEX_BYTES = 8


@dataclass(frozen=True)
class Estimate:
    """Memory and arithmetic of Kron for some parameters.

    Attributes:
        parameters: entries of all parameters.
        state_bytes: what lies in memory between two steps: momentum, factors, the cached products of the factors and
            the update, without parameters and gradients.
        transient_bytes: the largest amount that a step takes on top and gives back, on the CPU.
        plain_multiply_adds: of a step that multiplies with the factors.
        refresh_multiply_adds: of a step that fits them as well; one that repeats an update has none.
        shares: of the kinds of step in the long run.
    """

    parameters: int
    state_bytes: int
    transient_bytes: int
    plain_multiply_adds: int
    refresh_multiply_adds: int
    shares: Mapping[Kind, float]

    @property
    def multiply_adds(self) -> float:
        """Of a step, on average in the long run."""
        return (
            self.shares["precondition"] * self.plain_multiply_adds + self.shares["refresh"] * self.refresh_multiply_adds
        )


def estimate_classic(shapes: Iterable[Sequence[int]], refresh_floor: float) -> Estimate:
    """The cost of Kron with the rule ``classic``, without compat, whose factors are whole triangular matrices.

    Args:
        shapes: shapes of the parameters.
        refresh_floor: refreshes a step in the long run.
    """
    total = state = plain = refresh = transient = 0
    for shape in shapes:
        m, n = matrix_shape(shape) if len(shape) > 1 else (math.prod(shape), 1)
        if not m * n:
            continue
        dense_m, dense_n = (1 < side <= LARGEST_DENSE_SIDE and len(shape) > 1 for side in (m, n))
        factors = (m * m if dense_m else m) + ((n * n if dense_n else n) if len(shape) > 1 else 0)
        total += m * n
        state += (m * n + factors) * torch.float32.itemsize
        apply = 2 * m * n * (m * dense_m + n * dense_n)
        plain += apply
        # Two products, two solves at half the price, four products for the second moments, and Q's own.
        refresh += apply + 7 * apply // 4 + m**3 * dense_m + n**3 * dense_n
        # Probe, A, B and the noisy gradient; of one side at a time both second moments, their sum and the new factor.
        transient = max(transient, (4 * m * n + 4 * factors) * torch.float32.itemsize)
    shares: dict[Kind, float] = {"refresh": refresh_floor, "precondition": 1 - refresh_floor, "repeat": 0.0}
    return Estimate(total, state, transient, plain, refresh, shares)


def estimate(
    shapes: Iterable[Sequence[int]], block_size: int, shares: Mapping[Kind, float], dtype: torch.dtype
) -> Estimate:
    """The cost of Kron with the rule ``pro`` for parameters of these shapes.

    Args:
        shapes: shapes of the parameters.
        block_size: the longest block.
        shares: of the kinds of step in the long run.
        dtype: of the products; momentum and factors are float32.
    """
    wide, narrow = torch.float32.itemsize, dtype.itemsize
    total = state = plain = refresh = scratch = moments = largest = 0
    chunk = CHUNK_ON_CPU  # of factors; one at least
    matrices: Counter[tuple[int, int]] = Counter()
    for shape in shapes:
        size = math.prod(shape)
        total += size
        state += STEP_BYTES if size else 0
        if size and len(shape) < 2:
            # momentum, q, update and the owner of each entry; L and the length
            state += size * (3 * wide + INDEX_BYTES) + wide + INDEX_BYTES
            plain, refresh = plain + 2 * size, refresh + 20 * size
        elif size:
            matrices[matrix_shape(shape)] += 1
    for shape, count in matrices.items():
        part = partition(shape, block_size)
        (rows, columns), (b1, b2) = part.padded, (part.block_rows, part.block_columns)
        factors = rows * b1 + columns * b2
        state += count * ((rows * columns + factors) * (wide + narrow) + 2 * sum(part.grid) * wide)
        apply = count * rows * columns * (b1 + b2)
        plain += apply
        # The second moments cost as much as applying; the rule four products a factor, and its square one.
        refresh += 2 * apply + 5 * count * (rows * b1 * b1 + columns * b2 * b2)
        entries = chunk_entries(part, count, product_chunk(part, torch.device("cpu")))
        scratch = max(scratch, entries * narrow * (1 if narrow == wide else 2))
        moments += count * factors
        chunk = max(chunk, b1 * b1, b2 * b2)
        largest = max(largest, count * rows * columns)
    # The second moments of all factors, and some eleven matrices of the rule's for a chunk of them; the first refresh
    # scales one stack of gradients.
    transient = moments * narrow + max(11 * min(moments, chunk), largest) * wide
    return Estimate(total, state + scratch, transient, plain, refresh, shares)

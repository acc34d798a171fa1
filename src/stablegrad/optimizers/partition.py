"""How Kron reads a tensor: as a matrix, with its rows and its columns cut into equal blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

# Lengths of blocks above this are multiples of it.
LENGTH_UNIT = 16

DEFAULT_BLOCK_SIZE = 64


@dataclass(frozen=True)
class Partition:
    """A matrix whose rows and columns are cut into equal blocks.

    Every block of rows has a factor of ``block_rows`` squared, every block of columns one of ``block_columns`` squared.
    Where a side does not divide, its last block is padded with zeros.

    Attributes:
        rows: rows of the matrix.
        columns: columns of the matrix.
        block_rows: rows of a block.
        block_columns: columns of a block.
    """

    rows: int
    columns: int
    block_rows: int
    block_columns: int

    @property
    def grid(self) -> tuple[int, int]:
        """Number of blocks of rows and of columns."""
        return -(-self.rows // self.block_rows), -(-self.columns // self.block_columns)

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns with the padding."""
        down, across = self.grid
        return down * self.block_rows, across * self.block_columns


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The most square matrix that a tensor of ``shape`` can be viewed as without moving its elements.

    A scalar is 1 x 1 and a vector 1 x n. Of two equally square choices the one that splits earlier wins.
    """
    if len(shape) < 2:
        return 1, math.prod(shape)
    splits = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
    return min(splits, key=lambda split: abs(split[0] - split[1]))


def block_length(length: int, block_size: int) -> int:
    """The length of the equal pieces, none above ``block_size``, into which ``length`` is cut.

    The fewest pieces, of a length rounded up to a multiple of 16 where ``block_size`` allows it: what is padded costs
    less than factors of many different sizes, as all of one size are fitted together (100 = 64 + 36, padded by 28).
    """
    fewest = -(-length // block_size)
    piece = -(-length // fewest)
    return piece if piece <= LENGTH_UNIT else min(-(-piece // LENGTH_UNIT) * LENGTH_UNIT, block_size)


def longest_block(shapes: Iterable[Sequence[int]], block_size: int) -> int:
    """The longest block of any of the tensors that have some; of none :data:`DEFAULT_BLOCK_SIZE`."""
    parts = [partition(shape, block_size) for shape in shapes if len(shape) >= 2 and 0 not in shape]
    return max((max(part.block_rows, part.block_columns) for part in parts), default=DEFAULT_BLOCK_SIZE)


def partition(shape: Sequence[int], block_size: int) -> Partition:
    """The partition of a tensor of ``shape``, of two dimensions or more and with at least one element."""
    rows, columns = matrix_shape(shape)
    return Partition(rows, columns, block_length(rows, block_size), block_length(columns, block_size))


def like(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of a padded matrix [..] that a tensor of ``shape`` fills, as a view of that shape."""
    rows, columns = matrix_shape(shape)
    return matrix[:rows, :columns].view(tuple(shape))

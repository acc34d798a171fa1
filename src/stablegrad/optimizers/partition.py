"""Cutting a tensor into the equal blocks that Kron preconditions, and putting it together again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Partition:
    """How one tensor is read as a matrix and cut into equal blocks.

    The last row and the last column of blocks are padded with zeros where the matrix does not divide.

    Attributes:
        shape: the tensor's own shape.
        rows: rows of the matrix.
        columns: columns of the matrix.
        block_rows: rows of a block.
        block_columns: columns of a block.
    """

    shape: tuple[int, ...]
    rows: int
    columns: int
    block_rows: int
    block_columns: int

    @property
    def grid(self) -> tuple[int, int]:
        """Number of blocks down and across."""
        return -(-self.rows // self.block_rows), -(-self.columns // self.block_columns)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return math.prod(self.grid)


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

    The largest divisor of ``length`` that is at least half a block, so that nothing is padded (3136 = 14 x 224); where
    there is none, the fewest pieces of near-equal length (257 = 129 + 128, padded by one).
    """
    fewest = -(-length // block_size)
    for pieces in range(fewest, max(fewest, 2 * length // block_size) + 1):
        if length % pieces == 0:
            return length // pieces
    return -(-length // fewest)


def partition(shape: Sequence[int], block_size: int) -> Partition:
    """The partition of a tensor of ``shape`` with at least one element.

    Tensors of fewer than two dimensions stay in one piece of 1 x n: their preconditioner is a diagonal, whose size is
    no concern.
    """
    rows, columns = matrix_shape(shape)
    if len(shape) < 2:
        return Partition(tuple(shape), rows, columns, rows, columns)
    return Partition(tuple(shape), rows, columns, block_length(rows, block_size), block_length(columns, block_size))


def to_blocks(tensor: Tensor, part: Partition) -> Tensor:
    """Cut ``tensor``, of shape ``part.shape``, into blocks [count, block_rows, block_columns], row by row of the
    grid."""
    down, across = part.grid
    matrix = tensor.reshape(part.rows, part.columns)
    pad_rows, pad_columns = down * part.block_rows - part.rows, across * part.block_columns - part.columns
    if pad_rows or pad_columns:
        matrix = F.pad(matrix, (0, pad_columns, 0, pad_rows))
    cut = matrix.reshape(down, part.block_rows, across, part.block_columns).transpose(1, 2)
    return cut.reshape(part.count, part.block_rows, part.block_columns)


def from_blocks(blocks: Tensor, part: Partition) -> Tensor:
    """Undo :func:`to_blocks`: blocks [count, block_rows, block_columns] back to a tensor of shape ``part.shape``."""
    down, across = part.grid
    grid = blocks.reshape(down, across, part.block_rows, part.block_columns).transpose(1, 2)
    matrix = grid.reshape(down * part.block_rows, across * part.block_columns)
    return matrix[: part.rows, : part.columns].reshape(part.shape)


def block_extents(part: Partition) -> tuple[list[int], list[int]]:
    """Rows and columns of every block that are not padding, two lists of length ``part.count``."""
    down, across = part.grid
    rows = [min(part.block_rows, part.rows - i * part.block_rows) for i in range(down) for _ in range(across)]
    columns = [min(part.block_columns, part.columns - j * part.block_columns) for j in range(across)] * down
    return rows, columns

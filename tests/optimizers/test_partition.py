from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.optimizers.partition import block_extents, block_length, from_blocks, matrix_shape, partition, to_blocks

SHAPES = st.lists(st.integers(1, 13), max_size=5).map(tuple)


@given(SHAPES, st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_round_trip_and_no_block_above_the_size(shape, block_size):
    tensor = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape) + 1
    part = partition(shape, block_size)
    blocks = to_blocks(tensor, part)
    assert blocks.shape == (part.count, part.block_rows, part.block_columns)
    assert torch.equal(from_blocks(blocks, part), tensor)
    assert blocks.sum() == tensor.sum(), "padding must be zeros"
    if len(shape) >= 2:
        assert max(part.block_rows, part.block_columns) <= block_size


@given(SHAPES, st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_blocks_are_the_submatrices_that_a_loop_finds(shape, block_size):
    tensor = torch.randn(shape)
    part = partition(shape, block_size)
    matrix, blocks = tensor.reshape(part.rows, part.columns), to_blocks(tensor, part)
    rows, columns = block_extents(part)
    down, across = part.grid
    for i in range(down):
        for j in range(across):
            top, left = i * part.block_rows, j * part.block_columns
            expected = matrix[top : top + part.block_rows, left : left + part.block_columns]
            k = i * across + j
            assert expected.shape == (rows[k], columns[k])
            assert torch.equal(blocks[k, : rows[k], : columns[k]], expected)


@given(st.integers(1, 20000), st.integers(1, 600))
def test_pieces_are_near_equal(length, block_size):
    piece = block_length(length, block_size)
    count = -(-length // piece)
    assert 1 <= piece <= block_size
    assert piece * count - length < count, "no more padding than one row a piece"
    assert length <= block_size or piece >= block_size // 2


@pytest.mark.parametrize(
    ("length", "piece"), [(2560, 256), (3136, 224), (512, 256), (1536, 256), (256, 256), (300, 150), (257, 129), (7, 7)]
)
def test_divisors_are_preferred(length, piece):
    assert block_length(length, 256) == piece


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple))
def test_matrix_is_the_most_square_split(shape):
    rows, columns = matrix_shape(shape)
    assert rows * columns == math.prod(shape)
    for i in range(1, len(shape)):
        assert abs(rows - columns) <= abs(math.prod(shape[:i]) - math.prod(shape[i:]))


def test_nature_cnn_is_never_8192_wide():
    assert matrix_shape((64, 32, 4, 4)) == (64, 512)
    assert matrix_shape(()) == (1, 1)
    assert matrix_shape((5,)) == (1, 5)


def test_channels_last_is_read_in_logical_order():
    tensor = torch.randn(4, 3, 2, 2)
    part = partition(tensor.shape, 3)
    assert torch.equal(to_blocks(tensor.to(memory_format=torch.channels_last), part), to_blocks(tensor, part))

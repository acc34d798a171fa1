from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.optimizers.partition import (
    LENGTH_UNIT,
    block_length,
    default_block_size,
    like,
    longest_block,
    matrix_shape,
    partition,
)


@given(st.lists(st.integers(1, 13), min_size=2, max_size=5).map(tuple), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_the_view_of_a_padded_matrix_is_the_tensor(shape, block_size):
    tensor, part = torch.randn(shape), partition(shape, block_size)
    assert max(part.block_rows, part.block_columns) <= block_size
    padded = torch.zeros(part.padded)
    like(padded, shape).copy_(tensor)
    assert torch.equal(padded[: part.rows, : part.columns], tensor.reshape(part.rows, part.columns))
    assert not padded[part.rows :].any(), "padding must be zeros"
    assert not padded[:, part.columns :].any(), "padding must be zeros"


@given(st.integers(1, 20000), st.integers(1, 600))
def test_pieces_are_near_equal_up_to_the_unit(length, block_size):
    piece = block_length(length, block_size)
    count = -(-length // piece)
    assert 1 <= piece <= block_size
    assert count == -(-length // block_size), "no more pieces than needed"
    assert piece * count - length < count * LENGTH_UNIT
    assert piece <= LENGTH_UNIT or piece % LENGTH_UNIT == 0 or piece == block_size


@pytest.mark.parametrize(
    ("length", "piece"),
    [(2560, 64), (3136, 64), (512, 64), (1536, 64), (64, 64), (100, 64), (65, 48), (18, 32), (7, 7)],
)
def test_lengths_of_the_networks_we_know(length, piece):
    assert block_length(length, 64) == piece


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


@pytest.mark.parametrize(
    ("shape", "longest"),
    [
        ((512, 512), 256),
        ((511, 5000), 64),
        ((5000, 511), 64),
        ((3136, 512), 256),
        ((64, 32, 4, 4), 64),
        ((2560, 2560), 256),
    ],
)
def test_default_blocks_are_long_where_both_sides_are(shape, longest):
    assert default_block_size(*matrix_shape(shape)) == longest
    part = partition(shape, None)
    assert max(part.block_rows, part.block_columns) <= longest
    factors = part.padded[0] * part.block_rows + part.padded[1] * part.block_columns
    assert factors <= 1.2 * math.prod(part.padded), "factors take no more memory than the matrix"
    assert longest_block([shape, (7,), ()], None) == max(part.block_rows, part.block_columns)
    assert longest_block([(7,), (), (0, 9)], None) == 64

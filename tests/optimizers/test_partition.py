from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.optimizers.partition import (
    LENGTH_UNIT,
    block_length,
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
    ("shapes", "block_size", "longest"),
    [
        ([(512, 512), (7,), ()], 256, 256),
        ([(600, 40)], 256, 208),
        ([(7,), (), (0, 9)], 64, 64),
        ([(9, 5), (3, 4)], 64, 9),
    ],
)
def test_the_longest_block_of_some_tensors(shapes, block_size, longest):
    assert longest_block(shapes, block_size) == longest

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.optimizers.partition import block_length, like, matrix_shape, partition


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

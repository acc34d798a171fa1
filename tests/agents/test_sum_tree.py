import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents import sum_tree
from stablegrad.agents.sum_tree import BRANCHES, TOP, SumTree


@pytest.fixture(params=[BRANCHES, TOP], ids=["many levels", "few levels"], autouse=True, scope="module")
def top(request):
    """A low limit gives small trees as many levels as those of tens of millions of weights have."""
    sum_tree.TOP = request.param
    yield
    sum_tree.TOP = TOP


@pytest.mark.parametrize("size", [1, 7, BRANCHES, BRANCHES + 1, BRANCHES**2 + 5, 100_003])
def test_it_is_a_flat_array_over_a_million_operations(size):
    """Blocks of changes and draws, each beside the array; indices come twice at times, weights are 0 at times."""
    random = np.random.default_rng(size)
    tree, flat = SumTree(size), np.zeros(size, np.float32)
    blocks = 100
    for block in range(blocks):
        indices = random.integers(size, size=10_000 // 6)
        weights = random.exponential(size=len(indices)) * 10.0 ** random.integers(-6, 6, len(indices))
        weights[random.random(len(indices)) < 0.3] = 0.0
        tree.set(indices, weights)
        flat[indices] = weights
        np.testing.assert_array_equal(tree.weights, flat)
        cumulated = np.cumsum(flat, dtype=np.float64)
        assert tree.total == pytest.approx(cumulated[-1], rel=1e-12)
        if tree.total:
            points = random.random(100) * tree.total
            found = tree.find(points)
            assert (flat[found] > 0).all()
            # The cumulated weights on both sides of the point, up to rounding.
            slack = 1e-9 * tree.total
            assert (cumulated[found] >= points - slack).all()
            assert (cumulated[found] - flat[found] <= points + slack).all()
        if block == blocks // 2:
            tree.set(np.arange(size), 0.0)
            flat[:] = 0.0
            assert tree.total == 0.0


@settings(deadline=None, max_examples=100)
@given(weights=st.lists(st.integers(0, 3), min_size=1, max_size=100).filter(any))
def test_every_weight_is_found_at_its_points(weights):
    """Of whole numbers sums are exact, and so is what lies where, ends included."""
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), np.array(weights, float))
    owners = np.repeat(np.arange(len(weights)), weights)
    points = np.arange(len(owners), dtype=float)
    np.testing.assert_array_equal(tree.find(points), owners)
    np.testing.assert_array_equal(tree.find(points + 0.999), owners)
    assert tree.find(np.array([tree.total])) == owners[-1]


def test_no_weight_of_zero_is_found_where_rounding_is_worst():
    random = np.random.default_rng(0)
    weights = np.zeros(5000)
    there = np.sort(random.choice(5000, 700, replace=False))
    weights[there] = 10.0 ** random.uniform(-8, 8, 700)
    tree = SumTree(5000)
    tree.set(np.arange(5000), weights)
    ends = np.cumsum(weights[there])
    for points in (ends, np.nextafter(ends, 0), np.nextafter(ends, np.inf), [0.0, tree.total, 2 * tree.total]):
        assert set(tree.find(np.asarray(points, float))) <= set(there)


def test_a_tree_that_was_loaded_is_the_same_bit_for_bit():
    random = np.random.default_rng(0)
    tree, other = SumTree(3000), SumTree(3000)
    for _ in range(50):
        indices = random.integers(3000, size=64)
        tree.set(indices, random.random(64) ** 4)
    other.load(tree.weights)
    assert tree.total == other.total
    for mine, theirs in zip(tree._levels, other._levels, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    points = random.random(10_000) * tree.total
    np.testing.assert_array_equal(tree.find(points), other.find(points))


@pytest.mark.parametrize("size", [1, 33, 1000, 1_000_010])
def test_memory_is_known_beforehand(size):
    assert SumTree.bytes_needed(size) == sum(level.nbytes for level in SumTree(size)._levels)
    assert SumTree.bytes_needed(size) < 4 * 1.1 * size + 1000

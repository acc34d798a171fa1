import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.sigreg import random_directions, sigreg


def draw(rows, size, seed=0, dtype=torch.float64):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def directions(size, seed=0):
    return random_directions(size, torch.Generator().manual_seed(seed)).double()


def by_loops(features, directions, rows):
    """Over slices and t, with complex numbers."""
    total = 0.0
    for a in directions.tolist():
        slices = [sum(x * y for x, y in zip(features[row].tolist(), a, strict=True)) for row in rows]
        for k in range(8):
            t = -5.0 + 10.0 * k / 7
            mean = sum(complex(math.cos(t * s), math.sin(t * s)) for s in slices) / len(slices)
            total += abs(mean - math.exp(-t * t / 2)) ** 2
    return total / (8 * len(directions))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 99), st.floats(0.1, 5.0))
def test_it_is_a_loop_over_slices_and_points(rows, size, seed, scale):
    features, own = scale * draw(rows, size, seed), directions(size, seed)
    value = sigreg(features, own).item()
    assert value == pytest.approx(by_loops(features, own, range(rows)), rel=1e-9, abs=1e-12)
    assert 0.0 <= value <= 4.0
    assert sigreg(features, -own).item() == pytest.approx(value)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_rows_without_weight_do_not_count(counts):
    features, own = draw(len(counts), 4), directions(4)
    weight = torch.tensor(counts).float()
    rows = [row for row, counted in enumerate(counts) if counted]
    value = sigreg(features, own, weight)
    if rows:
        assert value.item() == pytest.approx(by_loops(features, own, rows), rel=1e-6)
    assert value.isfinite()


def test_its_gradient_by_finite_differences():
    features, weight = draw(6, 3).requires_grad_(), torch.tensor([1.0, 0, 1, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda x: sigreg(x, directions(3)), features)
    assert torch.autograd.gradcheck(lambda x: sigreg(x, directions(3), weight), features)
    sigreg(features, directions(3), weight).backward()
    assert features.grad[1].abs().sum() == 0 < features.grad[0].abs().sum()


def test_a_gaussian_has_none_and_others_have_more():
    quantiles = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[:, None]
    one = torch.ones(1, 1, dtype=torch.float64)
    assert sigreg(quantiles, one) < 1e-6
    assert sigreg(draw(20_000, 8), directions(8)) < 1e-3
    for other in (2 * quantiles, quantiles + 1, 0 * quantiles, quantiles.abs()):
        assert sigreg(other, one) > 0.02


def test_half_precision_is_computed_in_float32():
    features = draw(10, 4).to(torch.bfloat16)
    value = sigreg(features, directions(4).float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(sigreg(features.double(), directions(4)).item(), rel=1e-4)


def test_directions_are_unit_vectors_of_every_sign_and_the_generators_own():
    own = random_directions(64, torch.Generator().manual_seed(3))
    assert own.shape == (16, 64)
    torch.testing.assert_close(own.norm(dim=1), torch.ones(16))
    assert own.mean().abs() < 0.02
    assert torch.equal(own, random_directions(64, torch.Generator().manual_seed(3)))

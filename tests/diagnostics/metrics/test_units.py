import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stablegrad.diagnostics import metrics
from stablegrad.errors import UsageError

magnitudes = npst.arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0.0, 1e-3, 0.01, 0.5, 1.0, 7.0]))
taus = st.sampled_from([0.0, 0.01, 0.025, 0.1])


def slow_dormant(mean_abs, tau):
    """Unit by unit, as the paper defines it; a silent layer is dormant throughout."""
    mean = sum(mean_abs) / len(mean_abs)
    return sum(1 for m in mean_abs if (0.0 if mean == 0 else m / mean) <= tau) / len(mean_abs)


@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 3), 1), ((4, 5, 3), 2), ((4, 3, 2, 5), 1), ((2, 3, 2, 2, 3), 1), ((1, 3), 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mean_abs_of_each_unit_by_itself(shape, axis, dtype):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    found = metrics.unit_mean_abs(h)
    expected = [np.mean(np.abs(h.double().numpy().take(unit, axis))) for unit in range(3)]
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (5,), (2, 2, 2, 2, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(UsageError, match="2 to 5 dimensions"):
        metrics.unit_mean_abs(torch.zeros(shape))


def test_keeps_no_graph():
    h = torch.ones(2, 3, requires_grad=True)
    assert not metrics.unit_mean_abs(h.relu()).requires_grad
    assert not metrics.saturated_fraction(h.tanh(), -1, 1).requires_grad


@given(magnitudes, taus)
@settings(deadline=None)
def test_dormant_is_a_slow_count(mean_abs, tau):
    found = metrics.dormant_fraction(torch.from_numpy(mean_abs), tau)
    assert float(found) == pytest.approx(slow_dormant(mean_abs.tolist(), tau))


@given(magnitudes, st.integers(-20, 20), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_dormancy_knows_neither_scale_nor_order(mean_abs, exponent, random):
    units = torch.from_numpy(mean_abs)
    order = list(range(len(units)))
    random.shuffle(order)
    changed = units[order] * 2.0**exponent
    assert metrics.dormant_fraction(changed) == metrics.dormant_fraction(units)
    assert metrics.dead_fraction(changed) == metrics.dead_fraction(units)


@given(magnitudes)
@settings(deadline=None)
def test_dead_units_are_zeros_and_dormant_too(mean_abs):
    units = torch.from_numpy(mean_abs)
    dead = float(metrics.dead_fraction(units))
    assert dead == pytest.approx(np.count_nonzero(mean_abs == 0) / len(mean_abs))
    assert 0 <= dead <= float(metrics.gradient_dormant_fraction(units)) <= float(metrics.dormant_fraction(units)) <= 1


def test_thresholds_are_those_of_the_papers():
    """100 units, one at the threshold's edge: mean 1 - as many as it takes."""
    units = torch.ones(100)
    for silent, dormant, gradient_dormant in ((0.02, 0.01, 0.0), (0.005, 0.01, 0.01), (0.03, 0.0, 0.0)):
        units[0] = silent
        assert float(metrics.dormant_fraction(units)) == pytest.approx(dormant)
        assert float(metrics.gradient_dormant_fraction(units)) == pytest.approx(gradient_dormant)


def test_a_silent_layer_is_dormant_throughout():
    assert metrics.dormant_fraction(torch.zeros(5)) == 1
    assert metrics.gradient_dormant_fraction(torch.zeros(5)) == 1
    assert metrics.dead_fraction(torch.zeros(5)) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_layer_has_no_fraction(bad):
    """Comparisons with NaN are false, and an infinite mean makes all others look silent."""
    units = torch.tensor([1.0, bad, 0.0])
    for function in (metrics.dormant_fraction, metrics.gradient_dormant_fraction, metrics.dead_fraction):
        assert function(units).isnan()
    assert metrics.saturated_fraction(torch.tensor([0.0, bad]), -1, 1).isnan()


def test_gradients_find_a_unit_that_no_output_reads():
    """Loud, so not dormant by its activation, but no part of the loss."""
    torch.manual_seed(0)
    inputs, first, second = torch.randn(64, 8), torch.randn(8, 4), torch.randn(4, 2)
    second[2] = 0
    h = torch.tanh(inputs @ first).requires_grad_()
    (gradient,) = torch.autograd.grad((h @ second).square().sum(), h)
    assert metrics.dormant_fraction(metrics.unit_mean_abs(h)) == 0
    assert metrics.gradient_dormant_fraction(metrics.unit_mean_abs(gradient)) == 0.25


@given(npst.arrays(np.float64, npst.array_shapes(max_dims=4, max_side=5), elements=st.floats(-6, 6)))
@settings(deadline=None)
def test_saturated_is_a_slow_count(x):
    tanh, sigmoid = torch.from_numpy(x).tanh(), torch.from_numpy(x).sigmoid()
    slow = sum(abs(value) >= 0.97 for value in np.tanh(x).ravel()) / x.size
    assert float(metrics.saturated_fraction(tanh, -1, 1)) == pytest.approx(slow)
    slow = sum(not 0.03 < value < 0.97 for value in sigmoid.flatten().tolist()) / x.size
    assert float(metrics.saturated_fraction(sigmoid, 0, 1)) == pytest.approx(slow)
    assert metrics.saturated_fraction(-tanh, -1, 1) == metrics.saturated_fraction(tanh, -1, 1)
    assert metrics.saturated_fraction(tanh, -1, 1, margin=0.3) >= metrics.saturated_fraction(tanh, -1, 1)


def test_saturated_values_pass_as_little_gradient_as_the_docstring_says():
    x = torch.linspace(-8, 8, 10_001, dtype=torch.float64, requires_grad=True)
    for function, low, share in ((torch.tanh, -1, 0.06), (torch.sigmoid, 0, 0.12)):
        h = function(x)
        (slope,) = torch.autograd.grad(h.sum(), x)
        flat = slope <= share * slope.max()
        found = float(metrics.saturated_fraction(h, low, 1))
        assert found == pytest.approx(float(flat.double().mean()), abs=0.01)

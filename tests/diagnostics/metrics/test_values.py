import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import explained_variance_score

from stablegrad.diagnostics import metrics

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
arrays = npst.arrays(np.float64, npst.array_shapes(max_dims=3, max_side=6), elements=numbers)
pairs = npst.arrays(np.float64, st.tuples(st.just(2), st.integers(2, 20)), elements=numbers)


@given(arrays)
@settings(deadline=None)
def test_statistics_are_numpys(values):
    found = metrics.value_statistics(torch.from_numpy(values))
    expected = [values.mean(), values.std(), values.min(), values.max()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@given(pairs)
@settings(deadline=None)
def test_drift_is_a_slow_sum(values):
    old, new = values
    found = float(metrics.target_drift(torch.from_numpy(old), torch.from_numpy(new)))
    if len(set(old.tolist())) == 1:
        assert np.isnan(found)
        return
    mean = sum(old) / len(old)
    spread = sum((value - mean) ** 2 for value in old)
    moved = sum((b - a) ** 2 for a, b in zip(old, new, strict=True))
    assert found == pytest.approx((moved / spread) ** 0.5, rel=1e-6)


@given(pairs, st.floats(0.1, 10), st.floats(-100, 100))
@settings(deadline=None)
def test_drift_knows_neither_scale_nor_origin(values, scale, shift):
    old, new = torch.from_numpy(values)
    before = metrics.target_drift(old, new)
    after = metrics.target_drift(scale * old + shift, scale * new + shift)
    if old.unique().numel() > 1:  # equal values may differ by rounding afterwards
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    assert before.isnan() or before >= 0


def test_drift_of_known_moves():
    old = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert metrics.target_drift(old, old) == 0
    assert metrics.target_drift(old, old + 3) == 3
    assert metrics.target_drift(old, -old) == 2


@given(pairs)
@settings(deadline=None)
def test_explained_variance_is_scikit_learns(values):
    prediction, target = values
    found = float(metrics.explained_variance(torch.from_numpy(prediction), torch.from_numpy(target)))
    if len(set(target.tolist())) == 1:
        assert np.isnan(found)  # scikit-learn makes this 0 or 1
        return
    assert found == pytest.approx(explained_variance_score(target, prediction), rel=1e-6, abs=1e-9)
    assert found <= 1


def test_explained_variance_of_known_predictions():
    target = torch.tensor([1.0, 2.0, 4.0, 7.0])
    assert metrics.explained_variance(target, target) == 1
    assert metrics.explained_variance(target + 5, target) == 1
    assert metrics.explained_variance(torch.zeros(4), target) == 0
    assert metrics.explained_variance(-target, target) == -3


def test_equal_values_have_no_spread_although_rounding_makes_one():
    constant = torch.full((7,), 0.1, dtype=torch.float64)
    assert metrics.explained_variance(torch.zeros(7), constant).isnan()
    assert metrics.target_drift(constant, constant + 1).isnan()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_give_no_figure(bad):
    values = torch.tensor([1.0, bad, 3.0])
    assert not metrics.value_statistics(values)[:2].isfinite().any()
    assert metrics.target_drift(values, torch.ones(3)).isnan()
    assert metrics.explained_variance(torch.ones(3), values).isnan()


@given(st.integers(0, 2**31), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_rows_that_do_not_count_change_nothing(seed, rows):
    generator = np.random.default_rng(seed)
    values, target = generator.normal(size=(2, rows))
    counts = generator.random(rows) < 0.6
    counts[:2] = True
    spoiled = np.where(counts, values, np.nan), np.where(counts, target, 1e9)
    own = metrics.value_statistics(torch.tensor(spoiled[0]), torch.tensor(counts)).tolist()
    kept = values[counts]
    assert own == pytest.approx([kept.mean(), kept.std(), kept.min(), kept.max()])
    explained = metrics.explained_variance(*map(torch.tensor, (*spoiled, counts))).item()
    assert explained == pytest.approx(1 - (target - values)[counts].var() / target[counts].var())


def test_where_nothing_counts_there_are_no_figures():
    nothing = torch.zeros(3, dtype=torch.bool)
    assert metrics.value_statistics(torch.ones(3), nothing).isnan().all()
    assert metrics.explained_variance(torch.ones(3), torch.ones(3), nothing).isnan()

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stablegrad.studies import statistics

numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
some = st.lists(numbers, min_size=1, max_size=12)
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12)


@given(st.lists(numbers, min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_mean_interval_is_scipys(values, confidence):
    estimate = statistics.mean_interval(values, confidence)
    assert estimate.count == len(values)
    scale = stats.sem(values)
    if scale == 0:
        assert estimate.interval == (estimate.mean, estimate.mean)
        return
    expected = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=scale)
    np.testing.assert_allclose(estimate.interval, expected, rtol=1e-9, atol=1e-6)


def test_mean_interval_of_one_value_has_no_interval():
    estimate = statistics.mean_interval([3.0])
    assert (estimate.mean, estimate.interval, estimate.count) == (3.0, None, 1)


def test_mean_interval_over_an_axis_is_that_of_each_column():
    values = np.random.default_rng(0).normal(size=(5, 3, 4))
    whole = statistics.mean_interval(values, axis=1)
    for i in range(5):
        for j in range(4):
            column = statistics.mean_interval(values[i, :, j])
            assert whole.mean[i, j] == pytest.approx(column.mean)
            assert whole.interval[0][i, j] == pytest.approx(column.interval[0])
            assert whole.interval[1][i, j] == pytest.approx(column.interval[1])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_interval_covers_the_true_mean_as_often_as_it_says(count):
    generator = np.random.default_rng(7)
    estimate = statistics.mean_interval(generator.normal(10, 3, size=(count, 20_000)), 0.9)
    low, high = estimate.interval
    assert np.mean((low <= 10) & (high >= 10)) == pytest.approx(0.9, abs=0.01)  # standard error 0.002


@given(pairs, numbers)
def test_paired_difference_laws(values, shift):
    first, second = np.array(values).T
    forward = statistics.paired_difference(first, second)
    backward = statistics.paired_difference(second, first)
    moved = statistics.paired_difference(first + shift, second + shift)
    assert forward.mean == pytest.approx(-backward.mean)
    assert forward.mean == pytest.approx(moved.mean, abs=1e-5)
    if len(values) > 1:
        assert forward.interval[0] == pytest.approx(-backward.interval[1])


def test_paired_difference_takes_out_what_a_pair_shares():
    luck, gains = np.array([0.0, 100.0, -50.0, 30.0]), np.array([1.0, 1.2, 0.8, 1.0])
    paired = statistics.paired_difference(luck, luck + gains)
    assert paired.interval[0] > 0
    assert paired.interval == pytest.approx(stats.ttest_rel(luck + gains, luck).confidence_interval(0.95))


@given(some, some)
def test_probability_of_improvement_is_a_slow_count(x, y):
    total = 0.0
    for a in x:
        for b in y:
            total += 1.0 if a > b else 0.5 if a == b else 0.0
    assert statistics.probability_of_improvement(x, y) == pytest.approx(total / (len(x) * len(y)))


@given(some, some)
def test_probability_of_improvement_laws(x, y):
    probability = statistics.probability_of_improvement(x, y)
    assert 0 <= probability <= 1
    assert probability + statistics.probability_of_improvement(y, x) == pytest.approx(1)
    assert statistics.probability_of_improvement(np.array(x) * 2 + 8, np.array(y) * 2 + 8) == pytest.approx(probability)
    mann_whitney = stats.mannwhitneyu(x, y, method="asymptotic").statistic
    assert probability == pytest.approx(mann_whitney / (len(x) * len(y)))


@given(pairs)
def test_share_of_pairs_won_is_a_slow_count_and_antisymmetric(values):
    x, y = zip(*values, strict=True)
    share = statistics.share_of_pairs_won(x, y)
    assert share == pytest.approx(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in values) / len(values))
    assert share + statistics.share_of_pairs_won(y, x) == pytest.approx(1)


@given(some)
def test_interquartile_mean_is_scipys_trimmed_mean(values):
    assert statistics.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-6)
    kept = sorted(values)[len(values) // 4 : len(values) - len(values) // 4]
    assert statistics.interquartile_mean(values) == pytest.approx(sum(kept) / len(kept), abs=1e-6)


def test_interquartile_mean_over_an_axis():
    values = np.random.default_rng(1).normal(size=(3, 8))
    expected = [stats.trim_mean(row, 0.25) for row in values]
    np.testing.assert_allclose(statistics.interquartile_mean(values, axis=1), expected)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_missing_values_are_refused(values):
    for function in (statistics.mean_interval, statistics.interquartile_mean):
        with pytest.raises(ValueError, match=r"at least one|finite"):
            function(values)
    with pytest.raises(ValueError, match=r"at least one|finite"):
        statistics.probability_of_improvement(values, [1.0])


def test_unequal_pairs_and_odd_confidence_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        statistics.paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.mean_interval([1.0, 2.0], 95)

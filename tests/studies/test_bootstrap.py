import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.environments.atari_scores import ALE_57
from stablegrad.studies import bootstrap, statistics
from stablegrad.studies.statistics import (
    aggregate_iqm,
    aggregate_mean,
    aggregate_median,
    improvement_interval,
    paired_bootstrap,
    performance_profile,
    sample_efficiency_curve,
    stratified_bootstrap,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def same(first, second):
    np.testing.assert_array_equal(first.estimate, second.estimate)
    np.testing.assert_array_equal(first.interval, second.interval)
    assert first.count == second.count


def slow_replicates(scores, statistic, replicates, seed):
    """A run at a time, a task at a time."""
    generator = np.random.default_rng(seed)
    runs, tasks = scores.shape
    results = []
    for _ in range(replicates):
        drawn = np.empty_like(scores)
        for j in range(tasks):
            for i in range(runs):
                drawn[i, j] = scores[generator.integers(runs), j]
        results.append(float(statistic(drawn)))
    return results


@pytest.mark.parametrize("statistic", [aggregate_mean, aggregate_median, aggregate_iqm])
def test_intervals_are_those_of_a_slow_loop(statistic):
    scores = normal(4, 5) + np.arange(5)
    result = stratified_bootstrap(scores, statistic, replicates=20_000, confidence=0.9)
    expected = np.quantile(slow_replicates(scores, statistic, 3000, seed=1), [0.05, 0.95])
    assert result.estimate == pytest.approx(float(statistic(scores)))
    np.testing.assert_allclose(result.interval, expected, atol=0.06)  # the standard error of a quantile is about 0.01
    assert result.count == 4


def test_replicates_are_all_that_can_be_drawn():
    """Of 2 runs on 2 tasks there are 16 draws: their means and how often, counted out."""
    scores = np.array([[0.0, 0.0], [1.0, 10.0]])
    drawn = [np.mean([a, b, 10 * c, 10 * d]) for a, b, c, d in itertools.product((0, 1), repeat=4)]
    found = []

    def spy(replicates):
        found.extend(replicates.mean(axis=(-2, -1)))
        return replicates.mean(axis=(-2, -1))

    stratified_bootstrap(scores, spy, replicates=16_000)
    values, counts = np.unique(found[2:], return_counts=True)  # the first two are the estimate
    expected, ways = np.unique(drawn, return_counts=True)
    np.testing.assert_allclose(values, expected)
    np.testing.assert_allclose(counts, ways * 1000, rtol=0.15)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 5), st.integers(1, 4), st.floats(0.1, 10), st.floats(-100, 100))
def test_intervals_obey_their_laws(seed, runs, tasks, scale, shift):
    scores = normal(runs, tasks, seed=seed)
    options = {"replicates": 200, "rng": seed}
    result = stratified_bootstrap(scores, **options)
    low, high = result.interval
    assert scores.min() - 1e-9 <= low <= high <= scores.max() + 1e-9
    moved = stratified_bootstrap(scores * scale + shift, **options)
    np.testing.assert_allclose(moved.interval, np.array(result.interval) * scale + shift, rtol=1e-9, atol=1e-9)
    mirrored = stratified_bootstrap(-scores, aggregate_mean, **options).interval
    np.testing.assert_allclose(
        mirrored, -np.array(stratified_bootstrap(scores, aggregate_mean, **options).interval)[::-1], atol=1e-9
    )
    narrow = stratified_bootstrap(scores, confidence=0.5, **options).interval
    assert low <= narrow[0] <= narrow[1] <= high


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_permuted_seeds_change_the_interval_within_monte_carlo_error_only(seed):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(5, 8))
    result = stratified_bootstrap(scores, replicates=4000)
    shuffled = stratified_bootstrap(generator.permuted(scores, axis=0), replicates=4000)
    np.testing.assert_allclose(shuffled.estimate, result.estimate, rtol=1e-12)
    np.testing.assert_allclose(shuffled.interval, result.interval, atol=0.1)


def test_runs_without_scatter_have_an_interval_without_length():
    scores = np.tile(np.arange(6.0), (3, 1))
    result = stratified_bootstrap(scores, aggregate_mean)
    assert result.interval == (2.5, 2.5)


def test_the_same_seed_gives_the_same_interval_whatever_the_chunks(monkeypatch):
    x, y = normal(5, 6), normal(3, 6, seed=1)
    calls = {
        "one": lambda rng: stratified_bootstrap(x, replicates=1000, rng=rng),
        "two": lambda rng: improvement_interval(x, y, replicates=1000, rng=rng),
        "curve": lambda rng: sample_efficiency_curve(normal(4, 3, 5), np.arange(5), replicates=1000, rng=rng),
    }
    whole = {name: call(3) for name, call in calls.items()}
    np.random.seed(0)  # the global state must not matter
    monkeypatch.setattr(bootstrap, "CHUNK", 200)
    for name, call in calls.items():
        same(whole[name], call(3))
        same(whole[name], call(np.random.default_rng(3)))
        assert not np.array_equal(whole[name].interval, call(4).interval)


def test_a_generator_is_advanced():
    generator = np.random.default_rng(0)
    first, second = (stratified_bootstrap(normal(5, 6), replicates=1000, rng=generator) for _ in range(2))
    assert first.interval != second.interval


def test_ten_thousand_replicates_need_little_memory():
    x, y = normal(5, 57), normal(5, 57, seed=1)
    tracemalloc.start()
    statistics.aggregates(x)
    improvement_interval(x, y)
    performance_profile(x, np.linspace(0, 1, 50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


@pytest.mark.parametrize("runs", [1, 2])
def test_one_run_has_no_interval(runs):
    results = [
        stratified_bootstrap(normal(runs, 3)),
        *statistics.aggregates(normal(runs, 3)).values(),
        improvement_interval(normal(runs, 3), normal(5, 3)),
        improvement_interval(normal(5, 3), normal(runs, 3)),
        paired_bootstrap(normal(runs, 3), normal(runs, 3)),
        performance_profile(normal(runs, 3), [0.0, 1.0]),
        sample_efficiency_curve(normal(runs, 3, 2), [1, 2]),
    ]
    for result in results:
        assert result.count == runs
        assert (result.interval is None) == (runs == 1)
        assert np.isfinite(result.estimate).all()


def test_aggregates_are_those_of_one_statistic_each():
    scores = normal(5, 7)
    together = statistics.aggregates(scores, target=0.5, replicates=1000, rng=2)
    alone = {
        "iqm": aggregate_iqm,
        "median": aggregate_median,
        "mean": aggregate_mean,
        "optimality_gap": lambda x: statistics.aggregate_optimality_gap(x, 0.5),
    }
    assert list(together) == list(alone)
    for name, statistic in alone.items():
        same(together[name], stratified_bootstrap(scores, statistic, replicates=1000, rng=2))


def test_human_normalized_aggregates_are_aggregates_of_normalized_scores():
    raw = np.random.default_rng(0).uniform(0, 1000, size=(3, 57))
    result = statistics.human_normalized_aggregates(raw, ALE_57, replicates=500)
    expected = statistics.aggregates(statistics.human_normalized_scores(raw, ALE_57), replicates=500)
    for name, interval in expected.items():
        same(result[name], interval)
    labelled = statistics.ScoreMatrix(raw, ALE_57, (1, 2, 3), 10)
    same(statistics.human_normalized_aggregates(labelled, replicates=500)["iqm"], expected["iqm"])


def test_improvement_of_equals_is_a_half_and_of_betters_one():
    scores = normal(5, 4)
    equal = improvement_interval(scores, scores)
    assert equal.estimate == 0.5
    assert equal.interval[0] < 0.5 < equal.interval[1]
    better = improvement_interval(scores + 100, scores)
    assert (better.estimate, better.interval) == (1, (1, 1))


def test_improvement_interval_is_that_of_a_slow_loop():
    x, y = normal(4, 3) + 0.5, normal(6, 3, seed=1)
    result = improvement_interval(x, y)
    generator = np.random.default_rng(5)
    drawn = []
    for _ in range(3000):
        resampled = [
            np.stack([generator.choice(scores[:, j], len(scores)) for j in range(3)], axis=1) for scores in (x, y)
        ]
        drawn.append(statistics.probability_of_improvement(*resampled))
    assert result.estimate == pytest.approx(statistics.probability_of_improvement(x, y))
    np.testing.assert_allclose(result.interval, np.quantile(drawn, [0.025, 0.975]), atol=0.03)
    assert result.count == 4


def test_pairs_are_drawn_together():
    luck, gains = normal(5, 6) * 100, 1 + 0.01 * normal(5, 6, seed=1)
    paired = paired_bootstrap(luck, luck + gains, aggregate_mean)
    assert paired.estimate == pytest.approx(gains.mean())
    same_as_differences = stratified_bootstrap(gains, aggregate_mean)
    np.testing.assert_allclose(paired.interval, same_as_differences.interval, rtol=1e-9)
    backward = paired_bootstrap(luck + gains, luck, aggregate_mean)
    np.testing.assert_allclose(backward.interval, -np.array(paired.interval)[::-1], rtol=1e-9)
    nothing = paired_bootstrap(luck, luck)
    assert (nothing.estimate, nothing.interval) == (0, (0, 0))
    assert paired_bootstrap(luck, luck[::-1], aggregate_mean).estimate == pytest.approx(0, abs=1e-12)  # rounding only


def test_profiles_are_shares_of_runs():
    scores, thresholds = normal(5, 6), np.linspace(-2, 2, 9)
    profile = performance_profile(scores, thresholds, rng=1)
    expected = [sum(score > threshold for score in scores.ravel()) / 30 for threshold in thresholds]
    np.testing.assert_allclose(profile.estimate, expected, rtol=1e-12)
    np.testing.assert_array_equal(profile.thresholds, thresholds)
    for i, threshold in enumerate(thresholds):
        alone = stratified_bootstrap(scores, lambda x, t=threshold: (x > t).mean(axis=(-2, -1)), rng=1)
        np.testing.assert_allclose([end[i] for end in profile.interval], alone.interval, rtol=1e-12)
    for values in (profile.estimate, *profile.interval):
        assert (np.diff(values) <= 0).all()
    ends = performance_profile(scores, [scores.min() - 1, scores.max()])
    np.testing.assert_array_equal(ends.estimate, [1, 0])


def test_a_curve_is_an_aggregate_at_every_budget_of_the_same_runs():
    scores, budgets = normal(5, 4, 3), [10, 20, 40]
    curve = sample_efficiency_curve(scores, budgets, aggregate_median, rng=1)
    for i in range(3):
        alone = stratified_bootstrap(scores[:, :, i], aggregate_median, rng=1)
        np.testing.assert_allclose(curve.estimate[i], alone.estimate, rtol=1e-12)
        np.testing.assert_allclose([end[i] for end in curve.interval], alone.interval, rtol=1e-12)
    np.testing.assert_array_equal(curve.budgets, budgets)


@pytest.mark.parametrize(("runs", "least", "most"), [(5, 0.83, 0.96), (10, 0.90, 0.97), (30, 0.925, 0.975)])
def test_intervals_cover_the_true_value_nearly_as_often_as_they_say(runs, least, most):
    """Skewed scores of unlike tasks, 500 repetitions, so 0.95 has a standard error of 0.01.

    The variance of resampled means is (n - 1) / n of what it should be: of 5 runs, normal scores would be covered 92
    times in 100, and skewed ones less often. The margins are what is known of the method, not what this code happens to
    give.
    """
    generator = np.random.default_rng(11)
    scales = np.linspace(0.2, 2, 8)

    def repetitions(*shape):
        return generator.gamma(2.0, scales, size=(*shape, 8))

    scores, many = repetitions(500, runs), repetitions(200_000)
    truth = {
        "iqm": aggregate_iqm(many),
        "mean": aggregate_mean(many),
        "optimality_gap": statistics.aggregate_optimality_gap(many),
    }
    found = statistics.aggregates(scores, replicates=500)
    for name, value in truth.items():
        low, high = found[name].interval
        assert least <= np.mean((low <= value) & (value <= high)) <= most, name


def test_the_interval_of_an_improvement_covers_it():
    generator = np.random.default_rng(12)
    x, y = generator.normal(0.5, 1, size=(300, 10, 6)), generator.normal(0, 1, size=(300, 10, 6))
    truth = 0.6381631950841185  # the normal distribution function at 0.5 / sqrt(2)
    covered = [
        low <= truth <= high
        for low, high in (improvement_interval(a, b, replicates=400).interval for a, b in zip(x, y, strict=True))
    ]
    assert 0.90 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stratified_bootstrap([1.0, 2.0]), "runs, tasks"),
        (lambda: stratified_bootstrap([[1.0], [2.0, 3.0]]), "as many runs for every task"),
        (lambda: stratified_bootstrap([[1.0, np.nan]]), "finite"),
        (lambda: stratified_bootstrap(normal(3, 3), confidence=95), "between 0 and 1"),
        (lambda: stratified_bootstrap(normal(3, 3), replicates=10), "at least 100"),
        (lambda: stratified_bootstrap(normal(3, 3), np.mean), "reduce the last two axes"),
        (lambda: stratified_bootstrap(normal(3, 2), lambda x: x.mean(axis=0).mean(axis=0)), "keep those before"),
        (lambda: stratified_bootstrap(normal(3, 2), lambda x: x.mean(axis=(-2, -1)) * np.inf), "finite for every"),
        (lambda: improvement_interval(normal(3, 3), normal(3, 2)), "same tasks"),
        (lambda: improvement_interval(normal(3), normal(3)), "runs, tasks"),
        (lambda: paired_bootstrap(normal(3, 2), normal(4, 2)), "one shape"),
        (lambda: performance_profile(normal(3, 3), [1.0, 0.0]), "increases"),
        (lambda: performance_profile(normal(3, 3), []), "at least one"),
        (lambda: performance_profile(normal(2, 3, 3), [0.0]), "runs, tasks"),
        (lambda: sample_efficiency_curve(normal(3, 3), [1, 2, 3]), "runs, tasks, budgets"),
        (lambda: sample_efficiency_curve(normal(3, 3, 2)), "name the environment steps"),
        (lambda: sample_efficiency_curve(normal(3, 3, 2), [1, 2, 3]), "3 budgets for scores at 2"),
    ],
)
def test_odd_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

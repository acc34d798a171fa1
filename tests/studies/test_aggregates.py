import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from stablegrad.environments.atari_scores import ALE_57, human_normalized_score
from stablegrad.studies import statistics
from stablegrad.studies.statistics import (
    ScoreMatrix,
    aggregate_iqm,
    aggregate_mean,
    aggregate_median,
    aggregate_optimality_gap,
)

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
matrices = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=numbers)
AGGREGATES = (aggregate_mean, aggregate_median, aggregate_iqm, aggregate_optimality_gap)
TIGHT = {"rtol": 1e-12, "atol": 1e-10}


def slow(scores):
    runs, tasks = scores.shape
    means = sorted(sum(scores[i, j] for i in range(runs)) / runs for j in range(tasks))
    middle = (means[(tasks - 1) // 2] + means[tasks // 2]) / 2
    every = sorted(scores.ravel())
    kept = every[len(every) // 4 : len(every) - len(every) // 4]
    gap = sum(max(0.0, 1.0 - score) for score in every) / len(every)
    return [sum(means) / tasks, middle, sum(kept) / len(kept), gap]


@given(matrices)
def test_aggregates_are_slow_sums(scores):
    np.testing.assert_allclose([aggregate(scores) for aggregate in AGGREGATES], slow(scores), **TIGHT)


@given(matrices)
def test_iqm_is_scipys_trimmed_mean_of_all_runs(scores):
    expected = stats.trim_mean(scores, 0.25, axis=None)
    np.testing.assert_allclose(aggregate_iqm(scores), expected, **TIGHT)
    np.testing.assert_allclose(statistics.interquartile_mean(scores, axis=None), expected, **TIGHT)


@pytest.mark.parametrize("count", range(1, 14))
def test_iqm_rounds_its_cut_as_scipy_does(count):
    values = np.random.default_rng(count).normal(size=(count, 1))
    np.testing.assert_allclose(aggregate_iqm(values), stats.trim_mean(values, 0.25, axis=None), rtol=1e-12)


def test_the_pooled_iqm_is_not_the_mean_of_the_tasks_iqms():
    scores = np.array([[0.0, 10.0]] * 4)
    scores[0] = 100.0
    assert aggregate_iqm(scores) == 7.5
    assert statistics.interquartile_mean(scores, axis=0).mean() == 5.0


@given(matrices, st.randoms(use_true_random=False), st.floats(0.1, 10), numbers)
def test_aggregates_obey_their_laws(scores, random, scale, shift):
    rows, columns = list(range(scores.shape[0])), list(range(scores.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = scores[rows][:, columns]
    for aggregate in AGGREGATES:
        np.testing.assert_allclose(aggregate(shuffled), aggregate(scores), **TIGHT)
    for aggregate in (aggregate_mean, aggregate_median, aggregate_iqm):
        moved = aggregate(scores * scale + shift)
        np.testing.assert_allclose(moved, aggregate(scores) * scale + shift, rtol=1e-9, atol=1e-9)
        assert scores.min() - 1e-9 <= aggregate(scores) <= scores.max() + 1e-9
    moved = aggregate_optimality_gap(scores * scale + shift, target=scale + shift)
    np.testing.assert_allclose(moved, aggregate_optimality_gap(scores) * scale, rtol=1e-9, atol=1e-9)
    assert aggregate_optimality_gap(scores) >= 0


def test_each_seed_shuffled_within_its_task_changes_nothing():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(5, 6))
    shuffled = generator.permuted(scores, axis=0)
    for aggregate in AGGREGATES:
        np.testing.assert_allclose(aggregate(shuffled), aggregate(scores), rtol=1e-12)


def test_axes_before_runs_and_tasks_are_kept():
    scores = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
    for aggregate in AGGREGATES:
        whole = aggregate(scores)
        assert whole.shape == (3, 2)
        np.testing.assert_allclose(whole[2, 1], aggregate(scores[2, 1]), rtol=1e-12)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_probability_of_improvement_is_the_mean_of_the_tasks(n, m, tasks, seed):
    generator = np.random.default_rng(seed)
    x, y = generator.integers(4, size=(n, tasks)), generator.integers(4, size=(m, tasks))
    expected = np.mean([statistics.probability_of_improvement(x[:, t], y[:, t]) for t in range(tasks)])
    result = statistics.probability_of_improvement(x, y)
    assert result == pytest.approx(expected, abs=1e-12)
    assert result + statistics.probability_of_improvement(y, x) == pytest.approx(1, abs=1e-12)
    assert statistics.probability_of_improvement(x, x) == 0.5
    assert statistics.probability_of_improvement(x + 10, y) == 1


@pytest.mark.parametrize(
    ("x", "y"), [(np.ones((2, 3)), np.ones((2, 1))), (np.ones(3), np.ones((3, 1))), (np.ones((1, 2, 3)),) * 2]
)
def test_probability_of_improvement_refuses_other_tasks(x, y):
    with pytest.raises(ValueError, match=r"same tasks|both be"):
        statistics.probability_of_improvement(x, y)


def test_human_normalized_scores_are_the_tables():
    raw = np.random.default_rng(0).uniform(0, 1e4, size=(2, 3, 57))
    result = statistics.human_normalized_scores(raw, ALE_57)
    for j, game in enumerate(ALE_57):
        np.testing.assert_array_equal(result[..., j], human_normalized_score(game, raw[..., j]))
    labelled = statistics.human_normalized_scores(ScoreMatrix(raw[0, :, :2], ("Pong-v5", "Alien"), (1, 2, 3), 10))
    assert (labelled.tasks, labelled.seeds, labelled.budget) == (("Pong-v5", "Alien"), (1, 2, 3), 10)
    np.testing.assert_array_equal(labelled.values[:, 1], human_normalized_score("Alien", raw[0, :, 1]))


@pytest.mark.parametrize(
    ("games", "message"),
    [
        (None, "name the 2 columns"),
        (["Pong"], "name the 2 columns"),
        ("Pong", "name the 2 columns"),
        (["Pong", "Pong-v5"], "named once, got Pong"),
        (["Pong", "Alienn"], "Alien"),
    ],
)
def test_games_that_do_not_fit_are_refused(games, message):
    with pytest.raises(ValueError, match=message):
        statistics.human_normalized_scores(np.ones((3, 2)), games)


def test_a_labelled_matrix_names_its_own_games():
    scores = ScoreMatrix(np.ones((1, 1)), ("Pong",), (1,), 10)
    for function in (statistics.human_normalized_scores, statistics.human_normalized_aggregates):
        with pytest.raises(ValueError, match="left out"):
            function(scores, ["Alien"])


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], "runs, tasks"),
        ([[1.0], [2.0, 3.0]], "as many runs for every task"),
        ([[1.0, float("nan")]], "finite"),
        (np.ones((0, 3)), "at least one"),
        (np.ones((3, 0)), "at least one"),
    ],
)
def test_odd_matrices_are_refused(aggregate, scores, message):
    with pytest.raises(ValueError, match=message):
        aggregate(scores)


def test_an_odd_target_is_refused():
    with pytest.raises(ValueError, match="target should be finite"):
        aggregate_optimality_gap(np.ones((2, 2)), float("inf"))

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.studies import statistics
from stablegrad.studies.scores import without_rounding
from stablegrad.studies.statistics import Score, ScoreMatrix, score_matrix

RUNS = [Score(task, seed, 1000, 10.0 * seed + len(task)) for task in ("pong", "boxing") for seed in (2, 1, 3)]


def labelled(tasks=("boxing", "pong"), seeds=(1, 2, 3), budget=1000):
    values = np.random.default_rng(0).normal(size=(len(seeds), len(tasks)))
    return ScoreMatrix(values, tuple(tasks), tuple(seeds), budget)


def test_runs_in_any_order_become_one_matrix():
    result = score_matrix(reversed(RUNS))
    assert (result.tasks, result.seeds, result.budget) == (("boxing", "pong"), (1, 2, 3), 1000)
    np.testing.assert_array_equal(result, [[16, 14], [26, 24], [36, 34]])


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "at least one run"),
        ([*RUNS, Score("pong", 1, 1000, 5.0)], "pong has two scores of seed 1"),
        ([*RUNS[1:], Score("pong", 2, 2000, 5.0)], "one budget, got 1000, 2000 environment steps"),
        (RUNS[1:], "pong has none of seed 2"),
        ([*RUNS, Score("pong", 4, 1000, 1.0)], "boxing has none of seed 4"),
        ([*RUNS[1:], Score("pong", 2, 1000, float("nan"))], "pong has no finite score of seed 2"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(runs, message):
    with pytest.raises(ValueError, match=message):
        score_matrix(runs)


def test_a_matrix_keeps_its_own_values():
    values = np.ones((2, 1))
    kept = ScoreMatrix(values, ("pong",), (1, 2), 10)
    values[0] = 7
    assert kept.values[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(kept)[0] = 7


@pytest.mark.parametrize(
    ("tasks", "seeds", "message"),
    [
        (("a", "b"), (1, 2), "2 seeds and 2 tasks have shape (2, 1)"),
        (("a",), (1, 1), "every seed should be named once"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tasks, seeds, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ScoreMatrix(np.ones((2, 1)), tasks, seeds, 10)


def test_what_is_mixed_is_refused():
    ours = labelled()
    unpaired = (statistics.probability_of_improvement, statistics.improvement_interval)
    for function in (*unpaired, statistics.paired_bootstrap):
        function(ours, labelled())
        with pytest.raises(ValueError, match=r"same tasks; only in .*: pong; only in .*: tennis"):
            function(ours, labelled(tasks=("boxing", "tennis")))
        with pytest.raises(ValueError, match=r"same tasks; only in .*: tennis$"):
            function(ours, labelled(tasks=("boxing", "pong", "tennis")))
        with pytest.raises(ValueError, match="same tasks; the order differs"):
            function(ours, labelled(tasks=("pong", "boxing")))
        with pytest.raises(ValueError, match=r"same budget; only in .*: 1000; only in .*: 2000"):
            function(ours, labelled(budget=2000))
    for function in unpaired:
        function(ours, labelled(seeds=(4, 5)))
    with pytest.raises(ValueError, match="same seeds; only in first: 3; only in second: 4"):
        statistics.paired_bootstrap(ours, labelled(seeds=(1, 2, 4)))
    with pytest.raises(ValueError, match="same tasks"):
        statistics.stratified_bootstrap(
            ours, lambda x, y: x.mean(axis=(-2, -1)) - y.mean(axis=(-2, -1)), against=labelled(tasks=("a", "b"))
        )


def test_sample_efficiency_refuses_budgets_of_other_runs():
    early, late = labelled(budget=10), labelled(budget=20)
    np.testing.assert_array_equal(statistics.sample_efficiency_curve([early, late]).budgets, [10, 20])
    with pytest.raises(ValueError, match="budget 10 and budget 20 should be of the same seeds"):
        statistics.sample_efficiency_curve([early, labelled(seeds=(1, 2, 4), budget=20)])
    with pytest.raises(ValueError, match="increases"):
        statistics.sample_efficiency_curve([late, early])
    with pytest.raises(ValueError, match="left out"):
        statistics.sample_efficiency_curve([early, late], [10, 20])


def test_statistics_take_labelled_matrices_as_arrays():
    scores = labelled()
    assert statistics.aggregate_iqm(scores) == statistics.aggregate_iqm(scores.values)
    assert statistics.stratified_bootstrap(scores) == statistics.stratified_bootstrap(scores.values)


@given(
    st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=20),
    st.lists(st.sampled_from([0.0, 1e-12, -1e-12, 3e-13]), min_size=20, max_size=20),
)
def test_what_differs_by_rounding_becomes_one_number_and_nothing_else_does(numbers, errors):
    exact = np.array(numbers, dtype=float)
    rounded = exact * (1 + np.array(errors[: len(numbers)]))
    first, second = without_rounding(exact, rounded)
    assert (first == second).all()
    np.testing.assert_allclose(first, exact, rtol=1e-9)
    assert len(np.unique(first)) == len(np.unique(exact))  # whole numbers stay apart


def test_paired_statistics_call_rounding_equal():
    values = np.array([0.1, 0.7, 123.4])
    again = values * (1 + 1e-13)
    assert statistics.paired_difference(values, again).interval == (0.0, 0.0)
    assert statistics.share_of_pairs_won(again, values) == statistics.probability_of_improvement(again, values) == 0.5
    both = statistics.paired_bootstrap(values[:, None] * [1, 2], again[:, None] * [1, 2], replicates=200)
    assert both.estimate == 0 and both.interval == (0, 0)

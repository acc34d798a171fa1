"""Our statistics against rliable 1.2 itself, on shared cases."""

import numpy as np
import pytest

from stablegrad.studies import statistics

library = pytest.importorskip(
    "rliable.library", reason="rliable, the witness, is a development dependency", exc_type=ImportError
)
metrics = pytest.importorskip("rliable.metrics")

SHAPES = [(1, 1), (2, 3), (3, 10), (5, 57), (7, 6), (10, 26)]
REPLICATES = 2000
EXACT = {"rtol": 1e-12, "atol": 1e-12}

AGGREGATES = {
    "iqm": metrics.aggregate_iqm,
    "median": metrics.aggregate_median,
    "mean": metrics.aggregate_mean,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


def cases():
    """Scores like those of agents: skewed, of unlike tasks; and coarse ones, with ties."""
    for seed, shape in enumerate(SHAPES):
        generator = np.random.default_rng(seed)
        yield generator.gamma(1.0, np.linspace(0.2, 3, shape[1]), size=shape) - 0.1
        yield generator.integers(4, size=shape) / 2


@pytest.mark.parametrize("scores", list(cases()), ids=lambda scores: f"{scores.shape}")
def test_point_estimates_are_rliables(scores):
    for name, rliables in AGGREGATES.items():
        ours = getattr(statistics, f"aggregate_{name}")(scores)
        np.testing.assert_allclose(ours, rliables(scores), err_msg=name, **EXACT)
    for target in (0.5, 2.0):
        ours = statistics.aggregate_optimality_gap(scores, target)
        np.testing.assert_allclose(ours, metrics.aggregate_optimality_gap(scores, target), **EXACT)
    thresholds = np.linspace(-0.5, 5, 30)
    profile = statistics.performance_profile(scores, thresholds, replicates=100)
    np.testing.assert_allclose(profile.estimate, library.score_distributions(scores, thresholds), **EXACT)


@pytest.mark.parametrize("scores", list(cases()), ids=lambda scores: f"{scores.shape}")
def test_probability_of_improvement_is_rliables(scores):
    generator = np.random.default_rng(3)
    for other in (scores, scores[:1], scores + 0.5, generator.integers(4, size=(4, scores.shape[1])) / 2):
        ours = statistics.probability_of_improvement(scores, other)
        np.testing.assert_allclose(ours, metrics.probability_of_improvement(scores, other), **EXACT)


def close(ours, theirs, scale):
    """Ends that rest on 2000 replicates scatter by 0.06 standard errors of the statistic, on 500 by 0.12."""
    np.testing.assert_allclose(ours, theirs, atol=0.3 * scale)


def test_intervals_of_aggregates_are_rliables():
    scores = np.random.default_rng(0).gamma(1.0, np.linspace(0.2, 3, 12), size=(5, 12))
    np.random.seed(0)  # rliable draws from the global state
    _, intervals = library.get_interval_estimates(
        {"agent": scores}, lambda x: np.array([metric(x) for metric in AGGREGATES.values()]), reps=REPLICATES
    )
    ours = statistics.aggregates(scores)
    for i, name in enumerate(AGGREGATES):
        low, high = intervals["agent"][:, i]
        close(ours[name].interval, (low, high), (high - low) / 4)


def test_the_interval_of_an_improvement_is_rliables():
    generator = np.random.default_rng(0)
    x, y = generator.normal(0.3, 1, size=(5, 8)), generator.normal(0, 1, size=(4, 8))
    np.random.seed(0)  # rliable draws from the global state
    _, intervals = library.get_interval_estimates(
        {"pair": [x, y]}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=500
    )
    low, high = intervals["pair"][:, 0]
    close(statistics.improvement_interval(x, y).interval, (low, high), (high - low) / 4)


def test_bands_of_profiles_are_rliables():
    scores, thresholds = np.random.default_rng(0).normal(size=(5, 10)), np.linspace(-1.5, 1.5, 7)
    np.random.seed(0)  # rliable draws from the global state
    _, bands = library.create_performance_profile({"agent": scores}, thresholds, reps=REPLICATES)
    ours = statistics.performance_profile(scores, thresholds)
    # Shares of 50 runs: an end may lie one run further.
    np.testing.assert_allclose(ours.interval, bands["agent"], atol=0.021)


def test_sample_efficiency_is_rliables():
    scores = np.random.default_rng(0).normal(size=(5, 6, 4)) + np.arange(4)
    np.random.seed(0)  # rliable draws from the global state
    estimates, intervals = library.get_interval_estimates(
        {"agent": scores},
        lambda x: np.array([metrics.aggregate_iqm(x[..., i]) for i in range(4)]),
        reps=REPLICATES,
    )
    ours = statistics.sample_efficiency_curve(scores, [1, 2, 3, 4])
    np.testing.assert_allclose(ours.estimate, estimates["agent"], **EXACT)
    low, high = intervals["agent"]
    close(ours.interval, (low, high), (high - low).mean() / 4)

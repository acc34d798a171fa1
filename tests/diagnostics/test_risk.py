"""The probability that a training ends failed: its arithmetic, its words, and what it says of what is missing."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.diagnostics import History, risk
from stablegrad.diagnostics.risk import QUANTITIES, assess, quantities
from stablegrad.diagnostics.rules import Outcome

MODEL = {
    "intercept": -0.5,
    "coefficients": {"dormant units": 1.0, "churn": 0.5, "way": -2.0, "lost capacity": 1.5},
    "means": {"dormant units": 0.2, "churn": 0.1, "way": 0.5, "lost capacity": 0.0},
    "deviations": {"dormant units": 0.1, "churn": 0.1, "way": 0.25, "lost capacity": 0.5},
    "reliability": [{"up_to": up, "trainings": 10, "failed": n} for n, up in enumerate((0.2, 0.4, 0.6, 0.8, 1.0))],
}


@pytest.fixture(autouse=True)
def fitted(monkeypatch):
    monkeypatch.setattr(risk, "_models", lambda: {"returns": MODEL})


def history(dormant=0.4, churn=0.1, refit=None):
    rows = []
    for step in range(1, 11):
        row = {"gradient_norm/a": 1.0, "dormant/a": dormant, "dormant/b": dormant, "churn/network": churn}
        if refit is not None:
            row |= {"refit_error/network": refit, "refit_error_fresh/network": 0.1, "refit_error_small/network": 0.1}
        rows.append((step, row))
    return History(rows)


def outcome(last=100.0, **known):
    return Outcome(np.arange(1, 11), np.linspace(0.0, last, 10), **known)


def test_the_arithmetic_is_that_of_a_logistic_regression():
    found = assess(history(refit=1.0), outcome(random=0.0, target=200.0))
    way = (np.median(np.linspace(0.0, 100.0, 10)[-3:])) / 200.0
    odds = -0.5 + 1.0 * (0.4 - 0.2) / 0.1 + 0.0 - 2.0 * (way - 0.5) / 0.25 + 1.5 * 1.0 / 0.5
    assert found.probability == pytest.approx(1 / (1 + math.exp(-odds)))
    assert (found.alike, found.failed) == (10, 4)
    assert found.with_returns


def test_drivers_are_told_with_their_direction():
    found = assess(history(dormant=0.5, refit=0.1), outcome(random=0.0, target=100.0))
    assert [words for words, change in found.drivers if change > 0] == ["many units are dormant"]
    assert "returns have come far" in [words for words, change in found.drivers if change < 0]
    assert "for it: many units are dormant; against it: returns have come far" in found.in_words
    assert found.in_words.startswith("it ends failed with a probability of ")


def test_what_was_not_measured_is_taken_for_usual_and_too_little_says_nothing():
    usual = assess(history(dormant=0.2), outcome())
    assert usual.probability == pytest.approx(1 / (1 + math.exp(0.5)))
    bare = History([(step, {"gradient_norm/a": 1.0}) for step in range(1, 11)])
    assert assess(bare, outcome()) is None
    assert assess(history(), None) is None  # no model without returns here


def test_values_far_out_count_as_the_limit():
    assert assess(history(dormant=1.0), outcome()).probability == assess(history(dormant=0.9), outcome()).probability


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=40),
    st.lists(st.floats(0, 1e9) | st.just(math.nan) | st.just(math.inf), min_size=3, max_size=12),
)
def test_whatever_was_recorded_gives_numbers_or_nothing(returns, values):
    rows = [(n, {f"{metric}/a": value for metric in ("gradient_norm", "weight_norm", "error_signal", "output_std",
             "output_size", "dormant", "update_ratio", "effective_rank", "feature_count")})
            for n, value in enumerate(values)]  # fmt: skip
    found = quantities(History(rows), Outcome(np.arange(len(returns)), np.array(returns)))
    assert set(found) == set(QUANTITIES)
    assert all(isinstance(value, float) for value in found.values())
    result = assess(History(rows), Outcome(np.arange(len(returns)), np.array(returns)))
    assert result is None or 0 <= result.probability <= 1


def test_quantities_of_returns():
    def of(returns, **known):
        return quantities(history(), Outcome(np.arange(len(returns)), np.array(returns, float), **known))

    risen = of([0.0] * 5 + [10.0] * 10, random=0.0, target=20.0)
    assert risen["way"] == pytest.approx(0.5)
    assert risen["fallen"] == 0.0
    assert risen["rising"] == 0.0  # nothing came of late
    fallen = of([0.0] * 5 + [10.0] * 5 + [0.0] * 5)
    assert fallen["fallen"] == 1.0
    assert math.isnan(fallen["way"])
    assert of([-5.0] * 12)["gain"] == 0.0


def test_the_published_numbers_fit_the_quantities():
    """risk.json holds a coefficient, a mean and a deviation for known quantities only, and a share for every fifth."""
    from importlib import resources

    path = resources.files("stablegrad.diagnostics").joinpath("risk.json")
    if not path.is_file():
        pytest.skip("nothing was fitted yet: the corpus has too few runs (docs/benchmarks.md)")
    for model in json.loads(path.read_text()).values():
        names = set(model["coefficients"])
        assert names <= set(QUANTITIES)
        assert names == set(model["means"]) == set(model["deviations"])
        assert [row["up_to"] for row in model["reliability"]] == [0.2, 0.4, 0.6, 0.8, 1.0]
        assert all(row["failed"] <= row["trainings"] for row in model["reliability"])

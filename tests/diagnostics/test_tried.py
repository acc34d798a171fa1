"""Changes that were seen to restore deep agents come first where an agent has failed, and tell how often they did."""

import pytest

from stablegrad.diagnostics import Finding, prescriptions, tried
from stablegrad.diagnostics.prescriptions import prescribe
from stablegrad.diagnostics.tried import FEWEST, Tried

FITTING = frozenset({"multi_skip", "kron", "residual", "layer_norm", "lower_learning_rate", "clip_gradients"})


def finding(rule, level="collapsing"):
    return Finding(rule, level, "network", 100, 0.0, 1.0, "it has not learned")


@pytest.fixture
def records(monkeypatch):
    found = {
        "residual": Tried(9, 10),
        "layer_norm": Tried(6, 10),
        "multi_skip": Tried(7, 10),
        "kron": Tried(1, 10),
    }
    monkeypatch.setattr(prescriptions, "tried", found.get)


def names(*rules):
    return [one.name for one in prescribe([finding(rule) for rule in rules], FITTING)]


@pytest.mark.usefixtures("records")
def test_what_restored_most_comes_first():
    assert names("not_learned")[:3] == ["residual", "multi_skip", "layer_norm"]
    assert names("fallen_back")[:3] == ["residual", "multi_skip", "layer_norm"]
    first = prescribe([finding("not_learned")], FITTING)[0]
    assert "it restored 9 of 10 deep agents that had failed" in first.helps
    assert first.helps in first.why[0].lower() + first.why[1:] or first.helps[1:] in first.why


@pytest.mark.usefixtures("records")
def test_a_fault_of_the_program_is_answered_first():
    """Records are of agents whose program is right."""
    assert names("not_learned", "unscaled_input") == names_without_records("not_learned", "unscaled_input")


def names_without_records(*rules):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prescriptions, "tried", lambda name: None)
        return names(*rules)


@pytest.mark.usefixtures("records")
def test_without_an_outcome_nothing_changes():
    for rule in ("vanishing_gradient", "thrown_weights", "dormant_units"):
        assert names(rule) == names_without_records(rule)


def test_few_pairs_say_nothing(monkeypatch):
    monkeypatch.setattr(tried, "_all", lambda: {"kron": Tried(FEWEST - 1, FEWEST - 1), "residual": Tried(2, FEWEST)})
    assert tried.tried("kron") is None
    assert tried.tried("residual").in_words == f"it restored 2 of {FEWEST} deep agents that had failed"
    assert tried.tried("nothing") is None


def test_the_published_counts_are_of_known_changes():
    from stablegrad.diagnostics.interventions import INTERVENTIONS

    for name, one in tried._all().items():
        assert name in INTERVENTIONS
        assert 0 <= one.restored <= one.of

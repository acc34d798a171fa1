import dataclasses

import pytest

from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics.rules import Finding
from stablegrad.studies.reference_run import (
    differences_in_words,
    differing_options,
    is_smaller,
    reference_prescription,
    size_in_words,
)
from stablegrad.studies.run_trial import changed_configs
from stablegrad.training.config import default_run

BEHIND = Finding("learns_less", "at risk", "network", 5, 1.0, 2.0, "the return is 1; that of the other went to 2")


def make(algorithm="pqn", **changes):
    run = default_run(algorithm, "CartPole-v1")
    return dataclasses.replace(run, agent=apply_changes(run.agent, changes))


def differ(own, other):
    return differing_options(own.to_json(), other.to_json())


def test_differences_are_told_largest_first_and_seeds_and_budgets_are_none():
    own = make(**{"torso.depth": "large", "torso.norm": "none", "optimizer.name": "kron"})
    other = dataclasses.replace(make(), seed=7, total_steps=5)
    found = differ(own, other)
    assert list(found) == ["torso.depth", "optimizer.name", "torso.norm"]
    assert differences_in_words(found) == (
        "torso.depth small instead of large, optimizer.name radam instead of kron, torso.norm layer instead of none"
    )
    assert differ(own, own) == {} and differences_in_words({}) == ""
    many = differences_in_words({f"option{number}": (1, None) for number in range(8)})
    assert many.endswith("option5 none instead of 1 and 2 more options")


def test_networks_are_called_what_they_are():
    assert size_in_words(100, 20) == "a smaller network (20 parameters, this one 100)"
    assert size_in_words(20, 100) == "a larger network (100 parameters, this one 20)"
    assert size_in_words(100, 105) == size_in_words(100, 105) == "a network of the same size (105 parameters)"
    assert size_in_words(None, 5) == size_in_words(5, None) == "a network"
    assert [is_smaller(100, 20), is_smaller(20, 100), is_smaller(100, 100), is_smaller(None, 5)] == [1, 0, 0, 1]


def test_what_learned_more_is_prescribed_as_a_command_and_as_a_trial():
    own, other = make(**{"torso.depth": "large"}), make(**{"optimizer.name": "kron"})
    prescription = reference_prescription(own.to_json(), differ(own, other), BEHIND, "runs/small")
    assert "--optimizer.name kron" in prescription.code["cli"] and "--torso.depth" not in prescription.code["cli"]
    assert prescription.title.startswith("the settings of the run beside: torso.depth small instead of large")
    (config,) = changed_configs(own, [prescription]).values()
    assert config.agent == other.agent and config.seed == own.seed


@pytest.mark.parametrize(
    ("own", "other", "behind"),
    [
        (make(), make(), BEHIND),
        (make(), make(**{"optimizer.name": "kron"}), None),
        (make(), make("dqn"), BEHIND),
    ],
)
def test_nothing_is_prescribed_where_nothing_speaks_for_it(own, other, behind):
    assert reference_prescription(own.to_json(), differ(own, other), behind, "runs/other") is None

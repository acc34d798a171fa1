"""The option that was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.cli.option_names import SEVERAL, SYNONYMS, nearest_options

OPTIONS = [
    *("--help", "--env", "--seed", "--discount", "--num-envs", "--num-steps", "--num-epochs", "--num-minibatches"),
    *("--total-steps", "--torso.width", "--torso.depth", "--torso.norm", "--torso.no-variance-preserving"),
    *("--torso.variance-preserving", "--encoder.norm", "--optimizer.name", "--optimizer.learning-rate", "--quiet"),
    *("--optimizer.adam-learning-rate", "--optimizer.kron.block-size", "--json", "--no-json", "--run-dir"),
]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr", ["--optimizer.learning-rate"]),
        ("--learning-rate", ["--optimizer.learning-rate"]),
        ("--LEARNING_RATE", ["--optimizer.learning-rate"]),
        ("--optimizer.lr", ["--optimizer.learning-rate"]),
        ("--learnin-rate", ["--optimizer.learning-rate"]),
        ("--net-arch", ["--torso.width", "--torso.depth"]),
        ("--hidden-size", ["--torso.width"]),
        ("--n-layers", ["--torso.depth"]),
        ("--width", ["--torso.width"]),
        ("--norm", ["--encoder.norm", "--torso.norm"]),
        ("--torso.dept", ["--torso.depth"]),
        ("--dept", ["--torso.depth"]),
        ("--n-steps", ["--num-steps"]),
        ("--n_envs", ["--num-envs"]),
        ("--batch-size", ["--num-minibatches"]),
        ("--gamma", ["--discount"]),
        ("--total-timesteps", ["--total-steps"]),
        ("--optimizer", ["--optimizer.name"]),
        ("--log-dir", ["--run-dir"]),
        ("--verbose", ["--quiet"]),
        ("--no-jason", ["--no-json"]),
        ("--see", ["--seed"]),
        ("--foo", []),
        ("-v", []),
        ("--hel", []),
        ("", []),
    ],
)
def test_what_was_meant(typed, meant):
    assert nearest_options(typed, OPTIONS) == meant


def test_an_option_that_the_command_has_is_not_taken_for_another():
    assert nearest_options("--batchsize", ["--batch-size", "--num-minibatches"]) == ["--batch-size"]
    assert nearest_options("--n-trials", ["--num-envs", "--trials"]) == ["--trials"]


@given(st.text(max_size=12), st.sets(st.sampled_from(OPTIONS)))
def test_only_options_of_the_command_are_named(typed, options):
    found = nearest_options(typed, options)
    assert len(found) <= 2
    assert set(found) <= options - {"--help"}


@given(st.sampled_from([(option, other) for option, others in SYNONYMS.items() for other in others]))
def test_every_synonym_leads_to_its_option(pair):
    option, other = pair
    assert nearest_options(f"--{other}", [f"--{option}", "--zzz"]) == [f"--{option}"] or other in SEVERAL

import dataclasses
import itertools
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.presets import apply_changes
from stablegrad.cli.arguments import RunOptions, parse
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.settings import RATE
from stablegrad.optimizers.catalogue import default_learning_rate
from stablegrad.studies.kinds import needs
from stablegrad.studies.search_space import (
    CLIP,
    DIMENSIONS,
    ENCODER_NORM,
    KIND,
    NORM,
    OPTIMIZER,
    SKIPS,
    Space,
    changes_of,
    fresh_seeds,
    train_command,
)
from stablegrad.training.config import RunConfig, default_run


def base(env="CartPole-v1", setting="baseline", **changes):
    config = default_run("pqn", env, setting)
    return dataclasses.replace(config, agent=apply_changes(config.agent, {"torso.width": 24, **changes}))


def prescribed(name, factor=None):
    one = INTERVENTIONS[name]
    return Prescription(name, one.title, "", (), "", 1.0, 1.0, {}, False, factor)


class Drawn:
    """A trial whose choices hypothesis makes."""

    def __init__(self, data):
        self.data = data

    def suggest_categorical(self, name, choices):
        return self.data.draw(st.sampled_from(list(choices)), name)

    def suggest_float(self, name, low, high, *, log):
        return self.data.draw(st.floats(low, high), name)

    def suggest_int(self, name, low, high):
        return self.data.draw(st.integers(low, high), name)


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(["CartPole-v1", "LunarLander-v3", "Breakout-v5"]),
    st.fixed_dictionaries(
        {
            "torso.kind": st.sampled_from(["mlp", "residual", "multi_skip", "densenet"]),
            "torso.depth": st.sampled_from([0, 1, 3, "large"]),
            "torso.norm": st.sampled_from(["layer", "none"]),
            "optimizer.name": st.sampled_from(["radam", "kron", "sgd"]),
            "optimizer.learning_rate": st.sampled_from([None, 0.0123]),
            "encoder.norm": st.sampled_from(["auto", "layer", "none"]),
        }
    ),
)
def test_every_setting_builds_within_the_budget_and_its_command_says_it(data, env, changes):
    baseline = base(env, **changes)
    space = Space(baseline)
    point = space.suggest(Drawn(data))
    config = space.config(point)
    assert needs(config).parameters <= needs(baseline).parameters == space.budget
    config.agent.optimizer.build(_tiny())  # the optimizer takes its options
    if point[KIND] != baseline.agent.torso.kind:
        assert config.agent.torso.kind == point[KIND]
    assert config.agent.torso.depth == baseline.agent.torso.depth
    assert RunConfig.from_json(config.to_json()) == config
    assert said(train_command(config)) == config


def _tiny():
    from torch import nn

    return nn.Linear(3, 2)


def said(command):
    """What ``stablegrad train`` makes of a command line."""
    words = shlex.split(command)
    assert words[:3] == ["stablegrad", "train", "pqn"]
    env = words[words.index("--env") + 1]
    preset = words[words.index("--preset") + 1] if "--preset" in words else "baseline"
    return parse(RunOptions, "train", words[3:], "", RunOptions.of(default_run("pqn", env, preset))).config


def test_the_base_point_is_the_baseline():
    for config in (base(), base(setting="stable"), base("LunarLander-v3", "multi_skip", **{"torso.depth": 3})):
        space = Space(config)
        assert space.config(space.base_point) == config == space.config({})
        assert changes_of(config, space.config({})) == {}


def test_a_command_says_presets_none_and_what_is_off():
    config = dataclasses.replace(base(setting="stable", **{"optimizer.schedule": "constant"}), threads=1)
    command = train_command(config)
    assert "--preset stable" in command and "--optimizer.schedule constant" in command and "torso.kind" not in command
    assert said(command) == config


def test_a_rate_is_kept_between_optimizers():
    space = Space(base(**{"optimizer.name": "sgd", "optimizer.learning_rate": 0.04}))
    assert space.config({}).agent.optimizer.learning_rate == 0.04
    other = space.config({OPTIMIZER: "kron"}).agent.optimizer
    assert other.initial_learning_rate == pytest.approx(0.04 / 40 * default_learning_rate("kron", 1.0))
    faster = space.config({RATE: 2.0}).agent.optimizer
    assert faster.initial_learning_rate == pytest.approx(0.08)


def test_starting_points_follow_the_diagnosis_and_repeat_nothing():
    space = Space(base(**{"torso.depth": 3}))
    names = ["kron", "layer_norm", "lower_learning_rate", "smaller_network", "multi_skip"]
    prescriptions = [prescribed(name, 1e-3 if name == "lower_learning_rate" else None) for name in names]
    points = space.starting_points(prescriptions)
    # There is a LayerNorm already, and a smaller network is not what was asked for.
    assert list(points) == ["baseline", "kron", "lower_learning_rate", "multi_skip", "prescriptions joined", "stable"]
    assert space.unsearched(prescriptions) == ["layer_norm", "smaller_network"]
    assert points["lower_learning_rate"][RATE] == 0.1  # as low as a search goes
    joined = space.config(points["prescriptions joined"]).agent
    assert (joined.torso.kind, joined.optimizer.name) == ("multi_skip", "kron")
    assert joined.optimizer.adam_learning_rate == pytest.approx(1e-4)
    assert list(space.starting_points([])) == ["baseline", "stable"]
    # What the baseline has is no starting point.
    assert list(Space(base(setting="stable")).starting_points([prescribed("kron")])) == ["baseline"]


def test_a_contradiction_between_prescriptions_is_decided_by_their_order():
    space = Space(base(**{"torso.depth": 3}))
    points = space.starting_points([prescribed("residual"), prescribed("multi_skip"), prescribed("kron")])
    joined = space.config(points["prescriptions joined"]).agent
    assert (joined.torso.kind, joined.optimizer.name) == ("residual", "kron")


def test_a_search_opens_what_is_prescribed_first_and_everything_in_the_end():
    space = Space(base())
    order = space.order([prescribed("clip_gradients"), prescribed("kron")])
    assert order[:2] == ("max_grad_norm", OPTIMIZER) and sorted(order) == sorted(DIMENSIONS)
    pinned = [set(space.pinned(order, sampled)) for sampled in range(40)]
    assert pinned[0] == set(order[3:]) and pinned[-1] == set()
    assert all(after <= before for before, after in itertools.pairwise(pinned))


@pytest.mark.parametrize(("norm", "tighter"), [(10.0, 1.0), (0.5, 0.05), (None, 1.0)])
def test_gradients_are_clipped_at_a_tenth_or_for_the_first_time(norm, tighter):
    space = Space(base(max_grad_norm=norm))
    assert space.choices[CLIP] == (norm, tighter)
    assert space.starting_points([prescribed("clip_gradients")])["clip_gradients"][CLIP] == tighter
    assert space.config({CLIP: tighter}).agent.max_grad_norm == tighter


def test_a_norm_of_images_is_said_as_one_of_the_choices():
    space = Space(base("Breakout-v5", **{"torso.norm": "none", "encoder.norm": "none"}))
    assert space.answers([prescribed("layer_norm")]) == {"layer_norm": {NORM: "layer", ENCODER_NORM: "layer"}}
    assert space.starting_points([])["stable"][ENCODER_NORM] in space.choices[ENCODER_NORM]


def test_normalised_inputs_of_images_and_vectors():
    answer = [prescribed("normalise_inputs")]
    assert Space(base()).starting_points(answer)["normalise_inputs"][ENCODER_NORM] == "layer"
    assert "normalise_inputs" not in Space(base("Breakout-v5")).starting_points(answer)


def test_skips_of_all_blocks_are_said_as_the_default():
    space = Space(base(**{"torso.depth": 3}))
    assert space.config({KIND: "multi_skip", SKIPS: 3}).agent.torso.skip_blocks is None
    assert space.config({KIND: "multi_skip", SKIPS: 2}).agent.torso.skip_blocks == 2
    assert space.config({KIND: "residual", SKIPS: 2}).agent.torso.skip_blocks is None


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=9), st.integers(1, 9))
def test_fresh_seeds_are_new(used, count):
    fresh = fresh_seeds(sorted(used), count)
    assert len(set(fresh)) == count and not used & set(fresh)

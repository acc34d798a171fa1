"""What interventions change in the options of agents: of PQN, and of one with a replay buffer and two networks."""

import dataclasses
import shlex
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.agents.contract import AgentConfig
from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.settings import RATE, changed_options, command_text, unknown_agents_command, with_rates
from stablegrad.networks import EncoderConfig, TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.options import flatten, option_words

SETTINGS = {name: one for name, one in INTERVENTIONS.items() if one.settings}


@dataclass(frozen=True)
class ActorConfig:
    learning_rate: float | None = None


@dataclass(frozen=True)
class OffPolicyConfig(AgentConfig):
    tau: float = 1.0
    target_every: int = 1000
    temperature_learning_rate: float = 3e-4
    actor: ActorConfig = field(default_factory=ActorConfig)


def options(config):
    return flatten(dataclasses.asdict(config))


@given(
    st.sampled_from(sorted(SETTINGS)),
    st.builds(
        OffPolicyConfig,
        encoder=st.builds(
            EncoderConfig,
            norm=st.sampled_from(["auto", "layer", "none"]),
            activation=st.sampled_from(["relu", "gelu", "leaky_relu"]),
        ),
        torso=st.builds(
            lambda skips, **torso: TorsoConfig(**torso, skip_blocks=skips if torso["kind"] == "multi_skip" else None),
            skips=st.sampled_from([None, 0, 3]),
            kind=st.sampled_from(["mlp", "multi_skip", "residual"]),
            depth=st.sampled_from(["medium", "large", 3, 7]),
            width=st.sampled_from(["small", "large", 64, 1024]),
            norm=st.sampled_from(["none", "layer"]),
            activation=st.sampled_from(["relu", "gelu"]),
        ),
        optimizer=st.builds(
            OptimizerConfig,
            name=st.sampled_from(["adam", "kron", "sgd"]),
            learning_rate=st.sampled_from([None, 1e-3]),
            schedule=st.sampled_from(["constant", "linear"]),
        ),
        max_grad_norm=st.sampled_from([None, 0.5, 10.0]),
        tau=st.sampled_from([1.0, 0.005]),
    ),
    st.sampled_from([None, 0.01, 100.0]),
)
def test_what_an_intervention_changes_is_valid_new_and_all_that_there_is_to_change(name, config, factor):
    own = options(config)
    changes = INTERVENTIONS[name].changes(own, factor)
    assert all(key == RATE or (key in own and own[key] != value) for key, value in changes.items())
    changed = apply_changes(config, with_rates(changes, own))
    again = INTERVENTIONS[name].changes(options(changed), factor)
    # A lower rate can be lowered again, and so on; of everything else there is nothing left.
    assert not again or name in ("activation", "clip_gradients", "slower_targets") or RATE in again
    if RATE in changes:
        rates = [one.optimizer.initial_learning_rate for one in (config, changed)]
        assert rates[1] == pytest.approx(rates[0] * changes[RATE])
        assert changed.temperature_learning_rate == config.temperature_learning_rate


def test_the_rates_of_all_networks_are_multiplied():
    config = OffPolicyConfig(actor=ActorConfig(learning_rate=1e-3))
    rates = with_rates({RATE: 0.5}, options(config))
    assert rates == {"optimizer.adam_learning_rate": 1.25e-4, "actor.learning_rate": 5e-4}
    given = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=0.2), actor=ActorConfig())
    assert with_rates({RATE: 0.5, "tau": 0.1}, options(given)) == {"optimizer.learning_rate": 0.1, "tau": 0.1}
    assert with_rates({"tau": 0.1}, options(given)) == {"tau": 0.1}


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("layer_norm", AgentConfig(), {}),
        ("layer_norm", AgentConfig(torso=TorsoConfig(norm="none")), {"torso.norm": "layer"}),
        ("layer_norm", AgentConfig(encoder=EncoderConfig(norm="none")), {"encoder.norm": "auto"}),
        ("clip_gradients", AgentConfig(), {"max_grad_norm": 1.0}),
        ("clip_gradients", AgentConfig(max_grad_norm=5.0), {"max_grad_norm": 0.5}),
        ("slower_targets", AgentConfig(), {}),
        ("slower_targets", OffPolicyConfig(), {"target_every": 2000}),
        ("slower_targets", OffPolicyConfig(tau=0.005), {"tau": 0.001}),
        ("smaller_network", AgentConfig(), {}),
        ("smaller_network", AgentConfig(torso=TorsoConfig(depth=3, width=64)), {"torso.depth": 1}),
        ("activation", AgentConfig(torso=TorsoConfig(activation="gelu")),
         {"torso.activation": "leaky_relu", "encoder.activation": "gelu"}),
        ("reconnect", AgentConfig(), {}),
    ],
)  # fmt: skip
def test_values_follow_from_the_agents_own(name, config, expected):
    assert INTERVENTIONS[name].changes(options(config)) == expected


def test_options_that_are_not_there_are_left_out():
    assert changed_options({"tau": 0.1, "torso.norm": "layer", RATE: 1.0}, {"torso.norm": "none"}) == {
        "torso.norm": "layer"
    }


def test_commands():
    text = unknown_agents_command(INTERVENTIONS["layer_norm"].settings)
    assert text == "stablegrad train ALGORITHM --env ENV --torso.norm layer --encoder.norm auto"
    rate = unknown_agents_command(INTERVENTIONS["raise_learning_rate"].settings, 100.0)
    assert rate.endswith("ENV --optimizer.adam-learning-rate 0.025")
    assert unknown_agents_command(INTERVENTIONS["slower_targets"].settings) is None
    assert command_text({"max_grad_norm": 0.1 + 0.2, "torso.skip_blocks": None}, ["train"]) == (
        "train --max-grad-norm 0.3 --torso.skip-blocks None"
    )


@pytest.mark.parametrize("value", [True, False])
def test_switches_are_said_as_the_command_line_has_them(value):
    assert option_words("torso.variance_preserving", value) == [
        "--torso.variance-preserving" if value else "--torso.no-variance-preserving"
    ]
    assert option_words("double_q", value) == ["--double-q" if value else "--no-double-q"]


def test_only_the_agents_know_the_names_of_algorithms():
    """A record is for every algorithm: commands name the run's, or none."""
    for name, one in INTERVENTIONS.items():
        words = shlex.split(one.code().get("cli", "")) or ["stablegrad", "train", "ALGORITHM"]
        assert words[:3] == ["stablegrad", "train", "ALGORITHM"], name

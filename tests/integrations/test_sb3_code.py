"""What users of Stable-Baselines3 are told to do: the code fits their agent, and runs as it stands."""

import html

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.diagnostics.changes import CannotApply
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.sb3_code import AgentSettings
from stablegrad.errors import UsageError
from stablegrad.optimizers import Kron

stable_baselines3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402

from stablegrad.integrations.sb3 import DiagnosisCallback, apply_to_agent  # noqa: E402

ON_POLICY = {"n_steps": 8, "device": "cpu"}
OFF_POLICY = {"learning_starts": 8, "buffer_size": 200, "batch_size": 8, "device": "cpu"}
ENVS = {"PPO": "CartPole-v1", "A2C": "CartPole-v1", "DQN": "CartPole-v1", "SAC": "Pendulum-v1", "TD3": "Pendulum-v1",
        "DDPG": "Pendulum-v1"}  # fmt: skip
ARGUMENTS = {name: OFF_POLICY if name in ("DQN", "SAC", "TD3", "DDPG") else ON_POLICY for name in ENVS}
WITH_CODE = [name for name, one in INTERVENTIONS.items() if one.sb3 is not None]
RATES = ("lower_learning_rate", "raise_learning_rate")
#: What an agent of Stable-Baselines3 has nothing of.
NOTHING_TO_CHANGE = ("recycle_dormant", "train_layer", "weaker_decay")


def make(algorithm, layers=4, width=16, **arguments):
    return getattr(stable_baselines3, algorithm)(
        "MlpPolicy",
        ENVS[algorithm],
        policy_kwargs={"net_arch": [width] * layers},
        seed=0,
        **ARGUMENTS[algorithm],
        **arguments,
    )


def code_for(agent, name, factor=None):
    factor = 0.1 if factor is None and name in RATES else factor
    return INTERVENTIONS[name].code(factor, AgentSettings.of(agent))["sb3"]


def run(code, agent, **names):
    """The agent after the code, in a session that has made the agent and its environment, with its other arguments."""
    names = {"agent": agent, "env": ENVS[type(agent).__name__], "mine": ARGUMENTS[type(agent).__name__], **names}
    exec(code.replace("    env,\n", "    env,\n    **mine,\n"), names)
    return names["agent"]


def linear_layers(network):
    return [part for part in network.modules() if isinstance(part, nn.Linear)]


def trained(agent):
    return agent.policy.q_net if hasattr(agent.policy, "q_net") else agent.policy


@pytest.mark.parametrize("algorithm", ENVS)
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_runs_and_makes_an_agent_of_the_same_kind_and_size_that_learns(algorithm, name):
    agent = make(algorithm)
    agent.learn(16)
    try:
        changed = run(code_for(agent, name), agent)
    except CannotApply:
        assert name in NOTHING_TO_CHANGE
        return
    assert type(changed) is type(agent)
    if name not in ("smaller_network", "multi_skip"):
        assert len(linear_layers(trained(changed))) == len(linear_layers(trained(agent)))
    before = [parameter.detach().clone() for parameter in trained(changed).parameters()]
    changed.learn(24)
    after = trained(changed).parameters()
    assert not all(torch.equal(old, now) for old, now in zip(before, after, strict=True))


@pytest.mark.parametrize("algorithm", ENVS)
def test_a_norm_comes_after_each_of_the_layers_that_there_are(algorithm):
    agent = make(algorithm, layers=10)
    code = code_for(agent, "layer_norm")
    assert f"import {algorithm}" in code and f"{algorithm}(" in code
    changed = run(code, agent)
    for network in (getattr(changed.policy, one, None) for one in ("q_net", "actor", "critic", "mlp_extractor")):
        if isinstance(network, nn.Module):
            norms = sum(isinstance(part, nn.LayerNorm) for part in network.modules())
            assert norms % 10 == 0 and norms > 0
    for name, target in changed.policy.named_children():
        if name.endswith("_target"):
            online = getattr(changed.policy, name.removesuffix("_target"))
            target.load_state_dict(online.state_dict())
            assert getattr(changed, name) is target and target is not online
            assert not hasattr(target, "optimizer") and not target.training


@pytest.mark.parametrize(("algorithm", "rate"), [("PPO", 3e-4), ("DQN", 1e-4), ("A2C", 7e-4), ("TD3", 1e-3)])
def test_a_rate_is_a_multiple_of_the_agents_own(algorithm, rate):
    for own in (None, 2.5e-4):
        agent = make(algorithm, **({} if own is None else {"learning_rate": own}))
        changed = run(code_for(agent, "lower_learning_rate", 0.01), agent)
        assert changed.learning_rate == pytest.approx(0.01 * (own or rate))


def test_a_schedule_is_scaled_and_held():
    agent = make("PPO", learning_rate=lambda left: 1e-3 * left)
    changed = run(code_for(agent, "raise_learning_rate", 10.0), agent)
    assert changed.lr_schedule(0.5) == pytest.approx(5e-3)
    assert run(code_for(agent, "steady_rate"), agent).lr_schedule(0.5) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("algorithm", "name", "argument", "factor"),
    [
        *((one, "clip_gradients", "max_grad_norm", 0.1) for one in ("PPO", "A2C", "DQN")),
        *((one, "slower_targets", "tau", 0.2) for one in ("SAC", "TD3", "DDPG")),
        ("DQN", "slower_targets", "target_update_interval", 2),
    ],
)
def test_an_argument_that_the_algorithm_has_is_changed(algorithm, name, argument, factor):
    agent = make(algorithm)
    assert getattr(run(code_for(agent, name), agent), argument) == pytest.approx(factor * getattr(agent, argument))


def test_where_there_is_no_such_argument_the_code_says_so():
    assert "SAC has no argument" in code_for(make("SAC"), "clip_gradients")
    agent = make("PPO")
    assert "PPO has no target network" in code_for(agent, "slower_targets")
    assert isinstance(run(code_for(agent, "slower_targets"), agent).get_env(), VecNormalize)
    with pytest.raises(CannotApply, match="learning_rate"):
        apply_to_agent(agent, "lower_learning_rate")
    with pytest.raises(UsageError, match="did you mean 'layer_norm'"):
        apply_to_agent(agent, "layernorm")


def test_the_layers_stay_as_they_are():
    shape = {"pi": [8] * 3, "vf": [16]}
    agent = stable_baselines3.PPO(
        "MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": shape, "activation_fn": nn.ELU}, device="cpu"
    )
    changed = run(code_for(agent, "lower_learning_rate"), agent)
    assert str(changed.policy) == str(agent.policy)
    assert AgentSettings.of(agent).width == 16
    assert nn.GELU in {type(part) for part in run(code_for(agent, "activation"), agent).policy.modules()}


def test_kron_and_a_smaller_network():
    agent = make("A2C", layers=6, width=24)
    assert isinstance(run(code_for(agent, "kron"), agent).policy.optimizer, Kron)
    small = run(code_for(agent, "smaller_network"), agent)
    assert [layer.out_features for layer in linear_layers(small.policy.mlp_extractor.policy_net)] == [24, 24]


def test_what_was_saved_is_loaded_into_an_agent_that_was_changed_alike(tmp_path):
    agent = make("SAC")
    apply_to_agent(agent, "layer_norm")
    agent.learn(16)
    agent.save(tmp_path / "agent")
    other = make("SAC")
    apply_to_agent(other, "layer_norm")
    other.set_parameters(tmp_path / "agent")
    observation = np.zeros((1, 3), np.float32)
    assert np.array_equal(
        agent.predict(observation, deterministic=True)[0], other.predict(observation, deterministic=True)[0]
    )


def test_a_class_of_ones_own_is_named_by_the_one_that_can_be_imported():
    class Mine(stable_baselines3.DQN):
        pass

    agent = Mine("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=100)
    settings = AgentSettings.of(agent)
    assert (settings.algorithm, settings.package) == ("DQN", "stable_baselines3")
    assert settings.width == 64


def test_the_callbacks_report_writes_code_for_its_agent():
    agent = make("DQN", learning_rate=0.5)
    callback = DiagnosisCallback(every=2, probe_every=0, warn=False)
    agent.learn(120, callback=callback)
    report = callback.report()
    assert report.agent == AgentSettings.of(agent)
    written = [one.code["sb3"] for one in report.prescriptions if "sb3" in one.code]
    assert written and all("PPO" not in code for code in written)
    assert html.escape(report.prescriptions[0].code["sb3"]) in report._repr_html_()

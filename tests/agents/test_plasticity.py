"""SIGReg and resets in the updates of every agent."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.agents import dqn, ppo, pqn, sac
from stablegrad.agents.presets import preset_config
from stablegrad.agents.replay import Batch
from stablegrad.agents.sigreg import random_directions, sigreg
from stablegrad.environments import Box, Discrete, EnvironmentSpec, EpisodeStatistics, StepResult, environment_spec
from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig
from stablegrad.networks.units import hidden_units
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
SPEC = EnvironmentSpec("test", (3,), "float32", Discrete(4), False, None, "factory", None)
BOX = dataclasses.replace(SPEC, action_space=Box((-1.0, -2.0), (1.0, 5.0)))
RATE = 0.05
SMALL = {
    "torso": TorsoConfig(depth=0, width=8, norm="none"),
    "optimizer": OptimizerConfig(name="sgd", learning_rate=RATE),
    "max_grad_norm": None,
}
ON = {"num_envs": 3, "num_steps": 8, "num_minibatches": 1, "num_epochs": 1}
OFF = {"buffer_size": 200, "learning_starts": 0}
KINDS = {
    "pqn": (pqn.ALGORITHM, SPEC, ON),
    "ppo": (ppo.ALGORITHM, SPEC, {**ON, "shared": True}),
    "ppo apart": (ppo.ALGORITHM, BOX, {**ON, "shared": False}),
    "dqn": (dqn.ALGORITHM, SPEC, OFF),
    "sac": (sac.ALGORITHM, BOX, OFF),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make_agent(kind, seed=0, average_gradients=None, **changes):
    algorithm, spec, own = KINDS[kind]
    config = algorithm.config(**{**SMALL, **own, **changes})
    return algorithm.agent(config, spec, total_steps=1000, device=CPU, seed=seed, average_gradients=average_gradients)


def learn(agent, seed=0):
    """One update, from a rollout with episodes' ends and reset rows, or from a batch."""
    random = np.random.default_rng(seed)
    n = agent.config.num_envs
    if agent.replay is not None:
        draw = torch.Generator().manual_seed(seed)
        action = torch.randint(4, (16,), generator=draw)
        if isinstance(agent, sac.SAC):
            action = 2 * torch.rand(16, 2, generator=draw) - 1
        state, later = torch.randn(2, 16, 3, generator=draw)
        agent.batch = Batch(state, action, torch.randn(16, generator=draw), later, torch.full((16,), 0.9))
        return agent.update(agent.batch)
    agent.begin(random.normal(size=(n, 3)).astype(np.float32))
    ended = np.zeros(n, bool)
    for _ in range(agent.config.num_steps):
        agent.act(0)
        valid, ends = ~ended, (random.random(n) < 0.4) & ~ended
        episode = EpisodeStatistics(ends, np.zeros(n), np.zeros(n, np.int64))
        # What a reset row shows is far from everything else.
        observation = random.normal(size=(n, 3)).astype(np.float32) + 50.0 * ends[:, None]
        agent.observe(
            StepResult(observation.astype(np.float32), valid.astype(np.float32), ends, ends & False, valid, episode)
        )
        ended = ends
    assert not agent.rollout.valid.all()
    return agent.learn(0)


def features(agent, name):
    """[batch, size] by hand for every torso of a network, of the rows that count."""
    network = agent.networks[name]
    if agent.replay is None:
        body = network if isinstance(agent, pqn.PQN) else network.body
        rows = agent.rollout.observation[:-1].flatten(0, 1)[agent.rollout.valid.flatten()]
        return [body.torso(body.encoder(rows))]
    state = agent.batch.observation
    if name == "critic":
        pair = torch.cat([state, agent.batch.action], dim=1)
        return [member.torso(member.encoder(pair)) for member in network.members]
    return [network.torso(network.encoder(state))]


def penalty(agent, name, update=1, seed=0):
    place = list(agent.networks).index(name)
    entropy = np.random.SeedSequence((seed, update, place, 0)).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(entropy))
    return sum(sigreg(one, random_directions(8, generator)) for one in features(agent, name))


def step_by_hand(agent, weight, penalties):
    """An agent whose steps are SGD's on its loss and the term, written out."""

    def step(*arguments):
        names = [arguments[0]] if agent.replay is not None else list(agent.networks)
        loss = arguments[1] if agent.replay is not None else arguments[0]
        for name in names:
            penalties[name] = penalty(agent, name)
        total = loss + weight * sum(penalties[name] for name in names)
        parameters = [parameter for name in names for parameter in agent.networks[name].parameters()]
        gradients = torch.autograd.grad(total, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= RATE * gradient
        return {}

    agent.step = step


def weights(agent):
    return {
        f"{name}.{key}": value.clone()
        for name, one in agent.networks.items()
        for key, value in one.state_dict().items()
    }


@every_kind
def test_an_update_goes_down_the_loss_and_the_term(kind):
    agent, other = make_agent(kind, sigreg=0.7), make_agent(kind)
    penalties = {}
    step_by_hand(other, 0.7, penalties)
    start, metrics, _ = weights(agent), learn(agent), learn(other)
    moved = weights(other)
    for name, value in weights(agent).items():
        torch.testing.assert_close(value, moved[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(value, start[name], atol=1e-4) for name, value in moved.items())
    for name, value in penalties.items():
        key = "loss/sigreg" if len(penalties) == 1 else f"loss/sigreg_{name}"
        assert metrics[key].squeeze().item() == pytest.approx(value.item(), rel=1e-4)


@every_kind
def test_without_the_options_there_is_nothing(kind):
    agent = make_agent(kind)
    assert agent.plasticity is None
    metrics = learn(agent)
    assert not [key for key in metrics if "sigreg" in key or "reset" in key]


@every_kind
def test_nothing_is_kept_between_updates(kind):
    agent = make_agent(kind, sigreg=0.1, reset="redo", reset_every=1)
    learn(agent)
    if agent.replay is not None:
        agent.plasticity.forget()  # as learn() does after every update
    kept = agent.plasticity._features, agent.plasticity._activity
    assert kept == ({}, {})
    for network in agent.networks.values():
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
        copy.deepcopy(network)
    for name, objective in agent.objectives(8).items():
        objective.mean_loss(agent.networks[name]).backward()
    for probe in agent.probe(8).values():
        agent.policy(probe[:, :3].numpy())
    assert kept == ({}, {})


def test_whole_calls_of_learn_keep_nothing_of_a_pass_that_no_step_followed():
    agent = make_agent("ppo", sigreg=0.1, target_kl=1e-9, num_epochs=3)
    assert len(learn(agent)["loss/policy"]) == 1
    assert agent.plasticity._features == {}
    assert agent.updates == 1


def test_a_step_without_a_pass_is_an_error():
    agent = make_agent("dqn", sigreg=0.1)
    with pytest.raises(KeyError):
        agent.step("q", torch.zeros((), requires_grad=True))


@torch.no_grad()
def kill(units, unit):
    units.layer.weight[unit], units.layer.bias[unit] = 0.0, -1.0


@pytest.mark.parametrize("rule", ["redo", "regrama"])
@every_kind
def test_a_dead_unit_is_revived_and_a_live_network_left_alone(kind, rule):
    still = OptimizerConfig(name="sgd", learning_rate=1e-12)
    torso = TorsoConfig(depth=0, width=8, norm="none", activation="leaky_relu")
    agent = make_agent(kind, reset=rule, reset_every=2, reset_threshold=1e-4, optimizer=still, torso=torso)
    name = list(agent.networks)[-1]
    layer = hidden_units(agent.networks[name])[0]
    # A leak of a millionth: nearly dead for either measure.
    layer.activation.negative_slope = 1e-6
    kill(layer, 3)
    before = weights(agent)
    fractions = []
    for seed in range(3):
        metrics = learn(agent, seed)
        if agent.replay is not None:
            agent.updates += 1
        key = "values/reset_fraction" if len(agent.networks) == 1 else f"values/reset_fraction_{name}"
        fractions.append(metrics[key].squeeze().item())
    total = sum(units.count for units in hidden_units(agent.networks[name]))
    assert np.isnan(fractions[0]) and np.isnan(fractions[2])
    assert fractions[1] == pytest.approx(1 / total)
    assert layer.layer.weight[3].norm() > 0.1 and layer.layer.bias[3] == 0
    reader, first = layer.readers[0]
    assert layer.outgoing(reader.weight, first)[3].abs().sum() < 1e-9
    touched = {id(layer.layer.weight): 3, id(layer.layer.bias): 3}
    after = dict(agent.networks[name].named_parameters())
    for key, parameter in after.items():
        was, now = before[f"{name}.{key}"].clone(), parameter.detach().clone()
        if id(parameter) in touched:
            was[3] = now[3] = 0
        if parameter is reader.weight:
            was[:, 3] = now[:, 3] = 0
        torch.testing.assert_close(now, was, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rule", ["redo", "regrama"])
@pytest.mark.parametrize("kind", ["pqn", "ppo"])
def test_a_unit_that_speaks_in_reset_rows_alone_is_dormant(kind, rule):
    still = OptimizerConfig(name="sgd", learning_rate=1e-12)
    agent = make_agent(kind, reset=rule, reset_every=1, reset_threshold=0.0, optimizer=still)
    layer = hidden_units(next(iter(agent.networks.values())))[0]
    with torch.no_grad():
        # All other units speak always; this one where observations are as far out as those of reset rows.
        for units in hidden_units(next(iter(agent.networks.values()))):
            units.layer.weight.mul_(0.01)
            units.layer.bias.fill_(1.0)
        layer.layer.weight[2], layer.layer.bias[2] = 1.0, -60.0
    metrics = learn(agent)
    assert metrics["values/reset_fraction"].item() == pytest.approx(1 / 16)
    assert layer.layer.bias[2] == 0


@pytest.mark.parametrize("rule", ["redo", "regrama"])
def test_a_minibatch_without_a_row_that_counts_resets_nothing(rule):
    agent = make_agent("pqn", reset=rule, reset_every=1)
    with agent.autocast():
        loss = agent.network(torch.randn(4, 3)).sum() * 0.0
    assert agent.step(loss, torch.zeros(4))["values/reset_fraction"] == 0
    with agent.autocast():
        loss = agent.network(torch.randn(4, 3)).sum() * 0.0
    fraction = agent.step(loss, torch.ones(4))["values/reset_fraction"]
    assert fraction == 1 if rule == "regrama" else fraction < 1


def test_random_numbers_follow_from_the_seed_and_the_update():
    def after(seed, first, reseed=0):
        agent = make_agent("dqn", seed=7, reset="redo", reset_every=1, reset_threshold=0.9, sigreg=0.1)
        agent.plasticity._seed, agent.updates = seed, first
        agent.reseed(reseed)
        learn(agent)
        return agent.network.torso.layers[0].linear.weight.detach()

    assert torch.equal(after(0, 0), after(0, 0, reseed=5))
    assert not torch.equal(after(0, 0), after(1, 0))
    assert not torch.equal(after(0, 0), after(0, 1))


def test_processes_judge_units_by_what_all_of_them_saw():
    """Two agents whose averages are made of both: a unit that is silent in one alone stays."""
    alone = make_agent("pqn", reset="redo", reset_every=1, reset_threshold=0.3)
    learn(alone)
    sums = []

    def record(parameters):
        if len(parameters) == 1:
            sums.append(parameters[0].grad.clone())

    listening = make_agent("pqn", reset="redo", reset_every=1, reset_threshold=0.3, average_gradients=record)
    fraction = learn(listening)["values/reset_fraction"]
    assert [tuple(one.shape) for one in sums] == [(16,), ()] and fraction > 0

    def everybody_speaks(parameters):
        if len(parameters) == 1:
            parameters[0].grad.fill_(1.0)

    other = make_agent("pqn", reset="redo", reset_every=1, reset_threshold=0.3, average_gradients=everybody_speaks)
    assert learn(other)["values/reset_fraction"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigreg": -1.0}, "sigreg must be at least 0 and finite, got -1.0"),
        ({"sigreg": float("nan")}, "sigreg must be at least 0"),
        ({"reset": "rado"}, "unknown reset 'rado'; did you mean 'redo'"),
        ({"reset": "redo", "reset_every": 0}, "reset-every must be at least 1, got 0"),
        ({"reset": "redo", "reset_threshold": 1.0}, "reset-threshold must be at least 0 and below 1, or none; got 1.0"),
        ({"reset_every": 10}, "reset-every is for reset redo or regrama; reset is none"),
        ({"reset_threshold": 0.1}, "reset-threshold is for reset redo or regrama; reset is none"),
    ],
)
@every_kind
def test_wrong_options_are_refused(kind, options, message):
    with pytest.raises(UsageError) as error:
        make_agent(kind, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("algorithm", ["pqn", "ppo", "dqn"])
def test_presets(algorithm):
    spec = environment_spec("CartPole-v1")
    assert preset_config(algorithm, "sigreg", spec).sigreg == 0.2
    for rule in ("redo", "regrama"):
        config = preset_config(algorithm, rule, spec)
        assert (config.reset, config.reset_every, config.reset_threshold) == (rule, 1000, None)


def test_hooks_of_others_stay():
    agent = make_agent("dqn", sigreg=0.1)
    seen = []
    agent.network.head.register_forward_pre_hook(lambda *_: seen.append(None))
    learn(agent)
    learn(agent)
    assert len(seen) == 2 and isinstance(agent.network.head, nn.Linear)

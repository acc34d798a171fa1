"""SAC with SimBa's network and recipe: moments of observations, the policy's deviations, the preset."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from stablegrad.agents import tanh_gaussian
from stablegrad.agents.ddpg import DDPG
from stablegrad.agents.presets import PRESETS, apply_changes, preset_config
from stablegrad.agents.replay import Batch
from stablegrad.agents.reward_scale import RewardScale
from stablegrad.agents.sac import SAC, SACConfig
from stablegrad.environments import Box, EnvironmentSpec, EpisodeStatistics, StepResult
from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig
from stablegrad.supervised import preset_config as classifier_preset

SPEC = EnvironmentSpec("test", (3,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), False, None, "factory", None)
SMALL = SACConfig(
    torso=TorsoConfig(kind="simba", depth=1, width=8), normalize_observations=True, buffer_size=100, num_envs=2
)


def make_agent(config=SMALL):
    return SAC(config, SPEC, total_steps=100, device=torch.device("cpu"), seed=0)


def step(observation, ended=(False, False), valid=(True, True)):
    none = np.zeros(2, np.float32)
    statistics = EpisodeStatistics(np.array(ended), none, np.zeros(2, np.int32))
    return StepResult(observation, none, np.array(ended), np.zeros(2, np.bool_), np.array(valid), statistics)


def test_moments_are_those_of_all_that_was_acted_on_in_every_network():
    """An episode's last observation is not acted on; the first of the next one is, on the row of the reset."""
    random = np.random.default_rng(0)
    agent = make_agent()
    first, *rest = random.normal(3.0, 2.0, (6, 2, 3)).astype(np.float32)
    agent.begin(first)
    acted_on = [*first]
    for number, observation in enumerate(rest):
        agent.act(0)
        ended = (number == 1, False)
        agent.observe(step(observation, ended, (number != 2, True)))
        acted_on += [row for row, over in zip(observation, ended, strict=True) if not over]
    rows = np.array(acted_on, dtype=np.float64)
    for network in (agent.actor, agent.critic, agent.target_critic):
        np.testing.assert_allclose(network.normalizer.mean.numpy(), rows.mean(0), rtol=1e-4)
        np.testing.assert_allclose(network.normalizer.variance.numpy(), rows.var(0), rtol=1e-3)
    assert len(agent.normalizers) == 3


def test_networks_read_normalised_observations_and_raw_actions():
    agent = make_agent()
    observation = np.random.default_rng(1).normal(50.0, 9.0, (64, 3)).astype(np.float32)
    for _ in range(20):
        agent.begin(observation[:2])
        agent.begin(observation[2:4])
    norm = agent.actor.normalizer
    x, action = torch.from_numpy(observation), torch.rand(64, 2)
    normalised = ((x.double() - norm.mean) / (norm.variance + 1e-8).sqrt()).float()
    for network, inputs, expected in (
        (agent.actor, x, normalised),
        (agent.critic, torch.cat([x, action], 1), torch.cat([normalised, action], 1)),
    ):
        plain = copy.deepcopy(network)
        plain.normalizer = torch.nn.Identity() if network is agent.actor else None
        torch.testing.assert_close(network(inputs), plain(expected), rtol=1e-3, atol=1e-4)
    assert normalised.abs().max() > 0.5


def test_updates_move_no_moments():
    agent = make_agent(dataclasses.replace(SMALL, learning_starts=0, batch_size=4))
    random = np.random.default_rng(0)
    agent.begin(random.normal(size=(2, 3)).astype(np.float32))
    for _ in range(5):
        agent.act(0)
        agent.observe(step(random.normal(size=(2, 3)).astype(np.float32)))
    before = [buffer.clone() for buffer in agent.actor.normalizer.buffers()]
    assert agent.learn(10)
    agent.policy(random.normal(size=(2, 3)).astype(np.float32))
    for network in (agent.actor, agent.critic, agent.target_critic):
        assert all(torch.equal(a, b) for a, b in zip(before, network.normalizer.buffers(), strict=True))


def test_squashed_log_standard_deviations_are_in_their_range():
    mean, log_std = tanh_gaussian.mean_and_log_std(torch.tensor([[7.0, 7.0, 7.0, -99.0, 0.0, 99.0]]), squash=True)
    assert mean.tolist() == [[7.0] * 3]
    assert log_std.tolist() == [[-10.0, -4.0, 2.0]]


def test_the_preset_is_the_published_recipe():
    config = preset_config("sac", "simba", SPEC)
    agent = make_agent(dataclasses.replace(config, buffer_size=10))
    assert agent.target_entropy == -1.0  # half a nat for each of two numbers
    assert agent.temperature().item() == pytest.approx(0.01)
    assert [len(list(network.torso.blocks)) for network in (agent.actor, agent.critic.members[0])] == [1, 2]
    assert [network.torso.out_features for network in (agent.actor, agent.critic.members[0])] == [128, 512]
    assert len(agent.critic.members) == 1
    for optimizer in agent.optimizers.values():
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.AdamW) and (group["lr"], group["weight_decay"]) == (1e-4, 1e-2)
    for head in (agent.actor.head, agent.critic.members[0].head):
        torch.testing.assert_close(head.weight @ head.weight.T, torch.eye(len(head.weight)), atol=1e-5, rtol=0)


def test_the_preset_of_the_second_version_is_the_published_recipe():
    config = preset_config("sac", "simba_v2", SPEC)
    agent = make_agent(dataclasses.replace(config, buffer_size=10))
    assert (agent.reward_scale.max_return, len(agent.critic.members)) == (5.0, 1)
    assert agent.values.atoms.tolist() == pytest.approx(np.linspace(-5, 5, 101).tolist(), abs=1e-6)
    rates = []
    for steps in (0, 50, 100):
        agent.set_learning_rates(steps)
        every = (*agent.optimizers.values(), agent.temperature_optimizer)
        rates.append({optimizer.param_groups[0]["lr"] for optimizer in every})
    assert [sorted(one) for one in rates] == [
        pytest.approx([1e-4]), pytest.approx([7.5e-5]), pytest.approx([5e-5]),
    ]  # fmt: skip


def test_it_learns_with_rows_on_the_sphere():
    config = dataclasses.replace(
        preset_config("sac", "simba_v2", SPEC), buffer_size=50, batch_size=8, learning_starts=0, num_envs=2
    )
    agent = make_agent(config)
    random = np.random.default_rng(0)
    agent.begin(random.normal(size=(2, 3)).astype(np.float32))
    for _ in range(6):
        agent.act(0)
        agent.observe(step(random.normal(size=(2, 3)).astype(np.float32)))
        assert all(value.isfinite().all() for value in agent.learn(10).values())
    for network in (agent.actor, agent.critic):
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(len(layer.weight)))


def test_rewards_are_divided_by_the_deviation_of_returns_or_by_the_largest_one():
    """The published normaliser, row by row: max(sqrt(var G), max |G| / 5)."""
    random = np.random.default_rng(0)
    rewards = np.where(random.random((60, 2)) < 0.1, 30.0, random.normal(size=(60, 2))).astype(np.float32)
    ended = random.random((60, 2)) < 0.1
    scale = RewardScale(2, 0.9, torch.device("cpu"), max_return=5.0)
    returns, seen, bounded = np.zeros(2), [], 0
    for reward, end in zip(rewards, ended, strict=True):
        scale.follow(torch.from_numpy(reward)[None], torch.from_numpy(end)[None], torch.ones(1, 2, dtype=torch.bool))
        returns = 0.9 * returns + reward
        seen += list(returns)
        deviation, bound = np.std(seen), max(np.abs(seen)) / 5.0
        bounded += bound > deviation
        if len(seen) > 20:
            assert 1 / scale.scale.item() == pytest.approx(max(deviation, bound), rel=1e-3)
        returns = np.where(end, 0.0, returns)
    assert 0 < bounded < 60  # either counts at some time
    again = RewardScale(2, 0.9, torch.device("cpu"), max_return=5.0)
    again.load_state_dict(scale.state_dict())
    assert again.scale == scale.scale


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_return": 5.0}, "max-return is for normalize-rewards, which is off"),
        ({"max_return": 0.0, "normalize_rewards": True}, "max-return must be above 0"),
        ({"optimizer.schedule_end": 0.5}, "schedule-end is for linear and cosine; schedule is 'constant'"),
        ({"optimizer.schedule": "linear", "optimizer.schedule_end": 2.0}, "schedule-end must be from 0 to 1, got 2.0"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        apply_changes(SACConfig(), options)


def test_where_it_is_not_known_is_one_line():
    assert "simba" not in PRESETS
    with pytest.raises(UsageError, match="preset 'simba' is a recipe of sac, ddpg; td3 has none by this name"):
        preset_config("td3", "simba", SPEC)
    with pytest.raises(UsageError, match="preset 'simba' is a recipe of sac"):
        classifier_preset("simba")
    with pytest.raises(UsageError, match="did you mean 'simba'"):
        preset_config("sac", "simbaa", SPEC)


def test_ddpg_with_the_recipe_takes_noisy_actions_of_the_trained_actor_in_both_losses():
    """One update's losses against those of the authors' code, written out."""
    config = preset_config("ddpg", "simba", SPEC)
    agent = DDPG(dataclasses.replace(config, buffer_size=10), SPEC, total_steps=100, device=torch.device("cpu"), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for target in agent.targets.values():
            for parameter in target.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    rows = 64
    batch = Batch(
        observation=torch.randn(rows, 3, generator=generator),
        action=2 * torch.rand(rows, 2, generator=generator) - 1,
        reward=torch.randn(rows, generator=generator),
        next_observation=torch.randn(rows, 3, generator=generator),
        discount=torch.full((rows,), 0.99),
    )
    drawn = torch.Generator().set_state(agent.noise.get_state())
    next_noise, noise = (0.1 * torch.randn((rows, 2), generator=drawn) for _ in range(2))
    actor, critic, target = agent.actor, agent.critic, agent.target_critic
    with torch.no_grad():
        next_action = (actor(batch.next_observation) + next_noise).clamp(-1, 1)
        label = batch.reward + 0.99 * target(torch.cat([batch.next_observation, next_action], 1))[:, 0]
        expected = (critic(torch.cat([batch.observation, batch.action], 1))[:, 0] - label).square().mean()
        action = (actor(batch.observation) + noise).clamp(-1, 1)
    metrics = agent.update(batch)
    assert metrics["loss/td"].item() == pytest.approx(expected.item(), rel=1e-5)
    # The actor's loss is read by the critic that has just been stepped; the actor itself is stepped after it.
    fresh = DDPG(dataclasses.replace(config, buffer_size=10), SPEC, total_steps=100, device=torch.device("cpu"), seed=0)
    assert not torch.equal(fresh.actor.head.weight, actor.head.weight)
    with torch.no_grad():
        values = critic(torch.cat([batch.observation, action], 1))
    assert metrics["loss/actor"].item() == pytest.approx(-values.mean().item(), rel=1e-4)

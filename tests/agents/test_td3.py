import dataclasses
import math

import numpy as np
import pytest
import torch

from stablegrad.agents import ddpg
from stablegrad.agents.actor_critic import ActorConfig
from stablegrad.agents.presets import PRESETS, apply_changes, preset_config
from stablegrad.agents.replay import Batch
from stablegrad.agents.td3 import ALGORITHM, TD3, TD3Config
from stablegrad.environments import Box, EnvironmentSpec, EpisodeStatistics, StepResult
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
SPEC = EnvironmentSpec("test", (3,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), False, None, "factory", None)
TINY = {"torso": TorsoConfig(depth=0, width=16, norm="none"), "buffer_size": 1000, "learning_starts": 0}
SMALL = TD3Config(**TINY)
CONFIGS = {"TD3": SMALL, "DDPG": ddpg.DDPGConfig(**TINY)}
each = pytest.mark.parametrize("name", CONFIGS)


def make_agent(config=SMALL, spec=SPEC, seed=0):
    make = ddpg.DDPG if isinstance(config, ddpg.DDPGConfig) else TD3
    agent = make(config, spec, total_steps=1000, device=CPU, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # A policy that differs between states, some of whose smoothed actions are clipped, and target networks that
        # differ from the trained ones.
        agent.actor.head.weight.normal_(0.0, 0.3, generator=generator)
        for target in agent.targets.values():
            for parameter in target.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return agent


def make_batch(seed, size=32):
    generator = torch.Generator().manual_seed(seed)
    terminated = torch.rand(size, generator=generator) < 0.3
    return Batch(
        observation=torch.randn(size, 3, generator=generator),
        action=2 * torch.rand(size, 2, generator=generator) - 1,
        reward=torch.randn(size, generator=generator),
        next_observation=torch.randn(size, 3, generator=generator),
        discount=0.99 * (~terminated).float(),
    )


def noise_of_next_update(agent, size):
    generator = torch.Generator().set_state(agent.noise.get_state())
    return torch.randn((size, 2), generator=generator)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def networks_of(agent):
    """Trained and target networks by the names that Stable-Baselines3 gives them."""
    return {**agent.networks, **{f"{name}_target": target for name, target in agent.targets.items()}}


@each
def test_updates_are_those_of_stable_baselines3(name, monkeypatch):
    """Its own train(), from the same weights, on the same batches with the same smoothing noise."""
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    class Env(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    agent = make_agent(CONFIGS[name])
    theirs = getattr(sb3, name)(
        "MlpPolicy", Env(), learning_rate=3e-4, policy_kwargs={"net_arch": [16, 16]}, device="cpu", buffer_size=10
    )
    theirs.set_logger(configure(None, []))
    with torch.no_grad():
        for network, own in networks_of(agent).items():
            for one, another in zip(own.parameters(), getattr(theirs, network).parameters(), strict=True):
                another.copy_(one)

    for seed in range(4):
        batch, noise = make_batch(seed), noise_of_next_update(agent, 32)
        samples = ReplayBufferSamples(
            batch.observation,
            batch.action,
            batch.next_observation,
            (batch.discount == 0).float()[:, None],
            batch.reward[:, None],
        )
        theirs.replay_buffer.sample = lambda *_, samples=samples, **__: samples
        metrics = agent.update(batch)
        agent.updates += 1
        with monkeypatch.context() as patched:
            drawn = lambda tensor, mean, std, noise=noise: tensor.copy_(mean + std * noise)  # noqa: E731
            patched.setattr(torch.Tensor, "normal_", drawn)
            theirs.logger.name_to_value.clear()
            theirs.train(gradient_steps=1, batch_size=32)
        logged = theirs.logger.name_to_value
        assert metrics["loss/td"].item() == pytest.approx(logged["train/critic_loss"], rel=1e-5)
        assert ("loss/actor" in metrics) == ("train/actor_loss" in logged) == (name == "DDPG" or seed % 2 == 1)
        if "loss/actor" in metrics:
            assert metrics["loss/actor"].item() == pytest.approx(logged["train/actor_loss"], rel=1e-4, abs=1e-5)
        for network, own in networks_of(agent).items():
            for one, another in zip(own.parameters(), getattr(theirs, network).parameters(), strict=True):
                torch.testing.assert_close(one.detach(), another.detach(), rtol=1e-5, atol=1e-5)


@each
def test_an_update_is_the_published_algorithm_written_out(name):
    """Critic, actor and targets by a loop over single transitions, at an update that steps all of them."""
    config = dataclasses.replace(CONFIGS[name], optimizer=OptimizerConfig(name="sgd", learning_rate=0.05))
    agent, reference = make_agent(config), make_agent(config)
    agent.updates = 1
    batch, noise = make_batch(0), noise_of_next_update(agent, 32)
    metrics = agent.update(batch)

    def q_values(network, observation, action):
        return network(torch.cat([observation, action])[None])[0]

    def step(network, loss):
        gradient = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, one in zip(network.parameters(), gradient, strict=True):
                parameter -= 0.05 * one

    td, clipped = [], 0
    for i in range(32):
        with torch.no_grad():
            action = reference.target_actor(batch.next_observation[i][None])[0]
            if name == "TD3":
                smoothed = action + (0.2 * noise[i]).clip(-0.5, 0.5)
                clipped += int((smoothed.abs() > 1).sum() + (0.2 * noise[i].abs() > 0.5).sum())
                action = smoothed.clip(-1, 1)
            value = min(q_values(reference.target_critic, batch.next_observation[i], action))
            target = batch.reward[i] + batch.discount[i] * value
        errors = q_values(reference.critic, batch.observation[i], batch.action[i]) - target
        td.append(sum(error**2 for error in errors))
    td_loss = sum(td) / 32
    assert clipped or name == "DDPG"
    step(reference.critic, td_loss)

    actor_losses = []
    for i in range(32):
        action = reference.actor(batch.observation[i][None])[0]
        actor_losses.append(-q_values(reference.critic, batch.observation[i], action)[0])
    actor_loss = sum(actor_losses) / 32
    step(reference.actor, actor_loss)
    with torch.no_grad():
        for network, target_network in reference.targets.items():
            pairs = zip(reference.networks[network].parameters(), target_network.parameters(), strict=True)
            for one, slow in pairs:
                slow.copy_(0.005 * one + 0.995 * slow)

    for network, own in networks_of(agent).items():
        torch.testing.assert_close(weights(own), weights(networks_of(reference)[network]), rtol=1e-4, atol=1e-6)
    assert metrics["loss/td"].item() == pytest.approx(td_loss.item(), rel=1e-4)
    assert metrics["loss/actor"].item() == pytest.approx(actor_loss.item(), rel=1e-4, abs=1e-6)
    assert metrics["updates/actor"].item() == 2


def test_the_actor_and_the_targets_wait_for_the_delay():
    agent = make_agent(dataclasses.replace(SMALL, policy_delay=3))
    changed = []
    for seed in range(7):
        before = {name: weights(network) for name, network in networks_of(agent).items()}
        agent.update(make_batch(seed))
        agent.updates += 1
        after = {name: weights(network) for name, network in networks_of(agent).items()}
        changed.append({name for name in after if not torch.equal(after[name], before[name])})
    everything = {"actor", "critic", "actor_target", "critic_target"}
    assert changed == [everything if number % 3 == 0 else {"critic"} for number in range(1, 8)]


@each
def test_objectives_are_the_losses_of_an_update(name):
    agent = make_agent(dataclasses.replace(CONFIGS[name], optimizer=OptimizerConfig(name="sgd", learning_rate=1e-9)))
    agent.updates = 1
    batch = make_batch(3)
    agent.recent = lambda rows: batch
    # Objectives draw their noise by the number of updates.
    agent.noise.manual_seed(agent.updates)
    objectives = agent.objectives(32)
    losses = {name: objective.mean_loss(agent.networks[name]).item() for name, objective in objectives.items()}
    metrics = agent.update(batch)
    assert losses["critic"] == pytest.approx(metrics["loss/td"].item(), rel=1e-5)
    assert losses["actor"] == pytest.approx(metrics["loss/actor"].item(), rel=1e-5)


def test_the_actors_loss_leaves_no_gradients_on_the_critic():
    agent = make_agent(CONFIGS["DDPG"])
    seen = []
    agent.optimizers["critic"].register_step_post_hook(
        lambda *_: seen.extend(parameter.grad.clone() for parameter in agent.critic.parameters())
    )
    agent.update(make_batch(0))
    for own, parameter in zip(seen, agent.critic.parameters(), strict=True):
        assert torch.equal(own, parameter.grad)


def test_actions_are_uniform_until_learning_starts_then_the_policys_with_noise():
    agent = make_agent(dataclasses.replace(SMALL, num_envs=1000, learning_starts=100, exploration_noise=0.2))
    with torch.no_grad():
        agent.actor.head.weight.zero_()
        agent.actor.head.bias.copy_(torch.tensor([0.3, 50.0]))
    agent.begin(np.ones((1000, 3), np.float32))
    random = agent.act(99)
    assert random.shape == (1000, 2) and random.dtype == np.float32
    assert np.abs(random).max() <= 1.0
    assert random.mean(axis=0) == pytest.approx([0.0, 0.0], abs=0.1)
    assert random.var(axis=0) == pytest.approx([1 / 3, 1 / 3], abs=0.05)
    drawn = agent.act(100)
    assert drawn.shape == (1000, 2) and drawn.dtype == np.float32 and drawn is agent.action
    assert drawn[:, 0].mean() == pytest.approx(math.tanh(0.3), abs=0.02)
    assert drawn[:, 0].std() == pytest.approx(0.2, rel=0.1)
    # Half of the noise on an action at its bound is clipped.
    assert drawn[:, 1].max() == 1.0 and (drawn[:, 1] == 1.0).mean() == pytest.approx(0.5, abs=0.05)
    greedy = agent.policy(np.ones((1, 3), np.float32))
    np.testing.assert_allclose(greedy, [[math.tanh(0.3), 1.0]], rtol=1e-6)
    assert greedy.dtype == np.float32
    quiet = make_agent(dataclasses.replace(SMALL, exploration_noise=0.0))
    quiet.begin(np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(quiet.act(0), quiet.policy(quiet.observation))


def test_the_actor_may_differ_from_the_critic():
    agent = make_agent(dataclasses.replace(SMALL, actor=ActorConfig(width=8, learning_rate=1e-5)))
    assert agent.actor.head.in_features == 8 and agent.critic.members[0].head.in_features == 16
    assert [agent.optimizers[name].param_groups[0]["lr"] for name in ("actor", "critic")] == [1e-5, 3e-4]


def test_defaults_are_the_published_ones():
    config = ALGORITHM.defaults(SPEC)
    assert (config.batch_size, config.buffer_size, config.tau, config.discount) == (256, 1_000_000, 0.005, 0.99)
    assert (config.exploration_noise, config.target_policy_noise, config.target_noise_clip) == (0.1, 0.2, 0.5)
    assert (config.policy_delay, config.learning_starts, config.max_grad_norm) == (2, 25_000, None)
    assert config.optimizer.initial_learning_rate == 3e-4
    networks = ALGORITHM.build_networks(config, SPEC)
    sizes = {
        name: [module.out_features for module in network.modules() if isinstance(module, torch.nn.Linear)]
        for name, network in networks.items()
    }
    assert sizes == {"actor": [256, 256, 2], "critic": [256, 256, 1] * 2}


def test_ddpg_is_td3_without_its_additions():
    plain, full = ddpg.ALGORITHM.defaults(SPEC), ALGORITHM.defaults(SPEC)
    off = {"num_critics": 1, "policy_delay": 1, "target_policy_noise": 0.0}
    assert dataclasses.asdict(plain) == dataclasses.asdict(full) | off
    # All switched on, one is the other.
    on = apply_changes(plain, {name: str(getattr(full, name)) for name in off} | {"learning_starts": "0"})
    one, other = make_agent(on), make_agent(dataclasses.replace(full, learning_starts=0))
    for agent in (one, other):
        for seed in range(2):
            agent.update(make_batch(seed))
            agent.updates += 1
    assert all(torch.equal(weights(one.networks[name]), weights(other.networks[name])) for name in one.networks)


@each
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(name, preset):
    config = apply_changes(
        preset_config(name.lower(), preset, SPEC), {"torso.width": 16, "torso.depth": 1, "buffer_size": 10}
    )
    agent = make_agent(config)
    before = {network: weights(one) for network, one in networks_of(agent).items()}
    for seed in range(2):
        metrics = agent.update(make_batch(seed))
        agent.updates += 1
    # No unit is reset in so few updates, which NaN says.
    assert all(values.isfinite().all() for key, values in metrics.items() if "reset_fraction" not in key)
    assert not any(torch.equal(weights(one), before[network]) for network, one in networks_of(agent).items())


@each
def test_the_best_action_of_a_bandit_is_found(name):
    config = dataclasses.replace(
        CONFIGS[name],
        torso=TorsoConfig(depth=0, width=32, norm="none"),
        optimizer=OptimizerConfig(name="adam", learning_rate=3e-3),
        discount=0.0,
        batch_size=64,
        num_envs=4,
        learning_starts=100,
    )
    agent, best = make_agent(config), np.array([0.5, -0.3])
    state = np.ones((4, 3), np.float32)
    no = np.zeros(4, bool)
    statistics = EpisodeStatistics(no, np.zeros(4), np.zeros(4, np.int64))
    agent.begin(state)
    for step in range(0, 2400, 4):
        reward = -np.square(agent.act(step) - best).sum(axis=1)
        agent.observe(StepResult(state, reward.astype(np.float32), no, no, ~no, statistics))
        agent.learn(step)
    np.testing.assert_allclose(agent.policy(state[:1])[0], best, atol=0.15)

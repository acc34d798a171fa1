import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stablegrad.agents.dqn import ALGORITHM, DQN, DQNConfig
from stablegrad.agents.replay import Batch
from stablegrad.environments import Box, Discrete, EnvironmentSpec, environment_spec, make_vector_env
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
SPEC = EnvironmentSpec("test", (4,), "float32", Discrete(2), False, None, "factory", None)
SMALL = DQNConfig(torso=TorsoConfig(depth=0, width=16, norm="none"), buffer_size=200, learning_starts=0)


def make_agent(config=SMALL, seed=0, total_steps=1000):
    agent = DQN(config, SPEC, total_steps=total_steps, device=CPU, seed=seed)
    # A target network that differs from the trained one.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return agent


def make_batch(seed, size=32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    terminated = torch.rand(size, generator=generator) < 0.3
    return Batch(
        observation=scale * torch.randn(size, 4, generator=generator),
        action=torch.randint(2, (size,), generator=generator),
        reward=2.0 * torch.randn(size, generator=generator),
        next_observation=torch.randn(size, 4, generator=generator),
        discount=0.99 * (~terminated).float(),
    )


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_updates_are_those_of_stable_baselines3(scale):
    """Its own train(), from the same weights on the same batches; the larger observations have gradients clipped."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    agent = make_agent()
    theirs = sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [16, 16]}, device="cpu")
    theirs.set_logger(configure(None, []))
    for own, other in ((agent.network, theirs.q_net), (agent.target, theirs.q_net_target)):
        for one, another in zip(own.parameters(), other.parameters(), strict=True):
            another.data.copy_(one)
    clipped = False
    for seed in range(3):
        batch = make_batch(seed, scale=scale)
        samples = ReplayBufferSamples(
            batch.observation,
            batch.action[:, None],
            batch.next_observation,
            (batch.discount == 0).float()[:, None],
            batch.reward[:, None],
        )
        theirs.replay_buffer.sample = lambda *_, samples=samples, **__: samples
        metrics = agent.update(batch)
        theirs.train(gradient_steps=1, batch_size=32)
        assert metrics["loss/td"].item() == pytest.approx(theirs.logger.name_to_value["train/loss"], rel=1e-5)
        clipped |= metrics["gradients/q"].item() > 10.0
        for one, another in zip(agent.network.parameters(), theirs.q_net.parameters(), strict=True):
            torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-6)
    assert clipped == (scale > 1.0)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_an_update_is_the_published_loss_written_out(double, loss):
    config = dataclasses.replace(
        SMALL,
        double=double,
        value_loss=loss,
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.05),
        max_grad_norm=None,
    )
    agent, reference = make_agent(config), make_agent(config)
    batch = make_batch(0)
    metrics = agent.update(batch)
    losses = []
    for i in range(len(batch.action)):
        with torch.no_grad():
            following = reference.target(batch.next_observation[i][None])[0]
            best = (reference.network(batch.next_observation[i][None])[0] if double else following).argmax()
            target = batch.reward[i] + batch.discount[i] * following[best]
        error = reference.network(batch.observation[i][None])[0, batch.action[i]] - target
        large = loss == "huber" and error.abs() >= 1
        losses.append(error.abs() - 0.5 if large else error.square() * (0.5 if loss == "huber" else 1.0))
    mean = torch.stack(losses).mean()
    assert metrics["loss/td"].item() == pytest.approx(mean.item(), rel=1e-5)
    mean.backward()
    for expected, actual in zip(reference.network.parameters(), agent.network.parameters(), strict=True):
        torch.testing.assert_close(actual, expected - 0.05 * expected.grad, rtol=1e-5, atol=1e-6)


def test_the_objective_is_the_loss_of_an_update():
    config = dataclasses.replace(SMALL, optimizer=OptimizerConfig(name="sgd", learning_rate=1e-9))
    agent = make_agent(config)
    batch = make_batch(3)
    agent.recent = lambda rows: batch
    objective = agent.objectives(32)["q"]
    mean = objective.mean_loss(agent.network).item()
    assert mean == pytest.approx(agent.update(batch)["loss/td"].item(), rel=1e-5)


def test_the_target_network_is_copied_when_its_interval_of_environment_steps_is_over():
    agent = make_agent(dataclasses.replace(SMALL, target_every=10))

    def copied(env_steps):
        before = [parameter.clone() for parameter in agent.target.parameters()]
        agent.learn(env_steps)
        pairs = zip(agent.target.parameters(), agent.network.parameters(), strict=True)
        equal = all(torch.equal(one, other) for one, other in pairs)
        with torch.no_grad():
            for parameter in agent.network.parameters():
                parameter.add_(0.1)
        unchanged = all(torch.equal(one, other) for one, other in zip(before, agent.target.parameters(), strict=True))
        assert equal != unchanged
        return equal

    steps = [0, 4, 8, 12, 16, 20, 24, 55, 59, 60]
    assert [step for step in steps if copied(step)] == [12, 20, 55, 60]


def test_the_target_network_moves_by_tau():
    agent = make_agent(dataclasses.replace(SMALL, target_every=10, tau=0.25))
    expected = [
        0.75 * old + 0.25 * new for old, new in zip(agent.target.parameters(), agent.network.parameters(), strict=True)
    ]
    agent.learn(10)
    torch.testing.assert_close(list(agent.target.parameters()), expected)


def test_exploration_is_random_until_learning_starts_and_then_epsilon():
    config = dataclasses.replace(
        SMALL, num_envs=2000, buffer_size=2000, learning_starts=100, epsilon_end=0.2, exploration_fraction=0.5
    )
    agent = make_agent(config)
    assert [agent.epsilon(step) for step in (0, 99, 100, 250, 500, 1000)] == pytest.approx([1, 1, 0.84, 0.6, 0.2, 0.2])
    assert agent.scalars(250) == {"exploration/epsilon": pytest.approx(0.6)}
    agent.begin(np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32))
    greedy = agent.policy(agent.observation)
    assert greedy.dtype == np.int64
    q_values = agent.network(torch.from_numpy(agent.observation))
    np.testing.assert_array_equal(greedy, q_values.argmax(dim=1).numpy())
    for step, epsilon in ((0, 1.0), (250, 0.6), (500, 0.2)):
        action = agent.act(step)
        assert action.shape == (2000,) and action.dtype == np.int64 and set(action) == {0, 1}
        # Half of the random actions are the greedy one.
        assert (action != greedy).mean() == pytest.approx(epsilon / 2, abs=0.05)


def test_defaults_are_the_published_ones():
    atari = ALGORITHM.defaults(environment_spec("Pong-v5"))
    assert (atari.optimizer.initial_learning_rate, atari.batch_size, atari.buffer_size) == (1e-4, 32, 1_000_000)
    assert (atari.learning_starts, atari.train_every, atari.target_every) == (80_000, 4, 1000)
    assert (atari.epsilon_start, atari.epsilon_end, atari.exploration_fraction) == (1.0, 0.01, 0.1)
    spec = environment_spec("CartPole-v1")
    network = ALGORITHM.build_networks(ALGORITHM.defaults(spec), spec)["q"]
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [256, 256, 2]
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in network.modules())
    assert ALGORITHM.supports(dataclasses.replace(SPEC, action_space=Box((-1.0,), (1.0,))))


def test_losses_by_name_are_torchs():
    error = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(F.smooth_l1_loss(error, torch.zeros(13)), F.huber_loss(error, torch.zeros(13)))


def test_cartpole_is_learned():
    """From about 20 steps an episode to over 100."""
    config = dataclasses.replace(
        ALGORITHM.defaults(environment_spec("CartPole-v1")),
        torso=TorsoConfig(depth=0, width=64, norm="none"),
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3),
        batch_size=64,
        gradient_steps=2,
        target_every=4,
        tau=0.02,
        double=True,
        discount=0.98,
        epsilon_end=0.05,
    )
    total_steps, env_steps, returns = 4000, 0, []
    env = make_vector_env("CartPole-v1", 1, seeds=[1])
    agent = DQN(config, env.spec, total_steps=total_steps, device=CPU, seed=1)
    agent.begin(env.reset())
    while env_steps < total_steps:
        first = env_steps
        for _ in range(agent.config.horizon):
            result = env.step(agent.act(env_steps))
            agent.observe(result)
            env_steps += int(result.valid.sum())
            returns += result.episode.returns[result.episode.finished].tolist()
        agent.learn(first)
    env.close()
    assert np.mean(returns[:10]) < 50
    assert np.mean(returns[-10:]) > 100

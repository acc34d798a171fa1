import dataclasses

import numpy as np
import pytest
import torch

from stablegrad.agents.actor_critic import ActorConfig
from stablegrad.agents.presets import apply_changes, option_names
from stablegrad.agents.replay import Batch
from stablegrad.agents.sac import ALGORITHM, SAC, SACConfig
from stablegrad.environments import Box, EnvironmentSpec, EpisodeStatistics, StepResult
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
SPEC = EnvironmentSpec("test", (3,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), False, None, "factory", None)
SMALL = SACConfig(torso=TorsoConfig(depth=0, width=16, norm="none"), buffer_size=1000, learning_starts=0)


def make_agent(config=SMALL, spec=SPEC, seed=0):
    agent = SAC(config, spec, total_steps=1000, device=CPU, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # A policy that differs between states, far from where other formulas of its density lose digits, and a target
        # network that differs from the critic.
        agent.actor.head.weight.normal_(0.0, 0.1, generator=generator)
        agent.actor.head.bias[len(agent.actor.head.bias) // 2 :] = -1.0
        for parameter in agent.target_critic.parameters():
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
    return torch.randn((2, size, 2), generator=generator)


def sb3_parameters(actor):
    """Of Stable-Baselines3's actor in the order of ours, whose head has both of its heads."""
    hidden = list(actor.latent_pi.parameters())
    heads = [torch.cat([actor.mu.weight, actor.log_std.weight]), torch.cat([actor.mu.bias, actor.log_std.bias])]
    return hidden + heads


@pytest.mark.parametrize("num_critics", [1, 2])
def test_updates_are_those_of_stable_baselines3(num_critics, monkeypatch):
    """Its own train(), from the same weights, on the same batches with the same noise."""
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    class Env(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    agent = make_agent(dataclasses.replace(SMALL, num_critics=num_critics))
    kwargs = {"net_arch": [16, 16], "n_critics": num_critics}
    theirs = sb3.SAC("MlpPolicy", Env(), policy_kwargs=kwargs, device="cpu", buffer_size=10)
    theirs.set_logger(configure(None, []))
    # Its log probabilities have 1e-6 under a logarithm against numbers that are not finite; ours need none.
    theirs.actor.action_dist.epsilon = 0.0
    with torch.no_grad():
        for own, other in ((agent.critic, theirs.critic), (agent.target_critic, theirs.critic_target)):
            for one, another in zip(own.parameters(), other.parameters(), strict=True):
                another.copy_(one)
        *hidden, weight, bias = agent.actor.parameters()
        for one, another in zip(hidden, theirs.actor.latent_pi.parameters(), strict=True):
            another.copy_(one)
        for head, rows in ((theirs.actor.mu, slice(0, 2)), (theirs.actor.log_std, slice(2, 4))):
            head.weight.copy_(weight[rows])
            head.bias.copy_(bias[rows])

    for seed in range(3):
        batch = make_batch(seed)
        draws = iter(noise_of_next_update(agent, 32))
        monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda *_, draws=draws, **__: next(draws))
        samples = ReplayBufferSamples(
            batch.observation,
            batch.action,
            batch.next_observation,
            (batch.discount == 0).float()[:, None],
            batch.reward[:, None],
        )
        theirs.replay_buffer.sample = lambda *_, samples=samples, **__: samples
        metrics = agent.update(batch)
        theirs.train(gradient_steps=1, batch_size=32)
        logged = theirs.logger.name_to_value
        assert metrics["loss/td"].item() == pytest.approx(logged["train/critic_loss"], rel=1e-5)
        assert metrics["loss/actor"].item() == pytest.approx(logged["train/actor_loss"], rel=1e-4, abs=1e-5)
        assert metrics["loss/temperature"].item() == pytest.approx(logged["train/ent_coef_loss"], rel=1e-4, abs=1e-6)
        torch.testing.assert_close(agent.log_temperature.detach(), theirs.log_ent_coef.detach()[0])
        pairs = [
            (agent.actor.parameters(), sb3_parameters(theirs.actor)),
            (agent.critic.parameters(), theirs.critic.parameters()),
            (agent.target_critic.parameters(), theirs.critic_target.parameters()),
        ]
        for own, other in pairs:
            for one, another in zip(own, other, strict=True):
                torch.testing.assert_close(one.detach(), another.detach(), rtol=1e-5, atol=1e-5)


def test_an_update_is_the_published_algorithm_written_out():
    """Temperature, critic and actor by a loop over single transitions."""
    config = dataclasses.replace(SMALL, optimizer=OptimizerConfig(name="sgd", learning_rate=0.05), temperature=0.5)
    agent, reference = make_agent(config), make_agent(config)
    batch, (noise, next_noise) = make_batch(0), noise_of_next_update(agent, 32)
    metrics = agent.update(batch)

    def draw(observation, noise):
        mean, log_std = reference.actor(observation[None])[0].chunk(2)
        gaussian = torch.distributions.Normal(mean, log_std.exp())
        pre_tanh = mean + log_std.exp() * noise
        return pre_tanh.tanh(), (gaussian.log_prob(pre_tanh) - torch.log(1 - pre_tanh.tanh().square())).sum()

    def q_values(network, observation, action):
        return network(torch.cat([observation, action])[None])[0]

    td, entropies = [], []
    for i in range(32):
        with torch.no_grad():
            action, log_prob = draw(batch.next_observation[i], next_noise[i])
            value = min(q_values(reference.target_critic, batch.next_observation[i], action)) - 0.5 * log_prob
            target = batch.reward[i] + batch.discount[i] * value
        errors = q_values(reference.critic, batch.observation[i], batch.action[i]) - target
        td.append(0.5 * sum(error**2 for error in errors))
    td_loss = sum(td) / 32
    gradient = torch.autograd.grad(td_loss, list(reference.critic.parameters()))
    with torch.no_grad():
        for parameter, one in zip(reference.critic.parameters(), gradient, strict=True):
            parameter -= 0.05 * one

    actor_losses = []
    for i in range(32):
        action, log_prob = draw(batch.observation[i], noise[i])
        actor_losses.append(0.5 * log_prob - min(q_values(reference.critic, batch.observation[i], action)))
        entropies.append(-log_prob.item())
    actor_loss = sum(actor_losses) / 32
    gradient = torch.autograd.grad(actor_loss, list(reference.actor.parameters()))
    with torch.no_grad():
        for parameter, one in zip(reference.actor.parameters(), gradient, strict=True):
            parameter -= 0.05 * one

    for network in ("actor", "critic"):
        pairs = zip(agent.networks[network].parameters(), reference.networks[network].parameters(), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert metrics["loss/td"].item() == pytest.approx(td_loss.item(), rel=1e-4)
    assert metrics["loss/actor"].item() == pytest.approx(actor_loss.item(), rel=1e-4)
    assert metrics["values/entropy"].item() == pytest.approx(np.mean(entropies), rel=1e-4)
    # Adam's first step is its rate; the entropy is above -2, so the temperature falls.
    assert np.mean(entropies) > -2
    assert agent.log_temperature.item() == pytest.approx(np.log(0.5) - 3e-4, abs=1e-6)


def test_objectives_are_the_losses_of_an_update():
    config = dataclasses.replace(SMALL, optimizer=OptimizerConfig(name="sgd", learning_rate=1e-9))
    agent = make_agent(config)
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
    agent = make_agent()
    seen = []
    agent.optimizers["critic"].register_step_post_hook(
        lambda *_: seen.extend(parameter.grad.clone() for parameter in agent.critic.parameters())
    )
    agent.update(make_batch(0))
    for own, parameter in zip(seen, agent.critic.parameters(), strict=True):
        assert torch.equal(own, parameter.grad)


def test_the_temperature_is_fitted_to_the_target_entropy_or_stays():
    batch = make_batch(0)
    entropy = make_agent().update(batch)["values/entropy"].item()
    for target_entropy, direction in ((entropy + 1.0, 1), (entropy - 1.0, -1)):
        agent = make_agent(dataclasses.replace(SMALL, target_entropy=target_entropy))
        agent.update(batch)
        assert np.sign(agent.scalars(0)["exploration/temperature"] - 1.0) == direction
    fixed = make_agent(dataclasses.replace(SMALL, learn_temperature=False, temperature=0.2))
    assert "loss/temperature" not in fixed.update(batch)
    assert fixed.scalars(0)["exploration/temperature"] == pytest.approx(0.2)
    assert make_agent().target_entropy == -2.0


def test_actions_are_uniform_until_learning_starts_then_drawn_from_the_policy():
    agent = make_agent(dataclasses.replace(SMALL, num_envs=1000, learning_starts=100))
    state = np.array([0.3, -1.0, 0.5], np.float32)
    agent.begin(np.tile(state, (1000, 1)))
    random = agent.act(99)
    assert random.shape == (1000, 2) and random.dtype == np.float32
    assert np.abs(random).max() <= 1.0
    assert random.mean(axis=0) == pytest.approx([0.0, 0.0], abs=0.1)
    assert random.var(axis=0) == pytest.approx([1 / 3, 1 / 3], abs=0.05)
    drawn = agent.act(100)
    assert drawn.dtype == np.float32 and np.abs(drawn).max() <= 1.0
    mean, log_std = agent.actor(torch.from_numpy(state)[None])[0].detach().chunk(2)
    pre_tanh = np.arctanh(drawn.astype(np.float64))
    assert pre_tanh.mean(axis=0) == pytest.approx(mean.numpy(), abs=0.2)
    assert pre_tanh.std(axis=0) == pytest.approx(log_std.exp().numpy(), rel=0.15)
    greedy = agent.policy(state[None])
    np.testing.assert_allclose(greedy[0], mean.tanh().numpy(), rtol=1e-5)
    assert greedy.dtype == np.float32


def test_the_actor_is_the_critics_but_for_its_own_options():
    torso = TorsoConfig(kind="multi_skip", depth=3, width=32, skip_blocks=3, variance_preserving=True)
    config = SACConfig(torso=torso, optimizer=OptimizerConfig(name="kron", learning_rate=1e-3))
    assert config.torso_of("actor") == config.torso_of("critic") == torso
    assert config.optimizer_of("actor") == config.optimizer
    assert {"actor.width", "actor.optimizer", "torso.width"} <= set(option_names(config))

    narrow = apply_changes(config, {"actor.width": "8", "actor.depth": "2", "actor.norm": "none"})
    assert narrow.torso_of("actor") == dataclasses.replace(torso, width=8, depth=2, norm="none", skip_blocks=2)
    plain = apply_changes(config, {"actor.kind": "mlp"})
    assert plain.torso_of("actor") == TorsoConfig(depth=3, width=32)
    slow = apply_changes(config, {"actor.learning_rate": "1e-4"})
    assert slow.optimizer_of("actor") == OptimizerConfig(name="kron", learning_rate=1e-4)
    # Another optimizer does not take over a rate that was chosen for the critic's.
    adam = apply_changes(config, {"actor.optimizer": "adam"})
    assert adam.optimizer_of("actor") == OptimizerConfig(name="adam")
    agent = make_agent(dataclasses.replace(SMALL, actor=ActorConfig(width=8, learning_rate=1e-5)))
    assert agent.actor.head.in_features == 8 and agent.critic.members[0].head.in_features == 16
    assert [agent.optimizers[name].param_groups[0]["lr"] for name in ("actor", "critic")] == [1e-5, 3e-4]


def test_defaults_are_the_published_ones():
    config = ALGORITHM.defaults(SPEC)
    assert (config.batch_size, config.buffer_size, config.tau, config.discount) == (256, 1_000_000, 0.005, 0.99)
    assert config.optimizer.initial_learning_rate == config.temperature_learning_rate == 3e-4
    assert config.max_grad_norm is None
    networks = ALGORITHM.build_networks(config, SPEC)
    sizes = {
        name: [module.out_features for module in network.modules() if isinstance(module, torch.nn.Linear)]
        for name, network in networks.items()
    }
    assert sizes == {"actor": [256, 256, 4], "critic": [256, 256, 1] * 2}


def test_the_best_action_of_a_bandit_is_found():
    config = dataclasses.replace(
        SMALL,
        torso=TorsoConfig(depth=0, width=32, norm="none"),
        optimizer=OptimizerConfig(name="adam", learning_rate=3e-3),
        discount=0.0,
        batch_size=64,
        num_envs=4,
        learning_starts=100,
        temperature=0.01,
        learn_temperature=False,
    )
    agent, best = make_agent(config), np.array([0.5, -0.3])
    state = np.ones((4, 3), np.float32)
    no = np.zeros(4, bool)
    statistics = EpisodeStatistics(no, np.zeros(4), np.zeros(4, np.int64))
    agent.begin(state)
    for step in range(0, 1600, 4):
        reward = -np.square(agent.act(step) - best).sum(axis=1)
        agent.observe(StepResult(state, reward.astype(np.float32), no, no, ~no, statistics))
        agent.learn(step)
    np.testing.assert_allclose(agent.policy(state[:1])[0], best, atol=0.15)

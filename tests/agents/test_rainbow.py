import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.agents.dqn import DQN, DQNConfig
from stablegrad.agents.presets import apply_changes, preset_config
from stablegrad.agents.prioritised import PrioritisedBatch, PrioritisedReplay
from stablegrad.agents.rainbow import ALGORITHM, Rainbow, RainbowConfig
from stablegrad.agents.replay import Batch
from stablegrad.environments import (
    Discrete,
    EnvironmentSpec,
    EpisodeStatistics,
    StepResult,
    environment_spec,
    make_vector_env,
)
from stablegrad.errors import UsageError
from stablegrad.networks import DuelingHead, NoisyLinear, TorsoConfig, noise
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
SPEC = EnvironmentSpec("test", (4,), "float32", Discrete(3), False, None, "factory", None)
SMALL = {
    "torso": TorsoConfig(depth=0, width=16, norm="none"),
    "buffer_size": 200,
    "learning_starts": 0,
    "batch_size": 8,
}
OFF = {"double": False, "dueling": False, "noisy": False, "prioritised": False, "value_loss": "huber", "n_step": 1}


def make_agent(agent=Rainbow, seed=0, total_steps=1000, **changes):
    config = (RainbowConfig if agent is Rainbow else DQNConfig)(**{**SMALL, **changes})
    made = agent(config, SPEC, total_steps=total_steps, device=CPU, seed=seed)
    # A target network that differs from the trained one.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.target.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def make_batch(seed, size=32):
    generator = torch.Generator().manual_seed(seed)
    terminated = torch.rand(size, generator=generator) < 0.3
    return Batch(
        observation=torch.randn(size, 4, generator=generator),
        action=torch.randint(3, (size,), generator=generator),
        reward=2.0 * torch.randn(size, generator=generator),
        next_observation=torch.randn(size, 4, generator=generator),
        discount=0.97 * (~terminated).float(),
    )


def play(agent, steps, learn=True):
    """Random observations and rewards; episodes end now and then."""
    random = np.random.default_rng(0)
    n = agent.config.num_envs
    nothing = EpisodeStatistics(np.zeros(n, bool), np.zeros(n), np.zeros(n, np.int64))
    agent.begin(random.normal(size=(n, 4)).astype(np.float32))
    learned, ended = {}, np.zeros(n, bool)
    for step in range(steps):
        agent.act(step)
        valid, terminated = ~ended, ~ended & (random.random(n) < 0.1)
        observation = random.normal(size=(n, 4)).astype(np.float32)
        reward = np.where(valid, random.normal(size=n), 0.0).astype(np.float32)
        agent.observe(StepResult(observation, reward, terminated, np.zeros(n, bool), valid, nothing))
        ended = terminated
        if learn:
            learned = agent.learn(step)
    return learned


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_with_all_extensions_off_it_is_dqn(double, loss):
    """Whole trainings: first weights, exploration, batches, updates and targets."""
    options = {"double": double, "value_loss": loss, "target_every": 10, "optimizer": OptimizerConfig(name="adam")}
    rainbow, dqn = make_agent(**{**OFF, **options}), make_agent(DQN, **options)
    assert torch.equal(weights(rainbow.network), weights(dqn.network))
    learned = [play(agent, 60) for agent in (rainbow, dqn)]
    assert rainbow.updates == dqn.updates > 5
    torch.testing.assert_close(weights(rainbow.network), weights(dqn.network), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weights(rainbow.target), weights(dqn.target), rtol=1e-6, atol=1e-6)
    assert learned[0].keys() == learned[1].keys()
    for key, value in learned[0].items():
        torch.testing.assert_close(value, learned[1][key], rtol=1e-5, atol=1e-6)
    assert rainbow.state_dict().keys() == dqn.state_dict().keys()
    assert rainbow.scalars(50) == dqn.scalars(50)
    assert rainbow.outputs == dqn.outputs


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_an_update_is_the_published_algorithm_written_out(double, noisy):
    """Algorithm 1 of Bellemare et al. with an action by Double Q-learning, row by row, weighted by importance."""
    options = {"double": double, "noisy": noisy, "num_atoms": 7, "v_min": -3.0, "v_max": 4.0, "max_grad_norm": None}
    options["optimizer"] = OptimizerConfig(name="sgd", learning_rate=0.05)
    agent, reference = make_agent(**options), make_agent(**options)
    generator = torch.Generator().set_state(agent.noise.get_state())
    play(agent, 20, learn=False)
    agent.noise.set_state(generator.get_state())
    drawn = agent.replay.sample_prioritised(32, 0.4, torch.Generator().manual_seed(0))
    batch = make_batch(0)
    fields = {one.name: getattr(batch, one.name) for one in dataclasses.fields(Batch)}
    weight = torch.rand(32, generator=torch.Generator().manual_seed(1))
    batch = PrioritisedBatch(**fields, weight=weight, place=drawn.place)
    metrics = agent.update(batch)

    atoms, spacing = np.linspace(-3.0, 4.0, 7), 7.0 / 6.0
    losses, divergences, values = [], [], []
    with torch.no_grad(), noise(reference.network, generator), noise(reference.target, generator):
        following = reference.target(batch.next_observation).softmax(dim=2)
        choosing = reference.network(batch.next_observation).softmax(dim=2) if double else following
    with noise(reference.network, generator):
        logits = reference.network(batch.observation)
    for i in range(32):
        best = int(np.argmax([float((choosing[i, a].numpy() * atoms).sum()) for a in range(3)]))
        target = np.zeros(7)
        for atom, probability in zip(atoms, following[i, best].tolist(), strict=True):
            value = float(batch.reward[i]) + float(batch.discount[i]) * atom
            position = (min(max(value, -3.0), 4.0) + 3.0) / spacing
            lower = min(int(position), 5)
            target[lower] += probability * (lower + 1 - position)
            target[lower + 1] += probability * (position - lower)
        log_probabilities = logits[i, batch.action[i]].log_softmax(dim=0)
        losses.append(-(torch.tensor(target, dtype=torch.float32) * log_probabilities).sum())
        found = log_probabilities.detach().numpy()
        divergences.append(sum(t * (np.log(t) - p) for t, p in zip(target, found, strict=True) if t > 0))
        values.append(float((np.exp(found) * atoms).sum()))
    loss = sum(weight[i] * losses[i] for i in range(32)) / 32
    assert metrics["loss/td"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["values/q"].item() == pytest.approx(np.mean(values), rel=1e-3, abs=1e-4)
    loss.backward()
    for expected, actual in zip(reference.network.parameters(), agent.network.parameters(), strict=True):
        torch.testing.assert_close(actual, expected - 0.05 * expected.grad, rtol=1e-4, atol=1e-5)
    # Of a place that was drawn twice the last priority counts.
    expected = dict(zip(drawn.place.tolist(), divergences, strict=True))
    for place, divergence in expected.items():
        assert agent.replay._tree.weights[place] == pytest.approx((divergence + 1e-6) ** 0.5, rel=1e-3, abs=1e-4)


def test_priorities_without_distributions_are_absolute_errors():
    agent = make_agent(noisy=False, double=False, value_loss="huber")
    play(agent, 20, learn=False)
    batch = agent.replay.sample_prioritised(8, 0.4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        q_values = agent.network(batch.observation).gather(1, batch.action[:, None])[:, 0]
        target = batch.reward + batch.discount * agent.target(batch.next_observation).amax(dim=1)
    agent.update(batch)
    error = (q_values - target).abs()
    np.testing.assert_allclose(agent.replay._tree.weights[batch.place], (error + 1e-6).sqrt(), rtol=1e-4)


def test_each_update_of_one_call_of_learn_draws_by_the_priorities_that_the_last_one_left():
    agent = make_agent(gradient_steps=3)
    play(agent, 30, learn=False)
    seen, update = [], agent.update

    def watched(batch):
        before = agent.replay._tree.weights.copy()
        metrics = update(batch)
        seen.append((batch, before, agent.replay._tree.weights.copy()))
        return metrics

    agent.update = watched
    agent.learn(500)
    assert agent.updates == len(seen) == 3
    for (_, _, after), (following, before, _) in pairwise(seen):
        np.testing.assert_array_equal(before, after)
        # Importance by the newest priorities, with beta half way from 0.4 to 1.
        priority = before[following.place].astype(float)
        np.testing.assert_allclose(following.weight, (priority / priority.min()) ** -0.7, rtol=1e-5)
    for batch, before, after in seen:
        changed = np.flatnonzero(before != after)
        assert len(changed) and set(changed) <= set(batch.place)


def test_the_importance_exponent_rises_linearly_to_1():
    agent = make_agent()
    assert [agent.importance_exponent(step) for step in (0, 500, 1000, 1100)] == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert agent.scalars(500)["replay/importance_exponent"] == pytest.approx(0.7)


def test_every_extension_switched_off_leaves_the_others_as_they_are():
    def built(**changes):
        return make_agent(**changes)

    whole = built()
    linear = [module for module in whole.network.modules() if isinstance(module, nn.Linear)]
    assert all(isinstance(module, NoisyLinear) for module in linear) and len(linear) == 6
    assert isinstance(whole.network.head, DuelingHead) and isinstance(whole.replay, PrioritisedReplay)
    assert whole.network(torch.zeros(2, 4)).shape == (2, 3, 51)
    assert whole.outputs == {"q": "expected_argmax"}
    assert whole.values.atoms.tolist()[::25] == pytest.approx([-10.0, 0.0, 10.0], abs=1e-6)

    values = built(value_loss="huber")
    assert values.network(torch.zeros(2, 4)).shape == (2, 3) and values.outputs == {"q": "argmax"}
    assert isinstance(values.network.head, DuelingHead) and isinstance(values.replay, PrioritisedReplay)
    quiet = built(noisy=False)
    assert not any(isinstance(module, NoisyLinear) for module in quiet.network.modules())
    assert quiet.network(torch.zeros(2, 4)).shape == (2, 3, 51)
    one_stream = built(dueling=False)
    assert type(one_stream.network.head) is NoisyLinear and one_stream.network.head.out_features == 3 * 51
    uniform = built(prioritised=False)
    assert not isinstance(uniform.replay, PrioritisedReplay) and "priorities" not in uniform.state_dict()
    assert "replay/importance_exponent" not in uniform.scalars(0)
    assert whole.replay._n_step == 3 and built(n_step=1).replay._n_step == 1


def test_double_q_learning_lets_the_trained_network_choose():
    batch = make_batch(1)
    # Without rewards nothing is cut off at the ends of the range.
    batch = dataclasses.replace(batch, reward=torch.zeros_like(batch.reward))
    for double in (False, True):
        agent = make_agent(double=double, noisy=False)
        with torch.no_grad():
            following = agent.target(batch.next_observation)
            chooser = agent.network if double else agent.target
            best = agent.values.of(chooser(batch.next_observation)).argmax(dim=1)
            other = agent.values.of((agent.target if double else agent.network)(batch.next_observation)).argmax(dim=1)
        assert not torch.equal(best, other)
        mean = agent.td_labels(batch) @ agent.values.atoms
        chosen = agent.values.of(following)[torch.arange(32), best]
        torch.testing.assert_close(mean, batch.discount * chosen, rtol=1e-3, atol=1e-4)


def test_noise_is_new_for_every_act_and_pass_and_absent_where_the_agent_is_judged():
    agent = make_agent(num_envs=1, learning_starts=2)
    play(agent, 10, learn=False)
    passes = []

    def keep(name):
        def hook(*_):
            drawn = [module.noise for module in agent.networks["q"].modules() if isinstance(module, NoisyLinear)]
            target = [module.noise for module in agent.target.modules() if isinstance(module, NoisyLinear)]
            own = {"q": drawn, "target": target}[name]
            passes.append((name, None if own[0] is None else torch.cat([torch.cat(pair) for pair in own])))

        return hook

    agent.network.register_forward_hook(keep("q"))
    agent.target.register_forward_hook(keep("target"))
    for _ in range(3):
        agent.act(5)
    agent.update(agent.replay.sample_prioritised(8, 0.4, agent.sampling))
    assert sorted(name for name, _ in passes) == ["q"] * 5 + ["target"]
    drawn = [one for _, one in passes]
    for number, one in enumerate(drawn):
        assert one is not None and all(not torch.equal(one, other) for other in drawn[:number])
    passes.clear()
    state = agent.noise.get_state()
    agent.policy(agent.observation)
    agent.objectives(8)["q"].mean_loss(agent.network)
    assert len(passes) == 4 and all(one is None for _, one in passes)
    assert torch.equal(agent.noise.get_state(), state)


def test_exploration_is_by_noise_or_by_epsilon():
    noisy = make_agent(learning_starts=100)
    assert [noisy.epsilon(step) for step in (0, 99, 100, 1000)] == [1.0, 1.0, 0.0, 0.0]
    greedy = make_agent(learning_starts=100, noisy=False, epsilon_end=0.2, exploration_fraction=0.5)
    assert [greedy.epsilon(step) for step in (0, 99, 100, 250, 1000)] == pytest.approx([1.0, 1.0, 0.84, 0.6, 0.2])
    many = make_agent(num_envs=200, buffer_size=200)
    many.begin(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))
    greedy = many.policy(many.observation)
    actions = [many.act(0) for _ in range(20)]
    assert all(action.dtype == np.int64 and action.shape == (200,) for action in actions)
    assert len({tuple(action) for action in actions}) == 20
    assert not any(np.array_equal(action, greedy) for action in actions)
    with torch.no_grad():
        for module in many.network.modules():
            if isinstance(module, NoisyLinear):
                module.weight_sigma.zero_()
                module.bias_sigma.zero_()
    np.testing.assert_array_equal(many.act(0), many.policy(many.observation))


def test_the_objective_is_the_loss_of_an_update_without_weights_and_noise():
    agent = make_agent(noisy=False, optimizer=OptimizerConfig(name="sgd", learning_rate=1e-9))
    batch = make_batch(3)
    agent.recent = lambda rows: batch
    mean = agent.objectives(32)["q"].mean_loss(agent.network).item()
    assert mean == pytest.approx(agent.update(batch)["loss/td"].item(), rel=1e-5)


def test_defaults_are_the_published_ones():
    atari = ALGORITHM.defaults(environment_spec("Pong-v5"))
    assert (atari.optimizer.initial_learning_rate, atari.optimizer.adam_eps) == (6.25e-5, 1.5e-4)
    assert (atari.batch_size, atari.buffer_size, atari.learning_starts) == (32, 1_000_000, 80_000)
    assert (atari.train_every, atari.target_every, atari.n_step) == (4, 8000, 3)
    assert (atari.priority_exponent, atari.importance_exponent, atari.noisy_sigma) == (0.5, 0.4, 0.5)
    assert (atari.num_atoms, atari.v_min, atari.v_max) == (51, -10.0, 10.0)
    assert atari.double and atari.dueling and atari.noisy and atari.prioritised and atari.value_loss == "c51"
    agent = make_agent()
    assert agent.optimizers["q"].param_groups[0]["eps"] == 1.5e-4
    spec = environment_spec("CartPole-v1")
    vector = ALGORITHM.defaults(spec)
    assert (vector.optimizer.initial_learning_rate, vector.batch_size, vector.target_every) == (6.3e-4, 128, 250)
    # CartPole's discounted return lies within the atoms.
    assert vector.v_max > 1 / (1 - vector.discount) and vector.v_min == -vector.v_max
    layers = [one for one in ALGORITHM.build_networks(vector, spec)["q"].modules() if isinstance(one, nn.Linear)]
    assert [layer.out_features for layer in layers] == [256, 256, 256, 51, 256, 102]


@pytest.mark.parametrize("preset", ["baseline", "stable", "multi_skip", "kron", "residual"])
def test_presets_learn_with_noise_in_all_their_linear_layers(preset):
    changes = {"torso.depth": "2", "torso.width": "8", **{name: str(SMALL[name]) for name in ("batch_size",)}}
    config = apply_changes(preset_config("rainbow", preset, SPEC), {**changes, "buffer_size": "200"})
    agent = Rainbow(config, SPEC, total_steps=1000, device=CPU, seed=0)
    linear = [module for module in agent.network.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 6 + 4 and all(isinstance(module, NoisyLinear) for module in linear)
    norms = sum(isinstance(module, nn.LayerNorm) for module in agent.network.modules())
    assert norms == (8 if preset == "stable" else 0)
    before = weights(agent.network)
    learned = play(agent, 12)
    assert learned["loss/td"].isfinite().all()
    sigmas = [parameter for name, parameter in agent.network.named_parameters() if name.endswith("weight_sigma")]
    assert all(parameter.std() > 0 for parameter in sigmas)
    assert not torch.equal(weights(agent.network), before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_atoms": 1}, "num-atoms must be at least 2, got 1"),
        ({"v_min": 10.0}, "v-min must be below v-max, both finite; got 10.0 and 10.0"),
        ({"v_max": float("inf")}, "v-min must be below v-max"),
        ({"priority_exponent": 1.5}, "priority-exponent must be from 0 to 1, got 1.5"),
        ({"importance_exponent": -0.1}, "importance-exponent must be from 0 to 1, got -0.1"),
        ({"noisy_sigma": 0.0}, "noisy-sigma must be above 0 and finite, got 0.0"),
        ({"value_loss": "hubber"}, "huber"),
        ({"n_step": 0}, "n-step must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_one_line(options, words):
    with pytest.raises(UsageError, match=words) as error:
        make_agent(**options)
    assert "\n" not in str(error.value)


def test_cartpole_is_learned():
    """From about 20 steps an episode to some 100."""
    config = dataclasses.replace(
        ALGORITHM.defaults(environment_spec("CartPole-v1")),
        torso=TorsoConfig(depth=0, width=64, norm="none"),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3),
        batch_size=32,
        gradient_steps=1,
        target_every=50,
        discount=0.98,
        num_atoms=21,
        v_min=0.0,
        v_max=50.0,
    )
    total_steps, env_steps, returns = 3000, 0, []
    env = make_vector_env("CartPole-v1", 1, seeds=[1])
    agent = Rainbow(config, env.spec, total_steps=total_steps, device=CPU, seed=1)
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
    assert np.mean(returns[-10:]) > 60

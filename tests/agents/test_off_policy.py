"""What agents with a replay buffer share, played in a scripted environment whose observations are all different."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from stablegrad.agents import ddpg, dqn, rainbow, sac, td3
from stablegrad.agents.actor_critic import ActorConfig
from stablegrad.agents.presets import apply_changes
from stablegrad.agents.prioritised import priority_bytes
from stablegrad.diagnostics import metrics
from stablegrad.environments import Box, Discrete, EnvironmentSpec, EpisodeStatistics, StepResult
from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
SPEC = EnvironmentSpec("test", (3,), "float32", Discrete(4), False, None, "factory", None)
BOX = dataclasses.replace(SPEC, action_space=Box((-1.0, -2.0), (1.0, 5.0)))
IMAGES = dataclasses.replace(SPEC, observation_shape=(4, 84, 84), observation_dtype="uint8", is_image=True)
ALGORITHMS = {
    "dqn": (dqn.ALGORITHM, SPEC),
    "rainbow": (rainbow.ALGORITHM, SPEC),
    "sac": (sac.ALGORITHM, BOX),
    "td3": (td3.ALGORITHM, BOX),
    "ddpg": (ddpg.ALGORITHM, BOX),
}
SMALL = {
    "torso": TorsoConfig(depth=0, width=16, norm="none"),
    "batch_size": 8,
    "buffer_size": 200,
    "learning_starts": 20,
    "train_every": 4,
    "gradient_steps": 3,
}

each = pytest.mark.parametrize("name", ALGORITHMS)


def make_agent(name, seed=0, average_gradients=None, total_steps=1000, **changes):
    algorithm, spec = ALGORITHMS[name]
    config = algorithm.config(**{**SMALL, **changes})
    return algorithm.agent(
        config, spec, total_steps=total_steps, device=CPU, seed=seed, average_gradients=average_gradients
    )


class Script:
    """Random rewards and ends with next-step autoreset; keeps every transition by its first observation's number."""

    def __init__(self, num_envs, seed=0):
        self.random = np.random.default_rng(seed)
        self.num_envs = num_envs
        self.count = 0
        self.ended = np.zeros(num_envs, bool)
        self.transitions = {}

    def observe(self):
        observation = self.random.normal(size=(self.num_envs, 3)).astype(np.float32)
        observation[:, 0] = np.arange(self.count, self.count + self.num_envs)
        self.count += self.num_envs
        return observation

    def reset(self):
        self.observation, self.ended = self.observe(), np.zeros(self.num_envs, bool)
        return self.observation

    def step(self, action):
        n, valid = self.num_envs, ~self.ended
        reward = np.where(valid, self.random.normal(size=n), 0.0).astype(np.float32)
        terminated = valid & (self.random.random(n) < 0.1)
        truncated = valid & ~terminated & (self.random.random(n) < 0.1)
        observation = self.observe()
        for i in np.flatnonzero(valid):
            discount = 0.0 if terminated[i] else 0.99
            self.transitions[self.observation[i, 0]] = (action[i], reward[i], observation[i], discount)
        self.ended, self.observation = terminated | truncated, observation
        statistics = EpisodeStatistics(self.ended, np.zeros(n), np.zeros(n, np.int64))
        return StepResult(observation, reward, terminated, truncated, valid, statistics)


def play(agent, steps, script=None, env_steps=0, between=lambda: None):
    """Returns the metrics of every call of learn, and the environment steps taken."""
    script = script or Script(agent.config.num_envs)
    agent.begin(script.reset())
    learned = []
    for _ in range(steps):
        first = env_steps
        for _ in range(agent.config.horizon):
            between()
            result = script.step(agent.act(env_steps))
            agent.observe(result)
            env_steps += int(result.valid.sum())
        learned.append(agent.learn(first))
    return learned, env_steps


def weights(agent):
    everything = [*agent.networks.values(), *agent.targets.values()]
    return torch.cat([parameter.detach().flatten() for network in everything for parameter in network.parameters()])


@each
def test_what_is_learned_from_are_the_transitions_and_no_reset(name):
    """Nor is a step from the last observation of a segment to the first of the next."""
    agent = make_agent(name, num_envs=3, n_step=1)
    script = Script(3)
    for _ in range(5):
        play(agent, 8, script)
    batch = agent.recent(10_000)
    assert 0 < len(batch.reward) == len(script.transitions) <= 120
    terminated = truncated = 0
    for row, number in enumerate(batch.observation[:, 0].tolist()):
        action, reward, following, discount = script.transitions[number]
        np.testing.assert_array_equal(batch.action[row].numpy(), action)
        np.testing.assert_array_equal(batch.next_observation[row].numpy(), following)
        assert batch.reward[row].item() == reward
        assert batch.discount[row].item() == np.float32(discount)
        terminated += discount == 0.0
        truncated += discount != 0.0 and following[0] not in script.transitions
    assert terminated and truncated


@each
def test_nothing_is_learned_before_learning_starts_and_metrics_have_one_value_an_update(name):
    agent = make_agent(name)
    before = weights(agent)
    learned, env_steps = play(agent, 5)
    assert not any(learned) and not agent.updates and 0 < env_steps <= 20
    assert torch.equal(weights(agent), before)
    metrics = agent.learn(20)
    assert agent.updates == 3
    assert {"loss/td", "values/q"} <= metrics.keys()
    numbers = {network: metrics.pop(f"updates/{network}", torch.arange(1, 4)) for network in agent.networks}
    for network, own in numbers.items():
        count = len(list(agent.networks[network].parameters()))
        # TD3's actor is changed by every second update.
        assert own.tolist() == ([2] if (name, network) == ("td3", "actor") else [1, 2, 3])
        assert metrics[f"parameter_norms/{network}"].shape == (len(own), count)
        torch.testing.assert_close(metrics[f"parameter_norms/{network}"].norm(dim=1), metrics[f"gradients/{network}"])
        assert all(len(values) == len(own) for key, values in metrics.items() if key.endswith(f"/{network}"))
    assert all(key.endswith("/actor") or len(values) == 3 for key, values in metrics.items())
    assert not any(values.requires_grad for values in metrics.values())
    assert not torch.equal(weights(agent), before)


@each
def test_an_empty_buffer_is_not_learned_from_and_not_measured(name):
    agent = make_agent(name, learning_starts=0)
    agent.begin(Script(1).reset())
    assert agent.learn(0) == {}
    assert agent.probe(8) == {} and agent.objectives(8) == {}


@pytest.mark.parametrize(("train_every", "num_envs", "horizon"), [(4, 1, 4), (4, 2, 2), (4, 3, 1), (1, 8, 1)])
def test_steps_are_counted_over_all_environments(train_every, num_envs, horizon):
    agent = make_agent("dqn", train_every=train_every, num_envs=num_envs)
    assert agent.config.horizon == horizon


@each
def test_the_same_seed_learns_the_same_and_another_does_not(name):
    agents = [make_agent(name, seed) for seed in (1, 1, 2)]
    for agent in agents:
        play(agent, 20)
    first, same, other = (weights(agent) for agent in agents)
    assert torch.equal(first, same) and not torch.equal(first, other)


@each
def test_measurements_and_evaluation_leave_the_training_alone(name):
    quiet, watched = make_agent(name), make_agent(name)
    play(quiet, 20)
    # 8 rows are a batch, whose memory the buffer uses again.
    rows = SMALL["batch_size"]

    def measure():
        watched.probe(rows)
        watched.objectives(rows)
        watched.policy(np.zeros((2, 3), np.float32))
        watched.scalars(0)

    for optimizer in watched.optimizers.values():
        optimizer.register_step_post_hook(lambda *_: measure())
    play(watched, 20, between=measure)
    assert torch.equal(weights(quiet), weights(watched))


@each
def test_a_restored_agent_goes_on_bit_for_bit(name):
    original, restored = make_agent(name, n_step=3, num_envs=2), make_agent(name, seed=9, n_step=3, num_envs=2)
    _, env_steps = play(original, 20)
    for network in original.networks:
        restored.networks[network].load_state_dict(original.networks[network].state_dict())
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    for key, array in original.replay.arrays().items():
        restored.replay.arrays()[key].copy_(array)
    restored.replay.load_state_dict(original.replay.state_dict())
    for agent in (original, restored):
        agent.reseed(5)
        play(agent, 20, Script(2, seed=7), env_steps)
    assert torch.equal(weights(original), weights(restored))
    assert original.updates == restored.updates > 60


def test_a_state_of_another_agent_is_refused():
    one, other = make_agent("dqn"), make_agent("sac")
    with pytest.raises(ValueError, match="a state of DQN has"):
        one.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="options"):
        one.load_state_dict(make_agent("dqn", optimizer=OptimizerConfig(name="sgd")).state_dict())


@each
def test_gradients_are_averaged_before_they_are_clipped(name):
    seen = []

    def average(parameters):
        seen.append(len(parameters))
        for parameter in parameters:
            parameter.grad.mul_(0.0)

    agent = make_agent(name, average_gradients=average, max_grad_norm=0.1)
    before = torch.cat([parameter.detach().flatten() for parameter in agent.parameters[next(iter(agent.networks))]])
    learned, _ = play(agent, 10)
    after = torch.cat([parameter.detach().flatten() for parameter in agent.parameters[next(iter(agent.networks))]])
    assert torch.equal(before, after)
    assert learned[-1]["loss/td"].isfinite().all()
    n = agent.updates
    assert len(seen) == {"dqn": n, "rainbow": n, "sac": 3 * n, "td3": n + n // 2, "ddpg": 2 * n}[name]


@each
def test_the_largest_gradient_norm_is_kept(name):
    agent = make_agent(name, max_grad_norm=1e-3)
    learned, _ = play(agent, 10)
    for network, parameters in agent.parameters.items():
        assert learned[-1][f"gradients/{network}"][-1] > 1e-3
        norms = torch.stack([parameter.grad.norm() for parameter in parameters])
        assert norms.norm().item() == pytest.approx(1e-3, rel=1e-2)


@each
def test_objectives_are_losses_of_which_samples_and_curvature_can_be_had(name):
    agent = make_agent(name)
    play(agent, 10)
    objectives = agent.objectives(8)
    assert objectives.keys() == agent.networks.keys() == agent.probe(8).keys()
    for network, objective in objectives.items():
        model = agent.networks[network]
        assert torch.equal(agent.probe(8)[network], objective.inputs)
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(objective.mean_loss(model), parameters, materialize_grads=True)
        rows = metrics.per_sample_gradients(model, objective.inputs, objective.loss, *objective.targets)
        together = torch.cat([one.flatten() for one in gradient])
        torch.testing.assert_close(rows.mean(dim=0), together, rtol=1e-4, atol=1e-6)
        loss, generator = partial(objective.mean_loss, model), torch.Generator().manual_seed(0)
        trace = metrics.hessian_trace(loss, list(model.parameters()), 2, generator)
        assert np.isfinite(float(trace.value))


@each
def test_objectives_are_what_an_update_goes_down(name):
    agent = make_agent(name, optimizer=OptimizerConfig(name="sgd", learning_rate=1e-4))
    play(agent, 10)
    for network, objective in agent.objectives(200).items():
        model = agent.networks[network]
        before = objective.mean_loss(model)
        agent.step(network, objective.mean_loss(model))
        assert objective.mean_loss(model) < before


@each
def test_probes_are_no_longer_than_what_there_is(name):
    agent = make_agent(name)
    play(agent, 2)
    rows = len(agent.replay)
    assert {len(probe) for probe in agent.probe(1000).values()} == {rows}
    assert {len(probe) for probe in agent.probe(4).values()} == {4}


@each
def test_bf16_passes_keep_weights_and_metrics_in_fp32(name):
    agent = make_agent(name, precision="bf16")
    learned, _ = play(agent, 10)
    assert weights(agent).dtype == torch.float32
    measured = {key: values for key, values in learned[-1].items() if not key.startswith("updates/")}
    assert all(values.isfinite().all() and values.dtype == torch.float32 for values in measured.values())


@each
def test_the_learning_rate_follows_the_schedule(name):
    optimizer = OptimizerConfig(name="adam", learning_rate=1e-3, schedule="linear")
    agent = make_agent(name, optimizer=optimizer, total_steps=100)
    play(agent, 10)
    agent.learn(75)
    for one in agent.optimizers.values():
        assert one.param_groups[0]["lr"] == pytest.approx(2.5e-4)


@each
def test_presets_and_optimizers_act_on_every_network(name):
    algorithm, spec = ALGORITHMS[name]
    changes = {"torso.kind": "multi_skip", "torso.depth": "2", "optimizer.name": "kron", "torso.norm": "layer"}
    config = apply_changes(algorithm.config(**SMALL), changes)
    agent = algorithm.agent(config, spec, total_steps=1000, device=CPU, seed=0)
    learned, _ = play(agent, 10)
    assert learned[-1]["loss/td"].isfinite().all()
    for network in agent.networks.values():
        assert any("blocks.1" in key for key in network.state_dict())
    assert {type(optimizer).__name__ for optimizer in agent.optimizers.values()} == {"Kron"}


@each
def test_networks_can_be_counted_without_memory_and_the_buffer_is_estimated(name):
    algorithm, spec = ALGORITHMS[name]
    config = algorithm.config(buffer_size=10_000, num_envs=2, n_step=3)
    with torch.device("meta"):
        networks = algorithm.build_networks(config, spec)
    assert all(parameter.is_meta for network in networks.values() for parameter in network.parameters())
    agent = algorithm.agent(config, spec, total_steps=1000, device=CPU, seed=0)
    stored = sum(array.nbytes for array in agent.replay.arrays().values())
    if name == "rainbow":
        stored += priority_bytes(10_000, 2, n_step=3, frame_stack=1)
    assert algorithm.experience_bytes(config, spec) == stored


def test_atari_stacks_are_stored_by_frames_and_other_images_whole():
    config = dqn.DQNConfig(buffer_size=1000)
    whole = 1000 * 4 * 84 * 84
    atari = dataclasses.replace(IMAGES, atari_game="Pong")
    assert whole / 4 < dqn.ALGORITHM.experience_bytes(config, atari) < whole / 3.5
    colour = dataclasses.replace(atari, observation_shape=(12, 84, 84))
    assert dqn.ALGORITHM.experience_bytes(config, colour) > 3 * whole
    assert dqn.ALGORITHM.experience_bytes(config, IMAGES) > whole


@pytest.mark.parametrize(
    ("algorithm", "spec", "words"),
    [
        (dqn.ALGORITHM, BOX, "DQN needs discrete actions; those of 'test' are continuous"),
        (sac.ALGORITHM, SPEC, "SAC needs continuous actions; those of 'test' are discrete"),
        (td3.ALGORITHM, SPEC, "TD3 needs continuous actions; those of 'test' are discrete"),
        (
            ddpg.ALGORITHM,
            dataclasses.replace(IMAGES, action_space=BOX.action_space),
            "DDPG needs state vectors; observations of 'test' are images",
        ),
        (
            sac.ALGORITHM,
            dataclasses.replace(IMAGES, action_space=BOX.action_space),
            "SAC needs state vectors; observations of 'test' are images",
        ),
    ],
)
def test_environments_that_do_not_fit_are_refused_in_words(algorithm, spec, words):
    assert f"{algorithm.title} {algorithm.supports(spec)}" == words


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("dqn", {"batch_size": 0}, "batch-size must be at least 1, got 0"),
        ("dqn", {"num_envs": 500}, "buffer-size must be at least 500, got 200"),
        ("sac", {"tau": 1.5}, "tau must be from 0 to 1, got 1.5"),
        ("dqn", {"target_every": 0}, "target-every must be at least 1, got 0"),
        ("dqn", {"value_loss": "hubber"}, "huber"),
        ("dqn", {"epsilon_end": -0.1}, "epsilon-end must be from 0 to 1, got -0.1"),
        ("sac", {"num_critics": 3}, "num-critics must be 1 or 2, got 3"),
        ("sac", {"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        ("sac", {"actor": ActorConfig(kind="mpl")}, "mlp"),
        ("sac", {"actor": ActorConfig(optimizer="adm")}, "adam"),
        ("td3", {"policy_delay": 0}, "policy-delay must be at least 1, got 0"),
        ("td3", {"exploration_noise": -0.1}, "exploration-noise must be at least 0.0, got -0.1"),
        ("td3", {"target_policy_noise": float("nan")}, "target-policy-noise must be at least 0.0, got nan"),
        ("ddpg", {"target_noise_clip": -1.0}, "target-noise-clip must be at least 0.0, got -1.0"),
        ("ddpg", {"num_critics": 0}, "num-critics must be 1 or 2, got 0"),
    ],
)
def test_options_out_of_range_are_one_line(name, option, words):
    with pytest.raises(UsageError, match=words) as error:
        make_agent(name, **option)
    assert "\n" not in str(error.value)

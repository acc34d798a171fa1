import copy
import dataclasses

import numpy as np
import pytest
import torch

from stablegrad.agents import PQN, PQNConfig
from stablegrad.agents.catalogue import check_suits
from stablegrad.agents.pqn import defaults
from stablegrad.agents.presets import apply_changes, option_names, parse_setting, preset_config
from stablegrad.agents.rollout import Rollout
from stablegrad.environments import Box, Discrete, EnvironmentSpec, EpisodeStatistics, StepResult, environment_spec
from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers import OPTIMIZERS
from stablegrad.optimizers.config import OptimizerConfig

SPEC = EnvironmentSpec("test", (3,), "float32", Discrete(4), False, None, "factory", None)
SMALL = PQNConfig(
    torso=TorsoConfig(width=16, depth=1),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.05),
    num_envs=4,
    num_steps=6,
    num_minibatches=3,
    num_epochs=1,
)


def make_agent(config=SMALL, seed=0):
    return PQN(config, SPEC, total_steps=1000, device=torch.device("cpu"), seed=seed)


def learn(agent, rollout, env_steps=0):
    agent.rollout = rollout
    return agent.learn(env_steps)


def make_rollout(seed=0, invalid=((2, 1), (4, 3)), config=SMALL):
    """A rollout in which the rows before ``invalid`` ones end an episode."""
    generator = np.random.default_rng(seed)
    n = config.num_envs
    rollout = Rollout(config.num_steps, n, (3,), torch.float32, torch.device("cpu"))
    rollout.begin(generator.normal(size=(n, 3)).astype(np.float32))
    for t in range(config.num_steps):
        valid = np.array([(t, i) not in invalid for i in range(n)])
        ended = np.array([(t + 1, i) in invalid for i in range(n)])
        episode = EpisodeStatistics(ended, np.zeros(n), np.zeros(n, dtype=np.int64))
        observation = generator.normal(size=(n, 3)).astype(np.float32)
        result = StepResult(
            observation,
            (generator.normal(size=n) * valid).astype(np.float32),
            ended & (np.arange(n) % 2 == 0),
            ended & (np.arange(n) % 2 == 1),
            valid,
            episode,
        )
        value = torch.from_numpy(generator.normal(size=n).astype(np.float32))
        rollout.choose(torch.from_numpy(generator.integers(0, 4, n)), value)
        rollout.add(result)
    return rollout


def test_update_is_the_published_loss_written_out():
    """One full-batch SGD step against a loop over single transitions; reset rows left out, values from the rollout."""
    config = dataclasses.replace(SMALL, num_minibatches=1, max_grad_norm=1e9)
    agent, reference = make_agent(config), make_agent(config)
    rollout = make_rollout()
    learn(agent, rollout, 0)

    with torch.no_grad():
        bootstrap = reference.network(rollout.observation[-1]).max(1).values
    values = torch.cat([rollout.value, bootstrap[None]])
    losses = []
    for n in range(4):
        following = bootstrap[n]
        for t in reversed(range(6)):
            if not rollout.valid[t, n]:
                continue
            if rollout.terminated[t, n]:
                target = rollout.reward[t, n]
            elif rollout.truncated[t, n] or t == 5:
                target = rollout.reward[t, n] + 0.99 * values[t + 1, n]
            else:
                target = rollout.reward[t, n] + 0.99 * (0.35 * values[t + 1, n] + 0.65 * following)
            following = target
            q_value = reference.network(rollout.observation[t, n][None])[0, rollout.action[t, n]]
            losses.append((q_value - target) ** 2)
    assert len(losses) == 22
    torch.stack(losses).mean().backward()
    with torch.no_grad():
        for parameter in reference.network.parameters():
            parameter -= 0.05 * parameter.grad
    for expected, actual in zip(reference.network.parameters(), agent.network.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_figures_of_the_values_are_those_of_a_loop_over_valid_rows():
    config = dataclasses.replace(SMALL, num_minibatches=1, num_epochs=3)
    agent, reference = make_agent(config), make_agent(config)
    rollout = make_rollout()
    figures = learn(agent, rollout, 0)
    targets, values = [], []
    with torch.no_grad():
        everyones = reference._targets(rollout).view(rollout.valid.shape)
        for t, n in rollout.valid.nonzero().tolist():
            targets.append(everyones[t, n].item())
            values.append(reference.network(rollout.observation[t, n][None])[0, rollout.action[t, n]].item())
    values, targets = np.array(values), np.array(targets)
    expected = {"std": values.std(), "min": values.min(), "max": values.max()}
    expected["explained_variance"] = 1 - (targets - values).var() / targets.var()
    assert len(values) == 22
    for name, value in expected.items():
        assert figures[f"values/{name}"].tolist() == pytest.approx([value], rel=1e-4)


def test_what_stands_in_reset_rows_changes_nothing():
    first, second = make_agent(), make_agent()
    clean, spoiled = make_rollout(), make_rollout()
    spoiled.reward[~spoiled.valid] = 1e4
    spoiled.action[~spoiled.valid] = 0
    learn(first, clean, 0)
    learn(second, spoiled, 0)
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_every_row_is_visited_once_an_epoch(monkeypatch):
    config = dataclasses.replace(SMALL, num_epochs=3)
    agent = make_agent(config)
    rollout = make_rollout(invalid=())
    seen = []
    original = agent.network.forward
    monkeypatch.setattr(agent.network, "forward", lambda x: seen.append(x) or original(x))
    figures = learn(agent, rollout, 0)
    rows = torch.cat(seen[1:])  # the first call is the bootstrap
    expected = rollout.observation[:-1].flatten(0, 1).repeat(3, 1)
    assert torch.equal(rows.sort(0).values, expected.sort(0).values)
    assert figures["loss/td"].shape == (9,)
    assert figures["parameter_norms/q"].shape == (9, len(list(agent.network.parameters())))
    assert agent.updates == 9


def test_reported_gradient_norms_are_those_before_clipping():
    config = dataclasses.replace(SMALL, num_minibatches=1, max_grad_norm=1e-3)
    agent, free = make_agent(config), make_agent(dataclasses.replace(config, max_grad_norm=1e9))
    clipped, unclipped = learn(agent, make_rollout(), 0), learn(free, make_rollout(), 0)
    torch.testing.assert_close(clipped["gradients/q"], unclipped["gradients/q"])
    assert unclipped["gradients/q"].item() > 1e-2
    norm = torch.stack([parameter.grad.norm() for parameter in agent.network.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)
    parameter_norms = torch.stack([parameter.grad.norm() for parameter in free.network.parameters()])
    torch.testing.assert_close(unclipped["parameter_norms/q"][0], parameter_norms)


def test_exploration_falls_linearly_and_acts_at_its_rate():
    decay = {"epsilon_start": 1.0, "epsilon_end": 0.1, "exploration_fraction": 0.5}
    agent = make_agent(dataclasses.replace(SMALL, num_envs=20_000, **decay))
    assert agent.epsilon(0) == 1.0
    assert agent.epsilon(250) == pytest.approx(0.55)
    assert agent.epsilon(500) == agent.epsilon(1000) == pytest.approx(0.1)
    observation = np.zeros((20_000, 3), np.float32)
    agent.begin(observation)
    action = agent.act(1000)
    greedy = agent.policy(np.zeros((1, 3), np.float32))[0]
    # A random action is the greedy one in one of four cases.
    assert (action != greedy).mean() == pytest.approx(0.1 * 3 / 4, abs=0.01)
    best = agent.q_values(torch.from_numpy(observation[:1])).max()
    torch.testing.assert_close(agent.rollout.value[0, 0], best)
    assert np.bincount(agent.act(0), minlength=4) / 20_000 == pytest.approx([0.25] * 4, abs=0.02)


def test_same_seed_same_agent_and_the_programs_random_numbers_are_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = make_agent(seed=1), make_agent(seed=1), make_agent(seed=2)
    learn(first, make_rollout(), 0)
    learn(second, make_rollout(), 0)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))
    assert not torch.equal(first.parameters[0], other.parameters[0])


@pytest.mark.parametrize(
    ("schedule", "factor"), [("constant", 1.0), ("linear", 0.75), ("cosine", 0.5 + 0.5**1.5), ("cyclic", 1.0)]
)
def test_learning_rate_follows_its_schedule(schedule, factor):
    """After a quarter of the run: a quarter of a half cosine; the middle of the third of ten cycles."""
    optimizer = dataclasses.replace(SMALL.optimizer, schedule=schedule)
    agent = make_agent(dataclasses.replace(SMALL, optimizer=optimizer))
    learn(agent, make_rollout(), 250)
    assert agent.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * factor)


def test_bf16_computes_nearly_the_same_and_keeps_fp32_weights():
    exact, rounded = make_agent(), make_agent(dataclasses.replace(SMALL, precision="bf16"))
    x = torch.randn(64, 3)
    torch.testing.assert_close(exact.q_values(x), rounded.q_values(x), rtol=0.05, atol=0.05)
    assert not torch.equal(exact.q_values(x), rounded.q_values(x))
    learn(rounded, make_rollout(), 0)
    assert all(parameter.dtype == torch.float32 for parameter in rounded.network.parameters())


def test_learns_the_values_of_a_known_chain():
    """Two states, A -> B -> end with reward 1 on the way out: V(B) = 1 and V(A) = discount, whatever the action."""
    config = dataclasses.replace(
        SMALL, discount=0.5, optimizer=OptimizerConfig(name="adam", learning_rate=3e-3), num_minibatches=2
    )
    agent = make_agent(config)
    a, b = np.eye(3, dtype=np.float32)[:2]
    for step in range(400):
        agent.begin(np.tile(a, (4, 1)))
        for t in range(6):
            # Rows: A -> B, B -> end (observation B stands for the final one), reset row to A.
            phase = t % 3
            agent.act(0)
            flags = np.full(4, phase == 1)
            episode = EpisodeStatistics(flags, np.zeros(4), np.zeros(4, dtype=np.int64))
            observation = np.tile(a if phase == 2 else b, (4, 1))
            reward = np.full(4, float(phase == 1), np.float32)
            valid = np.full(4, phase != 2)
            agent.observe(StepResult(observation, reward, flags, ~flags & False, valid, episode))
        agent.learn(step)
    q_values = agent.q_values(torch.from_numpy(np.stack([a, b])))
    torch.testing.assert_close(q_values, torch.tensor([[0.5] * 4, [1.0] * 4]), atol=0.05, rtol=0)


def test_continuous_actions_are_refused():
    with pytest.raises(
        UsageError, match="PQN needs discrete actions; those of 'test' are continuous; algorithms for it: sac"
    ):
        check_suits("pqn", dataclasses.replace(SPEC, action_space=Box((-1.0,), (1.0,))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": 0}, "num-envs must be at least 1"),
        ({"num_minibatches": 5}, "cannot be cut into 5 minibatches"),
        ({"discount": 1.5}, "discount must be from 0 to 1"),
        ({"max_grad_norm": 0.0}, "max-grad-norm must be above 0"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"q_lambda": float("nan")}, "q-lambda must be from 0 to 1"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(SMALL, **change)


def test_image_defaults_are_the_papers():
    config = defaults(environment_spec("Breakout-v5"))
    assert (config.num_envs, config.num_steps, config.num_minibatches, config.num_epochs) == (128, 32, 32, 2)
    assert (config.discount, config.q_lambda, config.max_grad_norm) == (0.99, 0.65, 10.0)
    assert (config.epsilon_start, config.epsilon_end, config.exploration_fraction) == (1.0, 0.005, 0.1)
    assert (config.optimizer.name, config.optimizer.initial_learning_rate, config.optimizer.schedule) == (
        "radam",
        2.5e-4,
        "constant",
    )
    assert config.torso.norm == "layer"


def test_presets_differ_from_the_baseline_by_their_interventions_only():
    def changes(name):
        base, preset = defaults(SPEC), preset_config("pqn", name, SPEC)
        flat = lambda config: {option: _get(config, option) for option in option_names(config)}  # noqa: E731
        return {k: v for k, v in flat(preset).items() if flat(base)[k] != v}

    assert changes("baseline") == {}
    assert changes("kron") == {"optimizer.name": "kron"}
    assert changes("multi_skip") == {"torso.kind": "multi_skip"}
    assert changes("stable") == {"optimizer.name": "kron", "torso.kind": "multi_skip"}


def _get(config, option):
    for part in option.split("."):
        config = getattr(config, part)
    return config


def test_changes_are_read_as_the_options_types():
    changes = {
        "torso.depth": "large",
        "torso.width": "64",
        "torso.out_features": "none",
        "optimizer.learning_rate": "1e-3",
        "optimizer.schedule": "cosine",
        "torso.kind": "multi_skip",
        "torso.variance_preserving": "true",
        "num_envs": "8",
        "num_minibatches": "16",
    }
    config = apply_changes(defaults(SPEC), changes)
    assert (config.torso.depth, config.torso.width, config.torso.out_features) == ("large", 64, None)
    assert (config.optimizer.learning_rate, config.optimizer.schedule, config.num_envs) == (1e-3, "cosine", 8)
    assert config.torso.variance_preserving is True


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stabel", "did you mean 'stable'"),
        ("stable+torso.dept=3", "did you mean 'torso.depth'"),
        ("stable+torso=3", "unknown option 'torso'"),
        ("stable+num_envs", "expected option=value"),
        ("stable+num_envs=many", "num_envs should be int, got 'many'"),
        ("stable+torso.variance_preserving=2", "should be bool"),
        ("stable+optimizer.schedule=cosin", "did you mean 'cosine'"),
        ("stable+optimizer.weight_clip=0", "weight-clip must be above 0"),
        ("baseline+torso.kind=mpl", "did you mean 'mlp'"),
    ],
)
def test_wrong_changes_are_named(setting, message):
    with pytest.raises(UsageError, match=message):
        preset, changes = parse_setting(setting)
        apply_changes(preset_config("pqn", preset, SPEC), changes)


def test_rollouts_give_back_the_observations_that_came_in():
    generator = np.random.default_rng(0)
    for shape, dtype in (((4, 12, 9), torch.uint8), ((5,), torch.float32)):
        rollout = Rollout(3, 2, shape, dtype, torch.device("cpu"))
        frames = generator.integers(0, 256, (4, 2, *shape)).astype("uint8" if dtype == torch.uint8 else "float32")
        zeros, no = np.zeros(2, np.float32), np.zeros(2, bool)
        rollout.begin(frames[0])
        for t in range(3):
            episode = EpisodeStatistics(no, np.zeros(2), np.zeros(2, np.int64))
            rollout.choose(torch.zeros(2), torch.zeros(2))
            rollout.add(StepResult(frames[t + 1], zeros, no, no, ~no, episode))
        np.testing.assert_array_equal(rollout.observation.numpy(), frames)
        rows = torch.tensor([5, 0, 3])
        expected = frames[:3].reshape(6, *shape)[rows.numpy()]
        np.testing.assert_array_equal(rollout.observations_at(rows).numpy(), expected)
        np.testing.assert_array_equal(rollout.newest.numpy(), frames[3])
        np.testing.assert_array_equal(rollout.observation[0].numpy(), frames[3])


def test_the_td_loss_is_that_of_an_update_over_all_rows():
    agent = make_agent(dataclasses.replace(SMALL, num_minibatches=1, num_epochs=1))
    agent.rollout = rollout = make_rollout()
    objective = agent.objectives(rollout.valid.numel())["q"]
    before = objective.mean_loss(agent.network)
    assert before.requires_grad
    assert learn(agent, rollout, 0)["loss/td"].item() == pytest.approx(before.item(), rel=1e-5)
    assert objective.mean_loss(agent.network).item() != before.item()  # of the weights as they are now


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_agent_goes_on_from_its_saved_state_with_every_optimizer(name):
    def agent():
        return make_agent(dataclasses.replace(SMALL, optimizer=OptimizerConfig(name=name)))

    first, second = agent(), agent()
    learn(first, make_rollout(), 0)
    second.network.load_state_dict(first.network.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for one in (first, second):
        one.generator.manual_seed(3)
        torch.manual_seed(4)
        learn(one, make_rollout(), 0)
    assert first.updates == second.updates > 0
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))
    other = make_agent(dataclasses.replace(SMALL, optimizer=OptimizerConfig(name="adam" if name == "sgd" else "sgd")))
    with pytest.raises(ValueError, match="it was saved with the options"):
        other.load_state_dict(first.state_dict())

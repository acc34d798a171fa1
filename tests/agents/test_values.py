"""Values by regression and by classification: against slow loops, and in every agent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.catalogue import ALGORITHMS, find_algorithm
from stablegrad.agents.presets import apply_changes
from stablegrad.agents.replay import Batch
from stablegrad.agents.values import CLASSIFICATION, REGRESSION, VALUE_LOSSES, Values, outputs_at
from stablegrad.environments import Box, Discrete, EnvironmentSpec, EpisodeStatistics, StepResult
from stablegrad.errors import UsageError

CPU = torch.device("cpu")
ATOMS = torch.linspace(-3.0, 4.0, 8)
SMALL = {"torso.width": 16, "torso.depth": 0, "num_envs": 2}
REPLAY = {"batch_size": 16, "buffer_size": 200, "learning_starts": 0, "gradient_steps": 1, "train_every": 1}
ROLLOUT = {"num_steps": 8, "num_minibatches": 2, "num_epochs": 1}
ON_POLICY = ("pqn", "ppo")


def make_values(loss):
    return Values(loss, ATOMS if loss in CLASSIFICATION else None)


def random_outputs(generator, *shape, loss):
    return torch.randn(*shape, *((len(ATOMS),) if loss in CLASSIFICATION else ()), generator=generator)


def slow_mean(output, loss):
    if loss in REGRESSION:
        return float(output)
    weights = np.exp(output.numpy().astype(np.float64))
    return float((weights / weights.sum() * ATOMS.numpy()).sum())


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), loss=st.sampled_from(VALUE_LOSSES), bonus=st.booleans())
def test_a_backup_is_that_of_a_loop(seed, loss, bonus):
    """Its mean is r + gamma (Q + b), of which C51 moves and cuts off every atom by itself."""
    generator = torch.Generator().manual_seed(seed)
    reward, added = torch.randn(2, 6, generator=generator)
    discount = 0.99 * (torch.rand(6, generator=generator) < 0.7)
    outputs = random_outputs(generator, 6, loss=loss)
    values = make_values(loss)
    labels = values.backup(reward, discount, outputs, added if bonus else None)
    for row in range(6):
        extra = float(added[row]) if bonus else 0.0
        if loss == "c51":
            probabilities = outputs[row].double().softmax(0).tolist()
            moved = [float(reward[row]) + float(discount[row]) * (atom + extra) for atom in ATOMS.tolist()]
            expected = sum(p * min(max(one, -3.0), 4.0) for p, one in zip(probabilities, moved, strict=True))
        else:
            expected = float(reward[row]) + float(discount[row]) * (slow_mean(outputs[row], loss) + extra)
        if loss in REGRESSION:
            assert float(labels[row]) == pytest.approx(expected, abs=1e-5)
            continue
        assert float(labels[row].sum()) == pytest.approx(1.0, abs=1e-5) and labels.min() >= 0
        mean = float(labels[row] @ ATOMS)
        if loss == "hl_gauss":
            # Nearly, and only a few sigma from the ends.
            if -1.0 < expected < 2.0:
                assert mean == pytest.approx(expected, abs=0.05)
        else:
            assert mean == pytest.approx(min(max(expected, -3.0), 4.0), abs=1e-4)


@pytest.mark.parametrize("loss", VALUE_LOSSES)
def test_losses_and_errors_are_those_of_a_loop(loss):
    generator = torch.Generator().manual_seed(0)
    values = make_values(loss)
    outputs = random_outputs(generator, 5, 2, loss=loss)
    labels = values.backup(torch.randn(5), torch.full((5,), 0.9), outputs[:, 0])
    found = values.losses(outputs, labels.unsqueeze(1).expand_as(outputs))
    errors = values.errors(outputs[:, 1], labels)
    for row in range(5):
        for member in range(2):
            output, label = outputs[row, member].double(), labels[row].double()
            if loss in CLASSIFICATION:
                expected = -float((label * output.log_softmax(0)).sum())
                error = expected + float(torch.special.xlogy(label, label).sum())
            else:
                error = abs(float(output - label))
                expected = error**2
                if loss == "huber":
                    expected = error - 0.5 if error > 1 else 0.5 * expected
            assert float(found[row, member]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert float(errors[row]) == pytest.approx(error, rel=1e-4, abs=1e-5)


def test_outputs_at_takes_one_of_each_row():
    outputs = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(outputs_at(outputs, torch.tensor([2, 0])), torch.stack([outputs[0, 2], outputs[1, 0]]))
    assert torch.equal(outputs_at(outputs[:, :, 0], torch.tensor([2, 0])), torch.tensor([8.0, 12.0]))


@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_logits_that_are_trained_on_values_come_to_mean_them(loss):
    values, logits = make_values(loss), torch.zeros(3, len(ATOMS), requires_grad=True)
    target = torch.tensor([-1.3, 0.2, 1.9])
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        values.losses(logits, values.labels(target)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(values.of(logits.detach()), target, atol=0.03, rtol=0.0)


def make_agent(name, seed=0, **changes):
    space = Discrete(3) if name in ("pqn", "dqn", "rainbow", "ppo") else Box((-1.0, -1.0), (1.0, 1.0))
    spec = EnvironmentSpec("test", (4,), "float32", space, False, None, "factory", None)
    algorithm = find_algorithm(name)
    config = apply_changes(algorithm.defaults(spec), {**SMALL, **(ROLLOUT if name in ON_POLICY else REPLAY), **changes})
    return algorithm.agent(config, spec, total_steps=1000, device=CPU, seed=seed)


def play(agent, steps, scale=1.0):
    """Random observations and rewards, with episodes that end, are cut, and are reset in a row of their own."""
    random = np.random.default_rng(0)
    n = agent.config.num_envs
    nothing = EpisodeStatistics(np.zeros(n, bool), np.zeros(n), np.zeros(n, np.int64))
    agent.begin(random.normal(size=(n, 4)).astype(np.float32))
    results, ended, learned = [], np.zeros(n, bool), {}
    for step in range(1, steps + 1):
        agent.act(step)
        valid = ~ended
        terminated, truncated = valid & (random.random(n) < 0.1), valid & (random.random(n) < 0.1)
        truncated &= ~terminated
        reward = np.where(valid, scale * random.normal(size=n), 0.0).astype(np.float32)
        observation = random.normal(size=(n, 4)).astype(np.float32)
        results.append(StepResult(observation, reward, terminated, truncated, valid, nothing))
        agent.observe(results[-1])
        ended = terminated | truncated
        if step % agent.config.horizon == 0:
            learned = agent.learn(step) or learned
    return results, learned


@pytest.mark.parametrize("loss", VALUE_LOSSES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_agent_learns_values_by_every_loss(name, loss):
    changes = {"value_loss": loss, "num_atoms": 11, "v_min": -10.0, "v_max": 10.0}
    if name in ON_POLICY and loss == "c51":
        with pytest.raises(UsageError, match="use two_hot or hl_gauss"):
            make_agent(name, **changes)
        return
    agent = make_agent(name, **changes)
    before = {key: value.clone() for network in agent.networks.values() for key, value in network.state_dict().items()}
    _, learned = play(agent, 24)
    after = {key: value for network in agent.networks.values() for key, value in network.state_dict().items()}
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
    assert all(value.isfinite().all() for value in learned.values())
    objectives = agent.objectives(8)
    for network, objective in objectives.items():
        assert objective.mean_loss(agent.networks[network]).isfinite()
    if loss in CLASSIFICATION and "values/q" in learned:
        assert learned["values/q"].min() >= -10.0 and learned["values/q"].max() <= 10.0


@pytest.mark.parametrize("name", ["dqn", "sac", "td3"])
def test_replayed_rewards_are_scaled_as_by_stable_baselines3s_vec_normalize(name, vec_normalize):
    theirs = vec_normalize
    agent = make_agent(name, num_envs=1, normalize_rewards=True, learning_starts=1000)
    results, _ = play(agent, 150, scale=30.0)
    for result in results:
        if result.valid[0]:
            theirs._update_reward(result.reward.astype(np.float64))
        if result.terminated[0] or result.truncated[0]:
            theirs.returns[:] = 0.0
    assert agent.reward_scale.norm.variance.item() == pytest.approx(float(theirs.ret_rms.var), rel=1e-4)
    raw = agent.replay.sample(32, torch.Generator().manual_seed(agent.updates))
    found = agent.recent(32)
    expected = raw.reward.numpy() / np.sqrt(float(theirs.ret_rms.var))
    np.testing.assert_allclose(found.reward.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert isinstance(found, Batch) and torch.equal(found.discount, raw.discount)

    again = make_agent(name, num_envs=1, normalize_rewards=True, learning_starts=1000)
    again.load_state_dict(agent.state_dict())
    assert again.reward_scale.scale == agent.reward_scale.scale
    again.begin(np.zeros((1, 4), np.float32))
    assert again.reward_scale.discounted.tolist() == [0.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value_loss": "hl-gauss"}, "unknown value loss 'hl-gauss'.*hl_gauss"),
        ({"num_atoms": 1}, "num-atoms must be at least 2, got 1"),
        ({"v_min": 3.0, "v_max": 3.0}, "v-min must be below v-max"),
        ({"torso.norm": "batch"}, "norm 'batch' is for agents with an actor, a critic and a replay"),
        ({"encoder.norm": "batch"}, "norm 'batch' is for agents with an actor, a critic and a replay"),
    ],
)
def test_wrong_options_are_one_line(changes, words):
    with pytest.raises(UsageError, match=words) as error:
        make_agent("dqn", **changes)
    assert "\n" not in str(error.value)


def test_prioritised_batches_are_scaled_too():
    agent = make_agent("rainbow", normalize_rewards=True, learning_starts=1000)
    play(agent, 40, scale=30.0)
    drawn = agent.replay.sample_prioritised(8, 0.4, torch.Generator().manual_seed(0))
    scaled = agent.scaled(drawn)
    torch.testing.assert_close(scaled.reward, drawn.reward * agent.reward_scale.scale)
    assert torch.equal(scaled.weight, drawn.weight)

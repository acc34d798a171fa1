import copy
import dataclasses

import numpy as np
import pytest
import torch

from stablegrad.agents import ppo
from stablegrad.agents.ppo import ALGORITHM, PPO, PPOConfig, defaults, normalized, policy_loss, squared_value_loss
from stablegrad.agents.presets import apply_changes
from stablegrad.environments import Box, Discrete, EnvironmentSpec, EpisodeStatistics, StepResult
from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig
from stablegrad.networks.running_norm import RunningNorm
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
DISCRETE = EnvironmentSpec("test", (3,), "float32", Discrete(4), False, None, "factory", None)
BOX = dataclasses.replace(DISCRETE, action_space=Box((-1.0, -2.0), (1.0, 5.0)))
IMAGES = dataclasses.replace(DISCRETE, observation_shape=(4, 84, 84), observation_dtype="uint8", is_image=True)
SMALL = PPOConfig(
    torso=TorsoConfig(depth=0, width=16, norm="none", activation="tanh"),
    optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
    num_envs=3,
    num_steps=8,
    num_minibatches=2,
    num_epochs=2,
    shared=False,
)
SPECS = {"discrete": DISCRETE, "continuous": BOX}
every_kind = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
shared_or_not = pytest.mark.parametrize("shared", [True, False])


def linear_of(policy):
    return getattr(policy.head, "linear", policy.head)


def make_agent(spec=DISCRETE, seed=0, average_gradients=None, **changes):
    config = dataclasses.replace(SMALL, **changes)
    agent = PPO(config, spec, total_steps=1000, device=CPU, seed=seed, average_gradients=average_gradients)
    with torch.no_grad():
        # A policy that differs between states.
        for network in agent.networks.values():
            if network is not agent.networks.get("critic"):
                linear_of(network).weight.mul_(100.0)
    return agent


def play(agent, seed=0, steps=None, resets=True):
    """Fill the agent's rollout from a script whose episodes end at random, with next-step autoreset."""
    random = np.random.default_rng(seed)
    n = agent.config.num_envs
    agent.begin(random.normal(size=(n, 3)).astype(np.float32))
    ended = np.zeros(n, bool)
    for _ in range(agent.config.num_steps if steps is None else steps):
        agent.act(0)
        valid = ~ended
        ends = (random.random(n) < 0.3) & valid if resets else np.zeros(n, bool)
        deaths = random.random(n) < 0.5
        episode = EpisodeStatistics(ends, np.zeros(n), np.zeros(n, np.int64))
        observation = random.normal(size=(n, 3)).astype(np.float32)
        reward = (random.normal(size=n) * valid).astype(np.float32)
        agent.observe(StepResult(observation, reward, ends & deaths, ends & ~deaths, valid, episode))
        ended = ends


def weights(agent):
    return [parameter.detach().clone() for parameter in agent.parameters]


@every_kind
def test_updates_are_those_of_stable_baselines3(spec):
    """Its own train(), from the same weights on the same rollout: three passes with ratios and gradients clipped.

    Values are not: its clipping, other than that of OpenAI's baselines, takes the bounded value's error alone.
    """
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium
    from stable_baselines3.common.logger import configure

    class Env(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9.0, 9.0, (3,), np.float32)
        action_space = (
            gymnasium.spaces.Discrete(4) if spec is DISCRETE else gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        )

    # One minibatch: the order of rows does not matter. One environment, whose rows are all transitions.
    agent = make_agent(spec, num_envs=1, num_steps=32, num_minibatches=1, num_epochs=3, clip_value=False, log_std=-0.3)
    theirs = sb3.PPO(
        "MlpPolicy", Env(), n_steps=32, batch_size=32, n_epochs=3, learning_rate=0.01, clip_range=0.1,
        ent_coef=0.01, max_grad_norm=0.5, device="cpu",
        # Theirs is the whole squared error, ours the half.
        vf_coef=0.25, policy_kwargs={"net_arch": [16, 16], "optimizer_kwargs": {"eps": 1e-8}},
    )  # fmt: skip
    theirs.set_logger(configure(None, []))
    play(agent, resets=False)
    rollout = agent.rollout
    net = theirs.policy.mlp_extractor
    pairs = [
        (agent.networks["actor"].body.torso, net.policy_net),
        (agent.networks["critic"].body.torso, net.value_net),
        (linear_of(agent.networks["actor"]), theirs.policy.action_net),
        (agent.networks["critic"].head, theirs.policy.value_net),
    ]
    with torch.no_grad():
        if spec is BOX:
            theirs.policy.log_std.copy_(agent.networks["actor"].head.log_std)
        for own, other in pairs:
            for one, another in zip(own.parameters(), other.parameters(), strict=True):
                another.copy_(one)
    buffer = theirs.rollout_buffer
    buffer.reset()
    for t in range(32):
        buffer.add(
            rollout.observation[t].numpy(), rollout.action[t].numpy(), rollout.reward[t].numpy(),
            np.array([t == 0]), rollout.value[t], rollout.log_prob[t],
        )  # fmt: skip
    with torch.no_grad():
        last = agent.forward(rollout.observation[-1])[1]
    buffer.compute_returns_and_advantage(last, np.array([False]))
    theirs.train()
    metrics = agent.learn(0)
    assert metrics["values/clip_fraction"][-1] > 0.1
    for own, other in pairs:
        for one, another in zip(own.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-5)
    assert agent.updates == 3
    assert metrics["values/explained_variance"].item() == pytest.approx(
        theirs.logger.name_to_value["train/explained_variance"], abs=1e-4
    )


def test_advantages_are_those_of_stable_baselines3_over_episodes_ends():
    """Reset rows are cut out for its buffer; truncation enters it as a reward, as its collect_rollouts does."""
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    import gymnasium

    agent = make_agent(num_envs=1, num_steps=400)
    play(agent, seed=3)
    rollout = agent.rollout
    returns, advantage = agent._targets(rollout)
    with torch.no_grad():
        last = agent.forward(rollout.observation[-1])[1]
    values = torch.cat([rollout.value[:, 0], last])
    rows = rollout.valid[:, 0].nonzero().flatten().tolist()
    box = gymnasium.spaces.Box(-9.0, 9.0, (3,), np.float32)
    buffer = buffers.RolloutBuffer(len(rows), box, gymnasium.spaces.Discrete(4), "cpu", gae_lambda=0.95, gamma=0.99)
    start = True
    for t in rows:
        reward = rollout.reward[t].numpy().copy()
        if rollout.truncated[t, 0]:
            reward += 0.99 * values[t + 1].numpy()
        buffer.add(
            rollout.observation[t].numpy(), rollout.action[t].numpy(), reward, np.array([start]), rollout.value[t],
            torch.zeros(1),
        )  # fmt: skip
        start = bool(rollout.truncated[t, 0] | rollout.terminated[t, 0])
    assert rollout.truncated.sum() > 10 and rollout.terminated.sum() > 10
    buffer.compute_returns_and_advantage(last, np.array([start]))
    assert advantage[rows].numpy() == pytest.approx(buffer.advantages[:, 0], abs=1e-4)
    assert returns[rows].numpy() == pytest.approx(buffer.returns[:, 0], abs=1e-4)


@shared_or_not
@every_kind
def test_what_stands_in_reset_rows_changes_nothing(spec, shared):
    changes = {"shared": shared, "normalize_observations": True, "normalize_rewards": True}
    clean, spoiled = make_agent(spec, **changes), make_agent(spec, **changes)
    play(clean)
    play(spoiled)
    reset = ~spoiled.rollout.valid
    assert reset.sum() > 2
    spoiled.rollout.action[reset] = 0
    spoiled.rollout.log_prob[reset] = -3.0
    clean.learn(0)
    spoiled.learn(0)
    assert all(torch.equal(one, other) for one, other in zip(weights(clean), weights(spoiled), strict=True))


def test_losses_are_loops_over_rows():
    generator = torch.Generator().manual_seed(0)
    log_ratio, advantage, value, returns, old = torch.randn(5, 40, generator=generator)
    weight = (torch.rand(40, generator=generator) < 0.7).float()
    expected_policy = expected_value = expected_bounded = 0.0
    for i in range(40):
        ratio = float(log_ratio[i].exp())
        bounded = min(max(ratio, 0.8), 1.2)
        expected_policy -= float(weight[i]) * min(ratio * float(advantage[i]), bounded * float(advantage[i]))
        near = float(old[i]) + min(max(float(value[i] - old[i]), -0.2), 0.2)
        far_error, near_error = float(value[i] - returns[i]) ** 2, (near - float(returns[i])) ** 2
        expected_value += 0.5 * float(weight[i]) * far_error
        expected_bounded += 0.5 * float(weight[i]) * max(far_error, near_error)
    assert policy_loss(log_ratio, advantage, weight, 0.2).item() == pytest.approx(expected_policy, rel=1e-5)
    assert squared_value_loss(value, returns, old, weight, None).item() == pytest.approx(expected_value, rel=1e-5)
    assert squared_value_loss(value, returns, old, weight, 0.2).item() == pytest.approx(expected_bounded, rel=1e-5)
    rows = advantage[weight.bool()]
    torch.testing.assert_close(
        normalized(advantage, weight)[weight.bool()], (rows - rows.mean()) / (rows.std() + 1e-8), rtol=1e-5, atol=1e-5
    )


@every_kind
def test_the_first_pass_begins_at_the_rollouts_own_policy(spec):
    """Also where normalised: the statistics move only after the last pass."""
    agent = make_agent(spec, num_minibatches=1, normalize_observations=True)
    for seed in range(3):
        play(agent, seed=seed)
        metrics = agent.learn(0)
        assert metrics["values/kl"][0].item() == pytest.approx(0.0, abs=1e-6)
        assert metrics["values/kl"][1].item() > 1e-5


def test_a_kl_stop_ends_all_passes_before_the_step():
    agent = make_agent(num_minibatches=1, num_epochs=50, normalize_advantages=True)
    stopping = make_agent(num_minibatches=1, num_epochs=50, target_kl=0.01)
    play(agent)
    play(stopping)
    whole, stopped = agent.learn(0), stopping.learn(0)
    passed = int((whole["values/kl"] > 0.015).nonzero()[0])
    assert 1 < passed < 50
    assert stopping.updates == len(stopped["values/kl"]) == passed
    assert agent.updates == 50
    torch.testing.assert_close(stopped["loss/policy"], whole["loss/policy"][:passed], rtol=0, atol=0)


def test_schedules_of_the_rate_and_the_clip_follow_the_run():
    agent = make_agent(optimizer=OptimizerConfig(name="adam", learning_rate=0.01, schedule="linear"))
    play(agent)
    agent.learn(250)
    for optimizer in agent.optimizers.values():
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0075)
    falling, constant = make_agent(clip=0.4, clip_schedule="linear"), make_agent(clip=0.1)
    for one in (falling, constant):
        play(one)
        one.learn(750)
    assert all(torch.equal(a, b) for a, b in zip(weights(falling), weights(constant), strict=True))


def test_observations_are_normalised_the_same_in_acting_learning_evaluation_and_after_a_load():
    agent = make_agent(normalize_observations=True, shared=True)
    assert len(agent.normalizers) == 1
    play(agent)
    before = copy.deepcopy(agent.normalizers[0].state_dict())
    agent.policy(np.ones((2, 3), np.float32))
    agent.probe(8), agent.objectives(8)
    assert all(torch.equal(before[name], tensor) for name, tensor in agent.normalizers[0].state_dict().items())
    rows = agent.rollout.observation[:-1].flatten(0, 1)[agent.rollout.valid.flatten()].double()
    agent.learn(0)
    torch.testing.assert_close(agent.normalizers[0].mean, rows.mean(0), rtol=1e-4, atol=1e-4)
    other = make_agent(normalize_observations=True, shared=True, seed=1)
    for name, network in agent.networks.items():
        other.networks[name].load_state_dict(network.state_dict())
    other.load_state_dict(agent.state_dict())
    seen = np.random.default_rng(0).normal(3.0, 2.0, (50, 3)).astype(np.float32)
    assert np.array_equal(agent.policy(seen), other.policy(seen))
    # Both networks of a pair see the same.
    pair = make_agent(normalize_observations=True)
    play(pair)
    pair.learn(0)
    first, second = pair.normalizers
    assert torch.equal(first.mean, second.mean)


def test_rewards_are_scaled_as_by_stable_baselines3s_vec_normalize(monkeypatch, vec_normalize):
    """One environment, whose reset rows its wrapper never sees; over two segments, which both begin at 0."""
    theirs = vec_normalize
    agent = make_agent(normalize_rewards=True, num_envs=1, num_steps=200)
    scaled = []
    monkeypatch.setattr(
        ppo, "lambda_returns", lambda reward, *_, **__: scaled.append(reward) or torch.zeros_like(reward)
    )
    for seed in range(2):
        play(agent, seed=seed)
        rollout = agent.rollout
        theirs.returns[:] = 0.0
        for t in rollout.valid[:, 0].nonzero().flatten().tolist():
            theirs._update_reward(rollout.reward[t].numpy())
            if rollout.terminated[t, 0] or rollout.truncated[t, 0]:
                theirs.returns[:] = 0.0
        agent.learn(0)
        assert agent.reward_scale.norm.variance.item() == pytest.approx(float(theirs.ret_rms.var), rel=1e-3)
        expected = theirs.normalize_reward(rollout.reward.numpy())
        assert scaled[-1].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_a_discounted_return_runs_on_from_rollout_to_rollout():
    agent = make_agent(normalize_rewards=True, num_envs=1, num_steps=2, num_minibatches=1, num_epochs=1)
    play(agent, resets=False)
    first = agent.rollout.reward.flatten().tolist()
    agent.learn(0)
    expected = 0.99 * first[0] + first[1]
    assert agent.reward_scale.discounted.item() == pytest.approx(expected)
    agent.begin(np.zeros((1, 3), np.float32))
    assert agent.reward_scale.discounted.item() == 0.0


@shared_or_not
@every_kind
def test_objectives_have_the_gradients_of_an_update(spec, shared):
    agent = make_agent(spec, shared=shared, num_minibatches=1, num_epochs=1, max_grad_norm=None)
    play(agent)
    objectives = agent.objectives(10_000)
    gradients = {}
    for name, objective in objectives.items():
        parameters = list(agent.networks[name].parameters())
        gradients[name] = torch.autograd.grad(objective.mean_loss(agent.networks[name]), parameters)
    agent.learn(0)
    for name, network in agent.networks.items():
        weight = 1.0 if shared or name == "actor" else agent.config.value_coefficient
        for expected, parameter in zip(gradients[name], network.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, weight * expected, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_by_their_norm_over_both_networks():
    agent, free = (
        make_agent(num_minibatches=1, num_epochs=1, max_grad_norm=1e-3),
        make_agent(num_minibatches=1, num_epochs=1, max_grad_norm=None),
    )
    for one in (agent, free):
        play(one)
    clipped, unclipped = agent.learn(0), free.learn(0)
    for name in ("actor", "critic"):
        torch.testing.assert_close(clipped[f"gradients/{name}"], unclipped[f"gradients/{name}"])
        own = torch.stack([parameter.grad.norm() for parameter in free.networks[name].parameters()])
        torch.testing.assert_close(unclipped[f"parameter_norms/{name}"][0], own)
        assert unclipped[f"gradients/{name}"].item() == pytest.approx(own.norm().item(), rel=1e-5)
    total = torch.stack([parameter.grad.norm() for parameter in agent.parameters]).norm()
    assert total.item() == pytest.approx(1e-3, rel=1e-2)


def test_actions_are_clipped_where_they_are_carried_out_and_not_in_the_rollout():
    agent = make_agent(BOX, log_std=1.5, num_envs=50)
    agent.begin(np.zeros((50, 3), np.float32))
    action = agent.act(0)
    assert action.dtype == np.float32 and action.shape == (50, 2)
    assert np.abs(action).max() == 1.0
    assert agent.rollout.action[0].abs().max() > 2.0
    assert np.array_equal(agent.rollout.action[0].clamp(-1, 1).numpy(), action)


@shared_or_not
def test_processes_average_gradients_moments_and_the_kl(shared):
    calls = []
    agent = make_agent(
        shared=shared,
        normalize_observations=True,
        normalize_rewards=True,
        target_kl=9.0,
        average_gradients=lambda parameters: calls.append([parameter.grad.shape for parameter in parameters]),
    )
    play(agent)
    agent.learn(0)
    kls, moments = calls.count([torch.Size([])]), calls.count([torch.Size([7])])
    assert kls == 4
    assert moments == (1 if shared else 2)
    assert calls.count([torch.Size([3])]) == 1  # the deviation of the return
    assert sum(len(call) == len(agent.parameters) for call in calls) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gae_lambda": 1.5}, "gae-lambda must be from 0 to 1"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"target_kl": -1.0}, "target-kl must be above 0 and finite, or none"),
        ({"entropy_coefficient": -0.1}, "entropy-coefficient must be at least 0"),
        ({"clip_schedule": "linaer"}, "did you mean 'linear'"),
        ({"log_std": float("nan")}, "log-std must be from -20 to 2"),
        ({"num_minibatches": 7}, "cannot be cut into 7 minibatches"),
    ],
)
def test_wrong_options_are_one_line(changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_images_are_not_normalised_twice():
    with pytest.raises(UsageError, match="normalize-observations is for state vectors"):
        ALGORITHM.build_networks(dataclasses.replace(SMALL, normalize_observations=True), IMAGES)


def test_defaults_suit_every_kind_of_environment():
    for spec in (DISCRETE, BOX, IMAGES):
        assert ALGORITHM.supports(spec) is None
        networks = ALGORITHM.build_networks(defaults(spec), spec)
        assert networks.keys() == ({"actor_critic"} if spec is IMAGES else {"actor", "critic"})
    assert any(isinstance(module, RunningNorm) for module in networks["actor_critic"].modules()) is False
    config = apply_changes(defaults(IMAGES), {"shared": "false"})
    assert ALGORITHM.build_networks(config, IMAGES).keys() == {"actor", "critic"}

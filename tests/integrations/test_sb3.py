import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor as EpisodeMonitor

from stablegrad.diagnostics import LEVELS, Finding
from stablegrad.errors import UsageError
from stablegrad.integrations import sb3
from stablegrad.integrations.sb3 import DiagnosisCallback, trained_networks

LENGTH = 16


class Reach(gym.Env):
    """Move a point to a goal on a line, which every agent learns in a few thousand steps; reward minus the distance."""

    observation_space = gym.spaces.Box(-4.0, 4.0, (2,), np.float32)

    def __init__(self, continuous=False):
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, 2)
        self.time = 0
        return self._observation(), {}

    def step(self, action):
        move = float(np.asarray(action).reshape(-1)[0]) if isinstance(self.action_space, gym.spaces.Box) else action - 1
        self.position = float(np.clip(self.position + 0.3 * move, -2, 2))
        self.time += 1
        return self._observation(), -abs(self.goal - self.position), False, self.time == LENGTH, {}

    def _observation(self):
        return np.array([self.position, self.goal - self.position], np.float32)


def greedy_return(agent, env):
    """Mean return of 100 episodes, the same ones for every agent."""
    env.reset(seed=1)
    return evaluate_policy(agent, env, 100)[0]


def learn(agent, steps, **options):
    callback = DiagnosisCallback(every=10, probe_every=100, **options)
    agent.learn(steps, callback=callback)
    return callback


def test_ppo_is_watched_through_its_parts():
    callback = learn(PPO("MlpPolicy", "CartPole-v1", n_steps=128, seed=1, device="cpu"), 512)
    history = callback.report().history
    assert {"mlp_extractor.policy_net.0", "mlp_extractor.value_net.2", "action_net", "value_net"} <= set(
        history.series("gradient_norm").sites
    )
    # SB3 calls evaluate_actions, never the policy itself: activations and the error at the heads are seen all the same.
    assert "mlp_extractor.policy_net.1" in history.series("dormant").sites
    assert len(history.series("error_signal").steps) == len(history.series("gradient_norm").steps)
    assert len(history.series("episode_return").steps) >= 1
    callback.close()


def test_beside_the_training_of_another_seed():
    one, other = (learn(PPO("MlpPolicy", "CartPole-v1", n_steps=128, seed=seed, device="cpu"), 512) for seed in (1, 2))
    report = one.report(beside=other.monitor)
    assert report.beside.startswith("a training with")
    assert report.findings == one.report().findings


def test_dqn_is_watched_without_its_target():
    agent = DQN("MlpPolicy", "CartPole-v1", learning_starts=64, train_freq=1, buffer_size=1000, seed=1, device="cpu")
    history = learn(agent, 400).report().history
    sites = history.series("gradient_norm").sites
    assert sites == ["q_net.0", "q_net.2", "q_net.4"]
    assert len(history.series("churn").steps) > 0
    assert len(history.series("effective_rank").steps) > 0


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG])
def test_actor_and_critic_with_optimizers_of_their_own(algorithm):
    agent = algorithm(
        "MlpPolicy", "Pendulum-v1", learning_starts=64, buffer_size=1000, batch_size=32, seed=1, device="cpu"
    )
    history = learn(agent, 200).report().history
    for metric in ("gradient_norm", "dormant", "gradient_dormant"):
        sites = history.series(metric).sites
        assert any(site.startswith("actor.") for site in sites)
        assert any(site.startswith("critic.") for site in sites)
        assert not any("target" in site for site in sites)


@pytest.mark.parametrize(
    ("algorithm", "steps"),
    [
        # All the others: python benchmarks/sb3_verdicts.py
        *((PPO, 6144), (DQN, 8000), (TRPO, 6144), (RecurrentPPO, 1536), (TD3, 800), (TQC, 600)),
    ],
)
def test_an_agent_that_learns_at_its_defaults_is_never_called_collapsing(algorithm, steps, capsys):
    continuous = algorithm in (TD3, TQC)
    env = EpisodeMonitor(Reach(continuous))
    agent = algorithm("MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy", env, seed=0, device="cpu")
    before = greedy_return(agent, env)
    callback = DiagnosisCallback(every=20, probe_every=100)
    agent.learn(steps, callback=callback)
    assert greedy_return(agent, env) > 0.8 * before, "it has learned: returns are negative"
    report = callback.report()
    assert LEVELS.index(report.verdict) < LEVELS.index("collapsing"), report
    assert callback.monitor.looks > 5 and not [note for note in report.notes if "the monitor stopped" in note]
    assert "collaps" not in capsys.readouterr().err


@pytest.mark.parametrize("algorithm", [QRDQN, CrossQ])
def test_other_agents_of_the_contrib_package_are_watched_without_their_targets(algorithm):
    env = EpisodeMonitor(Reach(continuous=algorithm is CrossQ))
    agent = algorithm("MlpPolicy", env, learning_starts=40, buffer_size=500, seed=0, device="cpu")
    history = learn(agent, 70).report().history
    sites = history.series("gradient_norm").sites
    assert sites and not any("target" in site for site in sites)
    assert history.series("dormant").sites


def test_another_agent_is_watched_anew_and_the_same_one_on():
    callback = DiagnosisCallback(every=10, probe_every=0)
    one, other = (PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=seed, device="cpu") for seed in (1, 2))
    one.learn(64, callback=callback)
    first = callback.monitor
    other.learn(64, callback=callback)
    assert callback.monitor is not first and callback.monitor.steps == first.steps == 10
    assert not one.policy.optimizer._optimizer_step_pre_hooks
    other.learn(64, callback=callback)
    assert callback.monitor.steps == 20


def test_nothing_is_done_after_steps_without_new_measurements(monkeypatch):
    """An off-policy agent ends a rollout with every step."""
    callback = DiagnosisCallback(every=50, probe_every=0)
    checks = []
    monkeypatch.setattr(
        DiagnosisCallback, "_log_and_warn", lambda self, monitor: checks.append(self.num_timesteps), raising=True
    )
    DQN("MlpPolicy", "CartPole-v1", learning_starts=10, train_freq=1, buffer_size=500, seed=1, device="cpu").learn(
        220, callback=callback
    )
    assert len(checks) == callback.monitor.looks == 5  # at updates 2, 50, 100, 150 and 200


def test_verdicts_take_a_fixed_fraction_of_the_time_which_is_the_monitors(monkeypatch):
    now, judged = [0.0], []
    monkeypatch.setattr(sb3.time, "perf_counter", lambda: now[0])

    def slow(history, thresholds, **_):
        judged.append(now[0])
        now[0] += 5.0
        return []

    monkeypatch.setattr(sb3, "judge", slow)
    callback = DiagnosisCallback()
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=1, device="cpu")
    agent.learn(64, callback=callback)
    judged.clear()
    callback._judging, callback._started = 0.0, now[0]
    seconds = callback.monitor.seconds
    for _ in range(4000):
        now[0] += 1.0
        callback._check(callback.monitor)
    assert len(judged) == 4 and callback._judging == 20.0, "0.5% of 4,000 seconds"
    assert callback.monitor.seconds - seconds == 20.0, "their time is the monitor's"


def test_a_warning_waits_for_a_second_verdict_and_is_taken_back(capsys):
    callback, found = DiagnosisCallback(), [Finding("policy_churn", "collapsing", "q", 1, 1.0, 0.0, "it churns")]
    callback._verdict = callback._warned = "healthy"
    said = []
    for verdict in ("collapsing", "healthy", "collapsing", "collapsing", "collapsing", "healthy", "collapsed"):
        callback._warn(verdict, found)
        said.append(capsys.readouterr().err.strip())
    assert said[:3] == ["", "", ""] and said[4] == ""
    assert said[3] == "stablegrad: collapsing: it churns"
    assert "healthy again, the warning (collapsing) is taken back" in said[5]
    assert said[6] == "stablegrad: collapsed: it churns"


def test_an_error_in_the_callback_ends_no_training(monkeypatch):
    monkeypatch.setattr(sb3, "judge", lambda *_, **__: 1 / 0)
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=1, device="cpu")
    callback = learn(agent, 128)
    assert agent.num_timesteps == 128
    assert any("ZeroDivisionError" in note for note in callback.report().notes)


def test_a_second_learn_goes_on_with_the_same_monitor():
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=128, seed=1, device="cpu")
    callback = learn(agent, 128)
    first = callback.monitor.steps
    agent.learn(128, callback=callback, reset_num_timesteps=False)
    assert callback.monitor.steps == 2 * first


def test_the_training_is_the_same_with_and_without(monkeypatch):
    def parameters(callback):
        agent = PPO("MlpPolicy", "CartPole-v1", n_steps=128, seed=3, device="cpu")
        agent.learn(384, callback=callback)
        return [parameter.detach().clone() for parameter in agent.policy.parameters()]

    alone, watched = parameters(None), parameters(DiagnosisCallback(every=2, probe_every=4))
    assert all((a == b).all() for a, b in zip(alone, watched, strict=True))


def test_wrong_use():
    with pytest.raises(UsageError, match="seen no training"):
        DiagnosisCallback().report()
    with pytest.raises(UsageError, match="by hand"):
        trained_networks(object())

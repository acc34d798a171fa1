"""Agents of Stable-Baselines3 with our torsos and optimizers: they train, are saved and loaded, and learn."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from stablegrad.diagnostics import Finding
from stablegrad.diagnostics.prescriptions import prescribe
from stablegrad.errors import UsageError
from stablegrad.networks import MultiSkipTorso
from stablegrad.optimizers import Kron

stable_baselines3 = pytest.importorskip("stable_baselines3")
sb3_contrib = pytest.importorskip("sb3_contrib")
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402

from stablegrad.integrations.sb3 import DiagnosisCallback, verify_agent  # noqa: E402
from stablegrad.integrations.sb3_policy import policy_kwargs  # noqa: E402

ON_POLICY = {"n_steps": 16, "batch_size": 16}
OFF_POLICY = {"learning_starts": 16, "buffer_size": 200, "batch_size": 16}
AGENTS = {
    "PPO": ("CartPole-v1", ON_POLICY),
    "A2C": ("CartPole-v1", {"n_steps": 16}),
    "TRPO": ("Pendulum-v1", ON_POLICY),
    "DQN": ("CartPole-v1", OFF_POLICY),
    "QRDQN": ("CartPole-v1", OFF_POLICY),
    "SAC": ("Pendulum-v1", OFF_POLICY),
    "TD3": ("Pendulum-v1", OFF_POLICY),
    "TQC": ("Pendulum-v1", OFF_POLICY),
}


def find(name):
    return getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)


def torsos(agent):
    return [one for one in agent.policy.modules() if isinstance(one, MultiSkipTorso)]


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_trains_and_comes_back_from_its_file(name, tmp_path):
    env, arguments = AGENTS[name]
    kwargs = policy_kwargs(find(name), depth=2, width=16)
    agent = find(name)("MlpPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu", **arguments)
    before = {key: value.clone() for key, value in agent.policy.state_dict().items()}
    agent.learn(80)
    after = agent.policy.state_dict()
    moved = [key for key in before if "torso" in key and not torch.equal(before[key], after[key])]
    assert any(key.endswith("weight") for key in moved)
    # Policy and values have one each, and targets theirs.
    assert len(torsos(agent)) == (2 if name in ("PPO", "A2C", "TRPO", "DQN", "QRDQN") else len(torsos(agent)))
    assert len(torsos(agent)[0].blocks) == 2
    agent.save(tmp_path / "agent")
    again = find(name).load(tmp_path / "agent", device="cpu")
    observation = agent.env.reset()
    assert np.array_equal(
        agent.predict(observation, deterministic=True)[0], again.predict(observation, deterministic=True)[0]
    )


def test_the_optimizer_is_kron_at_the_agents_rate_and_the_monitor_sees_it():
    callback = DiagnosisCallback(every=2, probe_every=0)
    agent = stable_baselines3.PPO(
        "MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs("ppo", width=16), learning_rate=7e-4, **ON_POLICY
    )
    agent.learn(64, callback=callback)
    assert isinstance(agent.policy.optimizer, Kron)
    assert agent.policy.optimizer.param_groups[0]["lr"] == 7e-4
    assert any("torso" in site for site in callback.report().layers())


def test_a_shared_torso_and_another_optimizer():
    kwargs = policy_kwargs("A2C", torso="residual", width=16, optimizer="adam", share=True, eps=1e-5)
    agent = stable_baselines3.A2C("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")
    assert agent.policy.pi_features_extractor is agent.policy.vf_features_extractor
    assert agent.policy.optimizer.param_groups[0]["eps"] == 1e-5


class Pixels(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, self.np_random.random() < 0.1, False, {}


def test_images_are_scaled_once():
    agent = stable_baselines3.DQN(
        "MlpPolicy", Pixels(), policy_kwargs=policy_kwargs("DQN", width=16), device="cpu", **OFF_POLICY
    )
    agent.learn(24)
    extractor = agent.policy.q_net.features_extractor
    pixels = torch.randint(0, 256, (2, 1, 84, 84), dtype=torch.uint8)
    # Stable-Baselines3 gives floats from 0 to 1, our agents bytes.
    torch.testing.assert_close(agent.policy.q_net.extract_features(pixels, extractor), extractor(pixels))


def test_it_learns():
    """CartPole in 5,000 steps with 8 layers: random play returns 22."""
    agent = stable_baselines3.PPO(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=256,
        batch_size=128,
        learning_rate=1e-3,
        policy_kwargs=policy_kwargs("PPO", depth="medium", width=32),
        seed=1,
        device="cpu",
    )
    agent.learn(5_000)
    mean, _ = evaluate_policy(agent, gymnasium.make("CartPole-v1"), n_eval_episodes=10)
    assert mean > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithm": "PP0"}, "did you mean 'PPO'"),
        ({"torso": "multiskip"}, "did you mean 'multi_skip'"),
        ({"optimizer": "kon"}, "did you mean 'kron'"),
        ({"algorithm": "DQN", "share": True}, "share is for PPO, A2C, TRPO; DQN is another kind of agent"),
        ({"depth": -1}, "torso depth must be at least 0"),
        ({"encoder": "natur"}, "did you mean 'nature'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    with pytest.raises(UsageError, match=message):
        policy_kwargs(**{"algorithm": "PPO", **arguments})


def test_observations_in_dictionaries_are_refused():
    from stablegrad.integrations.sb3_policy import TorsoExtractor

    kwargs = policy_kwargs("PPO")["features_extractor_kwargs"]
    with pytest.raises(UsageError, match="FlattenObservation"):
        TorsoExtractor(spaces.Dict({"a": spaces.Box(-1, 1, (3,))}), **kwargs)


class Point(gymnasium.Env):
    """A point that is moved left or right; the reward says how near it is."""

    observation_space = spaces.Box(-4, 4, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.uniform(-2, 2), 0
        return self._observed(), {}

    def step(self, action):
        self.at, self.steps = float(np.clip(self.at + (0.4 if action else -0.4), -4, 4)), self.steps + 1
        return self._observed(), -abs(self.at), False, self.steps >= 16, {}

    def _observed(self):
        return np.array([self.at, 1.0], np.float32)


def test_prescriptions_are_tried_on_an_agent():
    """A tenth of a rate that is far too high is better, on every seed; what cannot be applied is said."""
    agents = []

    def make(seed):
        agents.append(
            stable_baselines3.PPO("MlpPolicy", Point(), seed=seed, learning_rate=1.0, n_steps=64, device="cpu")
        )
        return agents[-1]

    finding = Finding("extreme_rate", "collapsing", "network", 100, 1.0, 0.1, "steps are too long")
    found = prescribe([finding], {"lower_learning_rate", "recycle_dormant"})
    trials = verify_agent(make, found, total_timesteps=256, seeds=range(3))
    assert {trial.name: trial.decision for trial in trials}["lower_learning_rate"] in ("go", "no-go")
    rates = [agent.lr_schedule(1.0) for agent in agents]
    assert rates[:3] == [1.0] * 3
    assert all(rate < 0.2 for rate in rates[3:6])
    assert trials[0].seeds == 3

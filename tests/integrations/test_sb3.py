import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3

from stablegrad.errors import UsageError
from stablegrad.integrations.sb3 import DiagnosisCallback, trained_networks


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

"""Whole runs of agents with a replay buffer, several networks and continuous actions."""

import dataclasses
import types

import pytest
import torch

from stablegrad.agents import SAC
from stablegrad.agents.catalogue import check_suits
from stablegrad.agents.presets import apply_changes
from stablegrad.cli.main import main
from stablegrad.diagnostics import Finding
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.environments import environment_spec
from stablegrad.errors import CheckpointError, UsageError
from stablegrad.studies import search_diagnosis
from stablegrad.training import memory
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.config import default_run
from stablegrad.training.evaluation import evaluate_run
from stablegrad.training.health import DiagnosisConfig
from stablegrad.training.interaction import resume, train
from stablegrad.training.run_folder import RunFolder

SMALL = {"torso.width": 16, "batch_size": 16, "buffer_size": 250, "learning_starts": 50, "gradient_steps": 1}
RUNS = {
    "dqn": ("CartPole-v1", {"n_step": 3, "target_every": 40}),
    "rainbow": ("CartPole-v1", {"target_every": 40}),
    "sac": ("Pendulum-v1", {"normalize_observations": True}),
    # Checkpoints come in the middle of a delay.
    "td3": ("Pendulum-v1", {"policy_delay": 3}),
    "ddpg": ("Pendulum-v1", {"n_step": 3}),
}


def small_run(algorithm, **changes):
    env, own = RUNS[algorithm]
    run = default_run(algorithm, env)
    return dataclasses.replace(
        run,
        agent=apply_changes(run.agent, {**SMALL, **own}),
        **{"total_steps": 600, "checkpoint_every": 200, "keep_checkpoints": 9, "threads": 1, **changes},
    )


def weights(folder):
    return load_checkpoint(list_checkpoints(folder.checkpoints_path)[-1])[0]


@pytest.mark.parametrize("algorithm", RUNS)
def test_resumed_from_any_checkpoint_it_ends_bit_for_bit_the_same(tmp_path, resumed_equals, algorithm):
    """The buffer is smaller than the run, so that its ring has gone round."""
    whole = RunFolder(tmp_path / "whole")
    summary = train(small_run(algorithm), whole.path, quiet=True)
    assert summary["status"] == "finished"
    assert summary["updates"] > 100
    for kept in (1, 2) if algorithm == "dqn" else (1,):
        resumed_equals(whole, kept)


def test_without_its_replay_a_checkpoint_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(small_run("dqn"), folder.path, quiet=True)
    folder.summary_path.unlink()
    for path in (folder.checkpoints_path / "experience").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match=r"rows-.*\.bin"):
        resume(folder.path, quiet=True)


def test_every_network_is_watched_under_its_name(tmp_path, monkeypatch):
    probed, probe = [], SAC.probe
    monkeypatch.setattr(SAC, "probe", lambda agent, rows: probed.append(rows) or probe(agent, rows))
    diagnosis = DiagnosisConfig(look_every=20, probe_every=40, curvature_every=100)
    summary = train(small_run("sac", diagnosis=diagnosis), tmp_path / "run", quiet=True)
    keys = {key for row in RunFolder(tmp_path / "run").read_metrics() for key in row}
    assert {"loss/td", "loss/actor", "loss/temperature", "exploration/temperature"} <= keys
    assert {"gradients/actor", "gradients/critic", "gradients/norm"} <= keys
    for layer in summary["layers"]:
        assert layer.startswith(("actor.", "critic."))
        assert {f"gradient_norm/{layer}", f"update_ratio/{layer}"} <= keys
    for network in ("actor", "critic"):
        assert {f"hessian_trace/{network}", f"ntk_rank/{network}", f"srank/{network}"} <= keys
    assert "action_churn/actor" in keys
    assert not diagnose_recorded(RunFolder(tmp_path / "run").read_metrics()).notes
    # 550 updates: before and after every 40th, and for the next, rows of the replay and not of a minibatch.
    assert set(probed) == {1024} and len(probed) >= 2 * (550 // 40)
    # One value of a critic chooses nothing.
    assert not {"churn/actor", "churn/critic", "action_churn/critic"} & keys


def test_a_delayed_deterministic_actor_is_watched_and_evaluated(tmp_path):
    diagnosis = DiagnosisConfig(look_every=20, probe_every=40, curvature_every=100)
    summary = train(small_run("td3", diagnosis=diagnosis), tmp_path / "run", quiet=True)
    rows = RunFolder(tmp_path / "run").read_metrics()
    keys = {key for row in rows for key in row}
    assert {"loss/td", "loss/actor", "values/q", "gradients/actor", "gradients/critic"} <= keys
    assert not any(key.startswith("updates/") for key in keys)
    for layer in summary["layers"]:
        assert {f"gradient_norm/{layer}", f"update_ratio/{layer}"} <= keys
    for network in ("actor", "critic"):
        assert {f"hessian_trace/{network}", f"ntk_rank/{network}", f"srank/{network}"} <= keys
    # Of Pendulum's one number too.
    assert {"action_churn/actor", "action_churn_encoder/actor", "action_churn_head/actor"} <= keys
    assert not {"churn/actor", "churn/critic", "action_churn/critic"} & keys
    assert not diagnose_recorded(rows).notes
    assert evaluate_run(tmp_path / "run", episodes=2)["mean_length"] == 200


def test_distributions_behind_noise_are_watched_and_judged_as_values_are(tmp_path):
    diagnosis = DiagnosisConfig(look_every=20, probe_every=40, curvature_every=100)
    summary = train(small_run("rainbow", diagnosis=diagnosis, total_steps=900), tmp_path / "run", quiet=True)
    rows = RunFolder(tmp_path / "run").read_metrics()
    keys = {key for row in rows for key in row}
    assert {"loss/td", "values/q", "exploration/epsilon", "replay/importance_exponent"} <= keys
    for layer in summary["layers"]:
        assert {f"gradient_norm/{layer}", f"update_ratio/{layer}"} <= keys
    for metric in ("churn", "srank", "target_drift", "output_std", "hessian_trace", "ntk_rank"):
        assert f"{metric}/network" in keys
    assert all(0 <= row["churn/network"] <= 1 for row in rows if "churn/network" in row)
    assert summary["health"]["notes"] == []
    assert not diagnose_recorded(rows).notes
    # Of the means, not of a draw of noise.
    first, second = (evaluate_run(tmp_path / "run", episodes=2, seed=3) for _ in range(2))
    assert first == second


def test_repeated_actions_make_shorter_episodes_of_the_same_reward(tmp_path):
    """Pendulum's limit is 200 steps; its rewards, from 0 to -16.3 each, are summed."""
    run = small_run("sac", action_repeat=2)
    summary = train(run, tmp_path / "run", quiet=True)
    rows = [row for row in RunFolder(tmp_path / "run").read_metrics() if "train/episode_length" in row]
    assert {row["train/episode_length"] for row in rows} == {100}
    assert -200 * 16.3 < summary["final_return"] < -600
    assert evaluate_run(tmp_path / "run", episodes=2)["mean_length"] == 100


def test_algorithms_and_environments_that_do_not_fit():
    with pytest.raises(UsageError, match=r"SAC needs continuous actions; .*'CartPole-v1' are discrete; .*: pqn, dqn"):
        check_suits("sac", environment_spec("CartPole-v1"))
    with pytest.raises(UsageError, match=r"DQN needs discrete actions; .*'Pendulum-v1' are continuous; .*: sac"):
        check_suits("dqn", environment_spec("Pendulum-v1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--buffer-size", "0"], "buffer-size must be at least 1"),
        (["--bufer-size", "9"], "did you mean '--buffer-size'"),
        (["--value-loss", "hubber"], "did you mean 'huber'"),
        (["--target-every", "0"], "target-every must be at least 1"),
        (["--action-repeat", "0"], "action-repeat must be at least 1"),
        (["--n-step", "x"], "--n-step should be a whole number"),
        (["--tau", "2"], "tau must be from 0 to 1"),
        (["--num-critics", "2"], "unknown option of 'train dqn' '--num-critics'"),
    ],
)
def test_wrong_options_are_one_line(options, message, capsys):
    assert main(["train", "dqn", "--env", "CartPole-v1", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_replay_that_cannot_fit_is_refused_and_blamed(monkeypatch):
    run = default_run("dqn", "Breakout-v5")
    assert run.memory_need().experience == pytest.approx(7.07e9, rel=0.01)
    monkeypatch.setattr(memory, "available_memory", lambda device: 2**30)
    with pytest.raises(UsageError, match=r"needs at least 6\.\d\d GiB of memory .*choose a smaller --buffer-size"):
        run.check()
    free = {"cpu": 2**30, "cuda": 2**40}
    monkeypatch.setattr(memory, "available_memory", lambda device: free[device.type])
    with pytest.raises(UsageError, match=r"are free on cpu; choose a smaller --buffer-size"):
        memory.check_memory("dqn", run.agent, run.spec, torch.device("cuda"))
    free["cpu"] = 2**40
    memory.check_memory("dqn", run.agent, run.spec, torch.device("cuda"))


def test_the_preflight_judges_every_network_on_its_own_inputs(monkeypatch):
    """Of Pendulum three numbers for the actor, with the action four for the critic; all within their bounds."""
    judged = []
    finding = Finding("dead_units", "at risk", "torso", 2, 1.0, 0.5, "dead")

    def judge(network, inputs, **options):
        judged.append(tuple(inputs.shape[1:]))
        assert inputs.isfinite().all() and inputs.abs().max() <= 8.0
        assert len(network(inputs)) == len(inputs)
        return types.SimpleNamespace(findings=[finding])

    monkeypatch.setattr(search_diagnosis, "diagnose", judge)
    run = small_run("sac")
    run = dataclasses.replace(run, agent=dataclasses.replace(run.agent, num_envs=600, buffer_size=600))
    assert search_diagnosis.preflight_findings(run) == [finding, finding]
    assert judged == [(3,), (4,)]

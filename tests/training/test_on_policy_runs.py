"""Whole runs of PPO: one network or two, discrete and continuous actions, with everything that a run must save."""

import dataclasses

import pytest

from stablegrad.agents.presets import apply_changes
from stablegrad.cli.main import main
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.config import default_run
from stablegrad.training.evaluation import evaluate_run
from stablegrad.training.health import DiagnosisConfig
from stablegrad.training.interaction import train
from stablegrad.training.run_folder import RunFolder

SMALL = {"torso.width": 16, "num_envs": 4, "num_steps": 16, "num_minibatches": 2, "num_epochs": 2}
RUNS = {
    "one network, discrete": ("CartPole-v1", {"shared": True, "target_kl": 0.02}),
    "two networks, discrete": ("CartPole-v1", {"normalize_observations": True}),
    "two networks, continuous": ("Pendulum-v1", {}),
    "one network, continuous": ("Pendulum-v1", {"shared": True}),
}
every_kind = pytest.mark.parametrize("kind", RUNS)


def small_run(kind, preset="baseline", **changes):
    env, own = RUNS[kind]
    run = default_run("ppo", env, preset)
    return dataclasses.replace(
        run,
        agent=apply_changes(run.agent, {**SMALL, **own}),
        **{"total_steps": 900, "checkpoint_every": 300, "keep_checkpoints": 9, "threads": 1, **changes},
    )


def weights(folder):
    return load_checkpoint(list_checkpoints(folder.checkpoints_path)[-1])[0]


@every_kind
def test_resumed_from_any_checkpoint_it_ends_bit_for_bit_the_same(tmp_path, resumed_equals, kind):
    whole = RunFolder(tmp_path / "whole")
    summary = train(small_run(kind), whole.path, quiet=True)
    assert summary["status"] == "finished"
    for kept in (1, 2):
        resumed_equals(whole, kept)


@every_kind
def test_its_networks_are_watched_and_measured(tmp_path, kind):
    diagnosis = DiagnosisConfig(look_every=10, probe_every=20, curvature_every=20)
    summary = train(small_run(kind, diagnosis=diagnosis), tmp_path / "run", quiet=True)
    rows = RunFolder(tmp_path / "run").read_metrics()
    keys = {key for row in rows for key in row}
    assert {"loss/policy", "loss/value", "values/kl", "values/entropy", "values/explained_variance"} <= keys
    for layer in summary["layers"]:
        assert f"gradient_norm/{layer}" in keys
    churn = "churn" if "discrete" in kind else "action_churn"
    sites = ("network",) if "one" in kind else ("actor", "critic")
    for site in sites:
        assert {f"hessian_trace/{site}", f"ntk_rank/{site}", f"srank/{site}"} <= keys
    assert f"{churn}/{sites[0]}" in keys
    assert not {f"{churn}/critic"} & keys
    assert ("exploration/std" in keys) == ("continuous" in kind)
    assert not diagnose_recorded(rows).notes


@pytest.mark.parametrize("preset", ["baseline", "stable", "redo", "norm_bounded"])
def test_presets_train_and_are_evaluated(tmp_path, preset):
    summary = train(small_run("two networks, continuous", preset, total_steps=300), tmp_path / "run", quiet=True)
    assert summary["status"] == "finished"
    assert evaluate_run(tmp_path / "run", episodes=2)["mean_length"] == 200


def test_an_evaluation_normalises_observations_as_training_did(tmp_path):
    """The statistics are among the weights of the checkpoint."""
    train(small_run("two networks, discrete"), tmp_path / "run", quiet=True)
    saved = weights(RunFolder(tmp_path / "run"))
    counts = [tensor for name, tensor in saved.items() if name.endswith("normalizer.count")]
    assert len(counts) == 2 and all(count > 500 for count in counts)


def test_it_learns_cartpole(tmp_path):
    """Random actions return 22; five seeds returned 428 to 500 with these settings."""
    run = default_run("ppo", "CartPole-v1", "baseline+optimizer.adam_learning_rate=1e-3")
    run = dataclasses.replace(run, total_steps=20_000, seed=1, threads=1, eval_episodes=10)
    assert train(run, tmp_path / "run", quiet=True)["evaluation"]["mean_return"] > 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip", "0"], "clip must be above 0"),
        (["--gae-lamda", "0.9"], "did you mean '--gae-lambda'"),
        (["--clip-schedule", "linaer"], "did you mean 'linear'"),
        (["--target-kl", "x"], "--target-kl should be"),
        (["--num-minibatches", "7"], "cannot be cut into 7 minibatches"),
    ],
)
def test_wrong_options_are_one_line(options, message, capsys):
    assert main(["train", "ppo", "--env", "CartPole-v1", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_images_are_not_normalised(capsys):
    assert main(["train", "ppo", "--env", "Breakout-v5", "--normalize-observations"]) == 2
    assert "normalize-observations is for state vectors" in capsys.readouterr().err

"""Whole runs with all alternatives at once: exact resume, evaluation, and a diagnosis that changes nothing."""

import dataclasses

import pytest
import torch

from stablegrad.agents.presets import apply_changes
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.config import default_run
from stablegrad.training.evaluation import evaluate_run
from stablegrad.training.health import DiagnosisConfig
from stablegrad.training.interaction import train
from stablegrad.training.run_folder import RunFolder

ALTERNATIVES = {
    "torso.width": 16,
    "torso.spectral_norm": True,
    "torso.sparsity": 0.5,
    "optimizer.l2": 1e-3,
    "optimizer.l2_init": 1e-3,
    "optimizer.project_rows": "first",
    "optimizer.weight_clip": 5.0,
}
REPLAY = {"batch_size": 16, "buffer_size": 400, "learning_starts": 32, "gradient_steps": 1}
RUNS = {
    "pqn": ("CartPole-v1", {"num_envs": 4, "num_steps": 8, "num_minibatches": 4, "optimizer.name": "kron"}),
    "dqn": ("CartPole-v1", {**REPLAY, "target_every": 40, "optimizer.name": "kron"}),
    "sac": ("Pendulum-v1", REPLAY),
}


def small_run(algorithm, **changes):
    env, own = RUNS[algorithm]
    run = default_run(algorithm, env)
    return dataclasses.replace(
        run,
        agent=apply_changes(run.agent, {**ALTERNATIVES, **own}),
        **{"total_steps": 256, "checkpoint_every": 128, "keep_checkpoints": 9, "threads": 1, **changes},
    )


def last_checkpoint(folder):
    return load_checkpoint(list_checkpoints(folder.checkpoints_path)[-1])


@pytest.mark.parametrize("algorithm", RUNS)
def test_resumed_it_ends_bit_for_bit_the_same_and_can_be_evaluated(tmp_path, resumed_equals, algorithm):
    whole = RunFolder(tmp_path / "whole")
    train(small_run(algorithm), whole.path, quiet=True)
    weights = last_checkpoint(whole)[0]
    assert any(name.endswith("parametrizations.weight.0.mask") for name in weights)
    assert any(name.endswith("parametrizations.weight.1.u") for name in weights)
    resumed_equals(whole)
    assert evaluate_run(whole.path, episodes=1)


def test_curvature_of_an_actor_whose_loss_runs_through_the_critic_changes_nothing(tmp_path):
    ends = []
    for name, diagnosis in (("watched", DiagnosisConfig(10, 10, "continue", 30)), ("alone", DiagnosisConfig(0, 0))):
        folder = RunFolder(tmp_path / name)
        train(small_run("sac", diagnosis=diagnosis, total_steps=128), folder.path, quiet=True)
        ends.append(last_checkpoint(folder)[0])
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())

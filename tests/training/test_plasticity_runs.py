"""Whole runs with SIGReg and resets."""

import dataclasses
import shutil

import pytest
import torch

from stablegrad.agents.presets import apply_changes
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.config import default_run
from stablegrad.training.interaction import resume, train
from stablegrad.training.run_folder import RunFolder

SMALL = {"torso.width": 16, "sigreg": 0.1, "reset_every": 7, "reset_threshold": 0.3}
ROLLOUTS = {"num_envs": 4, "num_steps": 16, "num_minibatches": 2, "num_epochs": 2}
BATCHES = {"batch_size": 16, "buffer_size": 400, "learning_starts": 50, "gradient_steps": 1}
RUNS = {
    "pqn": ("CartPole-v1", ROLLOUTS),
    "ppo": ("CartPole-v1", ROLLOUTS),
    "dqn": ("CartPole-v1", {**BATCHES, "train_every": 4}),
    "sac": ("Pendulum-v1", {**BATCHES, "train_every": 4}),
}


def run_of(algorithm, rule):
    env, own = RUNS[algorithm]
    run = default_run(algorithm, env)
    return dataclasses.replace(
        run,
        agent=apply_changes(run.agent, {**SMALL, **own, "reset": rule}),
        total_steps=512,
        checkpoint_every=256,
        keep_checkpoints=9,
        threads=1,
    )


def weights(folder):
    return load_checkpoint(list_checkpoints(folder.checkpoints_path)[-1])[0]


@pytest.mark.parametrize("rule", ["redo", "regrama"])
@pytest.mark.parametrize("algorithm", RUNS)
def test_resumed_it_ends_bit_for_bit_the_same(tmp_path, algorithm, rule):
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    assert train(run_of(algorithm, rule), whole.path, quiet=True)["status"] == "finished"
    lines = whole.read_metrics()
    several = algorithm == "sac" or (algorithm == "ppo")
    of_network = "_critic" if several else ""
    assert any((line.get(f"values/reset_fraction{of_network}") or 0) > 0 for line in lines)
    assert any((line.get(f"loss/sigreg{of_network}") or 0) > 0 for line in lines)

    shutil.copytree(whole.path, cut.path)
    cut.summary_path.unlink()
    for newer in list_checkpoints(cut.checkpoints_path)[1:]:
        shutil.rmtree(newer)
    resume(cut.path, quiet=True)
    assert all(torch.equal(weights(cut)[name], tensor) for name, tensor in weights(whole).items())
    timed = {"wall_seconds", "speed/steps_per_second"}
    assert [{k: v for k, v in line.items() if k not in timed} for line in cut.read_metrics()] == [
        {k: v for k, v in line.items() if k not in timed} for line in lines
    ]

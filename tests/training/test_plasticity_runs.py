"""Whole runs with SIGReg and resets."""

import dataclasses

import pytest

from stablegrad.agents.presets import apply_changes
from stablegrad.training.config import default_run
from stablegrad.training.interaction import train
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


@pytest.mark.parametrize("rule", ["redo", "regrama"])
@pytest.mark.parametrize("algorithm", RUNS)
def test_resumed_it_ends_bit_for_bit_the_same(tmp_path, resumed_equals, algorithm, rule):
    whole = RunFolder(tmp_path / "whole")
    assert train(run_of(algorithm, rule), whole.path, quiet=True)["status"] == "finished"
    lines = whole.read_metrics()
    of_network = "_critic" if algorithm in ("sac", "ppo") else ""
    assert any((line.get(f"values/reset_fraction{of_network}") or 0) > 0 for line in lines)
    assert any((line.get(f"loss/sigreg{of_network}") or 0) > 0 for line in lines)
    resumed_equals(whole)

import dataclasses
import shutil

import pytest
import torch

from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.config import default_run
from stablegrad.training.health import DiagnosisConfig
from stablegrad.training.interaction import resume
from stablegrad.training.run_folder import RunFolder

TIMES = {"wall_seconds", "speed/steps_per_second"}


@pytest.fixture
def resumed_equals(tmp_path):
    """A check that a finished run, cut back to its first checkpoints and resumed, ends bit for bit as it did."""

    def check(whole, kept=1):
        cut = RunFolder(tmp_path / f"cut-{kept}")
        shutil.copytree(whole.path, cut.path)
        cut.summary_path.unlink()
        newer = list_checkpoints(cut.checkpoints_path)[kept:]
        assert newer
        for path in newer:
            shutil.rmtree(path)
        assert resume(cut.path, quiet=True)["updates"] == whole.read_summary()["updates"]
        found, expected = (load_checkpoint(list_checkpoints(one.checkpoints_path)[-1])[0] for one in (cut, whole))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        lines = (
            [{k: v for k, v in row.items() if k not in TIMES} for row in one.read_metrics()] for one in (whole, cut)
        )
        assert next(lines) == next(lines)

    return check


@pytest.fixture(scope="session")
def tiny_run():
    """A run of a second, with checkpoints at about a third and two thirds of it."""
    run = default_run("pqn", "CartPole-v1", "stable")
    agent = dataclasses.replace(
        run.agent,
        torso=dataclasses.replace(run.agent.torso, width=16, depth=1),
        num_envs=8,
        num_steps=8,
        num_minibatches=4,
        num_epochs=2,
        exploration_fraction=0.3,
        optimizer=dataclasses.replace(run.agent.optimizer, adam_learning_rate=5e-4),
    )
    return dataclasses.replace(
        run,
        agent=agent,
        total_steps=1500,
        threads=1,
        checkpoint_every=500,
        keep_checkpoints=10,
        # Looks and probings on both sides of every checkpoint.
        diagnosis=DiagnosisConfig(look_every=10, probe_every=20),
    )

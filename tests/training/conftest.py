import dataclasses

import pytest

from stablegrad.training.config import default_run
from stablegrad.training.health import DiagnosisConfig


@pytest.fixture(scope="session")
def tiny_run():
    """A run of a second or two, with checkpoints at about a third and two thirds of it."""
    run = default_run("pqn", "CartPole-v1", "stable")
    agent = dataclasses.replace(
        run.agent,
        torso=dataclasses.replace(run.agent.torso, width=16, depth=1),
        num_envs=8,
        num_steps=8,
        num_minibatches=4,
    )
    return dataclasses.replace(
        run,
        agent=agent,
        total_steps=3000,
        threads=1,
        checkpoint_every=1000,
        keep_checkpoints=10,
        # Looks and probings on both sides of every checkpoint.
        diagnosis=DiagnosisConfig(look_every=20, probe_every=40),
    )

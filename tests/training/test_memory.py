from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from stablegrad.agents.pqn import build_networks
from stablegrad.environments import environment_spec
from stablegrad.errors import UsageError
from stablegrad.training import memory
from stablegrad.training.config import default_run
from stablegrad.training.memory import memory_need

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["radam", "adam", "sgd", "rmsprop", "muon", "kron"])
def test_what_is_said_beforehand_is_what_a_step_takes(name):
    agent = default_run("pqn", "CartPole-v1", f"baseline+optimizer.name={name}").agent
    spec = environment_spec("CartPole-v1")
    network = build_networks(agent, spec)["q"]
    optimizer = agent.optimizer.build(network)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
    need = memory_need("pqn", agent, spec)
    weights = sum(parameter.numel() * 4 for parameter in network.parameters())
    assert need.network == 2 * weights
    if name == "kron":  # its state, and on top what it caches and passes through (tests/optimizers)
        assert held < need.optimizer
    else:
        assert need.optimizer == pytest.approx(held, rel=0.02, abs=200)
    assert need.experience == (agent.num_steps + 1) * agent.num_envs * math.prod(spec.observation_shape) * 4


def test_a_run_that_cannot_fit_is_refused_before_anything_is_allocated(monkeypatch):
    run = default_run("pqn", "CartPole-v1", "stable+torso.width=200000")
    with pytest.raises(UsageError, match=r"needs at least \d+\.\d\d GiB of memory .*choose a smaller --torso"):
        run.check()
    small = dataclasses.replace(run, agent=default_run("pqn", "CartPole-v1", "stable").agent)
    small.check()
    monkeypatch.setattr(memory, "available_memory", lambda device: 10_000)
    with pytest.raises(UsageError, match=r"0 MiB are free on cpu"):
        small.check()
    monkeypatch.setattr(memory, "available_memory", lambda device: None)
    run.check()  # where the machine does not tell, nothing is refused


def test_a_rollout_too_large_is_not_blamed_on_the_network(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 2**30)
    run = default_run("pqn", "Breakout-v5", "baseline+num_steps=1024")
    with pytest.raises(UsageError, match="choose a smaller --num-envs or --num-steps"):
        run.check()


def test_the_peak_of_a_real_run_is_within_a_half_of_what_was_said(tmp_path):
    """In a process of its own: what a test process had before would count."""
    program = """if True:
        import dataclasses, sys
        from stablegrad.training.config import default_run
        from stablegrad.training.interaction import train
        run = default_run("pqn", "CartPole-v1", "baseline+torso.depth=1+torso.width=512+num_steps=8")
        run = dataclasses.replace(run, total_steps=1, threads=1)
        said = run.memory_need().peak
        print(said / train(run, sys.argv[1], quiet=True)["peak_memory_bytes"])
    """
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert 1 / 1.5 < float(output) < 1.5


def test_a_gpu_holds_neither_the_program_nor_copies_for_checkpoints():
    agent, spec = default_run("pqn", "CartPole-v1", "stable").agent, environment_spec("CartPole-v1")
    here, there = memory_need("pqn", agent, spec, CPU), memory_need("pqn", agent, spec, torch.device("cuda"))
    assert here.total == there.total == there.peak < here.peak
    assert "program" in str(here) and "program" not in str(there) and "checkpoint" not in str(there)

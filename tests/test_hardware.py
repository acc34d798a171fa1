"""Whether denormal numbers are flushed, where, and for how long."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading

import pytest
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from stablegrad.hardware import denormals_flushed, flushes_denormals
from stablegrad.training.config import default_run
from stablegrad.training.evaluation import evaluate_run
from stablegrad.training.interaction import resume, train


def test_it_is_as_before_afterwards_whatever_happens():
    assert not flushes_denormals()
    with pytest.raises(ZeroDivisionError), denormals_flushed():
        assert flushes_denormals()
        with denormals_flushed():
            pass
        assert flushes_denormals()
        _ = 1 / 0
    assert not flushes_denormals()


def test_threads_that_start_meanwhile_flush_and_others_do_not():
    seen = []
    with denormals_flushed():
        thread = threading.Thread(target=lambda: seen.append(flushes_denormals()))
        thread.start()
        thread.join()
    thread = threading.Thread(target=lambda: seen.append(flushes_denormals()))
    thread.start()
    thread.join()
    assert seen == [True, False]


THREADS_OF_TORCH = """
import torch
from stablegrad.hardware import denormals_flushed
torch.set_num_threads(2)
size = 2**21
def flushed():
    # By their bits: a comparison would take a denormal number for 0 itself.
    product = torch.full((size,), 71362, dtype=torch.int32).view(torch.float32) * 1.0
    return (product.view(torch.int32).view(2, -1) == 0).all(1).tolist()
{first}
with denormals_flushed():
    print(flushed())
print(flushed())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="how threads inherit it is the system's affair")
@pytest.mark.parametrize(
    ("first", "expected"),
    [("", "[True, True]\n[False, True]\n"), ("flushed()", "[True, False]\n[False, False]\n")],
)
def test_torchs_own_threads_inherit_it_when_they_are_made(first, expected):
    """So it has to be set before the first parallel operation of a process."""
    code = THREADS_OF_TORCH.format(first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == expected


@pytest.fixture
def steps():
    """Whether the thread flushed, at every optimizer step."""
    seen = []
    handle = register_optimizer_step_pre_hook(lambda *arguments: seen.append(flushes_denormals()))
    yield seen
    handle.remove()


def test_agents_and_their_evaluation_flush(tmp_path, steps, monkeypatch):
    run = default_run("pqn", "CartPole-v1", "baseline+torso.width=8+torso.depth=1+num_envs=4+num_steps=8")
    run = dataclasses.replace(run, total_steps=400, threads=1, checkpoint_every=200, eval_episodes=0)
    train(run, tmp_path / "run", quiet=True)
    assert steps
    assert all(steps)
    (tmp_path / "run" / "summary.json").unlink()
    steps.clear()
    resume(tmp_path / "run", quiet=True)
    assert all(steps)
    seen = []
    forward = nn.Linear.forward
    monkeypatch.setattr(
        nn.Linear, "forward", lambda self, inputs: (seen.append(flushes_denormals()), forward(self, inputs))[1]
    )
    evaluate_run(tmp_path / "run", episodes=1, max_episode_steps=5)
    assert seen
    assert all(seen)
    assert not flushes_denormals()

"""Capacity in runs: every agent's networks, from the training and from a checkpoint."""

import dataclasses

import pytest

from stablegrad.cli.main import main
from stablegrad.diagnostics.capacity import STEPS
from stablegrad.training import capacity as module
from stablegrad.training.capacity import capacity_of_run
from stablegrad.training.config import default_run
from stablegrad.training.health import DiagnosisConfig
from stablegrad.training.interaction import train
from stablegrad.training.run_folder import RunFolder

SMALL = "+torso.width=16"
RUNS = {
    "pqn": ("CartPole-v1", f"stable{SMALL}+num_envs=4+num_steps=16", {""}),
    "ppo": ("Pendulum-v1", f"norm_bounded{SMALL}+num_envs=4+num_steps=32", {"actor", "critic"}),
    "rainbow": ("CartPole-v1", f"baseline{SMALL}+learning_starts=100", {""}),
    "td3": ("Pendulum-v1", f"xqc{SMALL}+learning_starts=100", {"actor", "critic"}),
}


def tiny(algorithm, **changes):
    env, setting, _ = RUNS[algorithm]
    run = default_run(algorithm, env, setting)
    return dataclasses.replace(run, total_steps=400, checkpoint_every=400, threads=1, **changes)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("stablegrad.diagnostics.capacity.STEPS", STEPS // 20)


@pytest.mark.parametrize("algorithm", RUNS)
def test_every_network_of_a_checkpoint_is_measured(algorithm, tmp_path):
    train(tiny(algorithm), tmp_path / "run", quiet=True)
    step, found = capacity_of_run(RunFolder(tmp_path / "run"), device="cpu")
    assert step >= 400
    assert set(found) == RUNS[algorithm][2]
    assert all(0 < error < 10 for one in found.values() for error in one.figures().values())
    again = capacity_of_run(RunFolder(tmp_path / "run"), device="cpu")
    assert again == (step, found)


@pytest.mark.parametrize("algorithm", ["pqn", "td3"])
def test_measuring_it_changes_nothing_in_the_training(algorithm, tmp_path):
    watched = DiagnosisConfig(look_every=4, probe_every=8, capacity_every=60 if algorithm == "td3" else 8)
    train(tiny(algorithm, diagnosis=watched), tmp_path / "with", quiet=True)
    train(tiny(algorithm, diagnosis=DiagnosisConfig(0, 0)), tmp_path / "without", quiet=True)
    weights = [next((tmp_path / name).rglob("model.safetensors")).read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]
    rows = RunFolder(tmp_path / "with").read_metrics()
    site = "critic" if algorithm == "td3" else "network"
    assert any(f"refit_error/{site}" in row for row in rows)


def test_diagnose_says_what_the_networks_can_still_learn(tmp_path, capsys, monkeypatch):
    train(tiny("pqn", diagnosis=DiagnosisConfig(4, 8)), tmp_path / "run", quiet=True)
    before = sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert main(["diagnose", str(tmp_path / "run")]) == 0
    assert "capacity: the network" in capsys.readouterr().out
    assert before == sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file())

    with monkeypatch.context() as patch:  # as a checkpoint of an earlier version may be
        patch.setattr("stablegrad.agents.pqn.PQN.load_state_dict", lambda self, state: {}["updates"])
        assert main(["diagnose", str(tmp_path / "run")]) == 0
        assert "does not fit the run's agent" in capsys.readouterr().out

    monkeypatch.setattr(module, "list_checkpoints", lambda folder: [])
    assert main(["diagnose", str(tmp_path / "run")]) == 0
    assert "was not measured: run" in capsys.readouterr().out

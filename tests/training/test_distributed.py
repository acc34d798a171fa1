"""Two processes train one run: the same weights, the steps of both, one line when one dies, exact resume."""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stablegrad.cli.main import main
from stablegrad.environments import environment_seeds
from stablegrad.errors import UsageError
from stablegrad.training import distributed
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.distributed import Ranks, checksums
from stablegrad.training.interaction import resume
from stablegrad.training.run_folder import RunFolder

FORKED = Path(__file__).with_name("forked_ranks.py")
TOTAL_STEPS = 900
TIMES = {"wall_seconds", "speed/steps_per_second"}
RANK_1 = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


@pytest.fixture(scope="module")
def forked(tmp_path_factory, tiny_run):
    """A folder with two equal runs, in the second of which rank 1 was killed; and by job what both ranks returned (None
    where one was killed) and wrote on standard error."""
    folder = tmp_path_factory.mktemp("forked")
    config = dataclasses.replace(tiny_run, total_steps=TOTAL_STEPS, checkpoint_every=TOTAL_STEPS // 3)
    for name in ("undisturbed", "killed"):
        RunFolder.create(folder / name, config.to_json())
    jobs = (
        ("undisturbed", "resume", "undisturbed"),
        ("killed", "resume", "killed", 1, 50),
        ("resumed", "resume", "killed"),
        ("averaged", "averaged_update"),
        ("disagreeing", "disagree"),
    )
    subprocess.run([sys.executable, str(FORKED), json.dumps(jobs)], cwd=folder, check=True, timeout=300)
    results = {}
    for label, *_ in jobs:
        files = [folder / f"{label}.rank{rank}.pt" for rank in (0, 1)]
        returned = [torch.load(file) if file.exists() else None for file in files]
        results[label] = returned, "".join(file.with_suffix(".err").read_text() for file in files)
    return folder, results


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rows(run_dir):
    return [
        {name: value for name, value in row.items() if name not in TIMES} for row in RunFolder(run_dir).read_metrics()
    ]


def test_two_ranks_end_with_the_same_weights_which_are_the_runs(forked):
    folder, results = forked
    (first, second), errors = results["undisturbed"]
    assert (first["code"], second["code"], errors) == (0, 0, "")
    assert equal(first["weights"], second["weights"])
    weights, state = load_checkpoint(list_checkpoints(folder / "undisturbed" / "checkpoints")[-1])
    assert equal(first["weights"], weights)
    assert state["processes"] == 2


def test_steps_are_those_of_both_and_their_environments_are_the_runs(forked, tiny_run):
    folder, results = forked
    first, second = results["undisturbed"][0]
    summary = RunFolder(folder / "undisturbed").read_summary()
    assert summary["env_steps"] == first["steps"] + second["steps"] >= TOTAL_STEPS
    assert summary["processes"] == 2
    assert len(first["seeds"]) == len(second["seeds"]) == 3
    for segment, shares in enumerate(zip(first["seeds"], second["seeds"], strict=True)):
        assert [len(share) for share in shares] == [4, 4]
        assert sorted(shares[0] + shares[1]) == sorted(environment_seeds(tiny_run.seed, segment, 8))
    # CartPole pays 1 a step: every step but those of the games that were cut is in some episode's return.
    returned = summary["episodes"] * summary["final_return"]
    assert summary["episodes"] > 40
    assert returned == pytest.approx(summary["env_steps"], rel=0.3)


def test_rank_0_alone_writes(forked):
    folder, _ = forked
    names = sorted(path.name for path in (folder / "undisturbed").iterdir())
    events = next(name for name in names if name.startswith("events.out.tfevents"))
    assert names == [".lock", "SHA256SUMS", "checkpoints", "config.json", events, "metrics.jsonl", "summary.json"]
    steps = [row["step"] for row in rows(folder / "undisturbed")]
    assert steps == sorted(set(steps))


def test_a_killed_rank_ends_the_run_in_one_line_and_the_run_resumes_exactly(forked):
    folder, results = forked
    (survivor, killed), errors = results["killed"]
    assert killed is None
    assert survivor["code"] == 1
    assert survivor["summary"]["status"] == "failed"
    assert errors == f"stablegrad: {survivor['summary']['error']}\n"
    assert "another process of this run ended" in errors

    (first, second), errors = results["resumed"]
    assert (first["code"], second["code"], errors) == (0, 0, "")
    undisturbed = results["undisturbed"][0][0]
    assert len(first["seeds"]) == len(undisturbed["seeds"]) - 1
    assert equal(first["weights"], undisturbed["weights"])
    assert equal(second["weights"], undisturbed["weights"])
    assert rows(folder / "killed") == rows(folder / "undisturbed")


def test_averaging_gradients_is_averaging_what_each_rank_would_have_learned(forked):
    """A step of SGD is linear in the gradient: the mean of both ranks' own steps, taken apart from each other."""
    _, results = forked
    (first, second), errors = results["averaged"]
    assert errors == ""
    assert equal(first["weights"], second["weights"])
    specification = importlib.util.spec_from_file_location("forked_ranks", FORKED)
    ranks = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(ranks)
    alone = []
    for rank in (0, 1):
        agent = ranks.one_step_agent()
        ranks.fill_rollout(agent, rank)
        agent.learn(0)
        alone.append(agent.network.state_dict())
    for name, weights in first["weights"].items():
        torch.testing.assert_close(weights, (alone[0][name] + alone[1][name]) / 2, rtol=1e-5, atol=1e-6)
    assert not equal(alone[0], alone[1])


def test_processes_that_differ_stop(forked):
    _, results = forked
    returned, errors = results["disagreeing"]
    assert returned == ["the processes of this run differ (rank 1 from rank 0) in their weather"] * 2
    assert errors == ""


def test_checksums_tell_any_two_bits_apart():
    weights = [torch.randn(5, 3), torch.zeros(2)]
    expected = checksums(weights)
    assert checksums([tensor.clone() for tensor in weights]) == expected
    weights[1][0] = -0.0
    assert checksums(weights) != expected


def test_torchrun_runs_the_command_and_an_error_of_all_is_one_line(tmp_path):
    (tmp_path / "faulty_env.py").write_text(
        "import gymnasium, numpy as np\n"
        "class Faulty(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    steps = 0\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        Faulty.steps += 1\n"
        "        assert Faulty.steps <= 100, 'the wheels came off'\n"
        "        return np.zeros(2, np.float32), 1.0, False, False, {}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "stablegrad", "train", "pqn", "--env", "faulty_env:Faulty", "--num-envs", "4", "--num-steps", "8"]
    command += ["--num-minibatches", "2", "--num-epochs", "2", "--torso.width", "8"]
    command += ["--device", "cpu", "--quiet", "--run-dir", "run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("stablegrad: ")]
    assert len(lines) == 1, result.stderr
    assert "raised AssertionError while being stepped" in lines[0]
    summary = RunFolder(tmp_path / "run").read_summary()
    assert (summary["status"], summary["processes"]) == ("failed", 2)
    # 6 rollouts of 8 steps were counted: 2 environments in each of 2 processes, 50 steps each.
    assert summary["env_steps"] >= 6 * 8 * 4
    assert summary["updates"] == 6 * 4


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({}, ["--num-envs", "9"], "num-envs 9 cannot be shared out equally among 2 processes; try 8"),
        ({}, ["--num-envs", "6", "--num-steps", "1"], "in each of 2 processes, num-envs * num-steps = 3 cannot be cut"),
        ({"WORLD_SIZE": "many"}, ["--num-envs", "6"], "environment variable WORLD_SIZE should be a number, got 'many'"),
        ({"RANK": None, "MASTER_PORT": None}, ["--num-envs", "6"], "WORLD_SIZE is 2 without RANK, MASTER_PORT; start"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_written(
    capsys, monkeypatch, tmp_path, variables, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distributed, "first_to_tell", lambda: True)
    for name, value in {**RANK_1, **variables}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert main(["train", "pqn", "--env", "CartPole-v1", "--num-minibatches", "6", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_other_commands_are_one_process_s_work(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distributed, "first_to_tell", lambda: True)
    for name, value in RANK_1.items():
        monkeypatch.setenv(name, value)
    assert main(["compare", "pqn", "--env", "CartPole-v1"]) == 2
    assert "torchrun is for 'train' and 'resume'; start 'compare' without it" in capsys.readouterr().err


def test_each_process_gets_a_gpu_of_its_own(monkeypatch):
    for name, value in RANK_1.items():
        monkeypatch.setenv(name, value)
    ranks = Ranks()
    assert not ranks.is_first
    assert ranks.device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ranks.device(torch.device("cuda")) == torch.device("cuda:1")
    with pytest.raises(UsageError, match="ask for cuda, not cuda:0"):
        ranks.device(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="started 2 processes on this machine, and torch sees 1 CUDA device"):
        ranks.device(torch.device("cuda"))


def test_another_number_of_processes_is_noted(tmp_path, forked, tiny_run, capsys):
    folder, _ = forked
    alone = RunFolder.create(tmp_path / "alone", dataclasses.replace(tiny_run, total_steps=TOTAL_STEPS + 300).to_json())
    shutil.copytree(folder / "undisturbed" / "checkpoints", alone.checkpoints_path)
    shutil.copy(folder / "undisturbed" / "metrics.jsonl", alone.metrics_path)
    summary = resume(alone.path)
    assert (summary["status"], summary["processes"]) == ("finished", 1)
    assert "note: trained by 2 processes on cpu up to step 9" in capsys.readouterr().err

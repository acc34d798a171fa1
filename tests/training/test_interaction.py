"""The loop on real environments: summaries, exact resume, stops, failures."""

import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch

from stablegrad.agents import PQN
from stablegrad.agents.pqn import build_networks
from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics import LEVELS
from stablegrad.diagnostics.layers import find_layers
from stablegrad.environments import StepResult, environment_spec
from stablegrad.errors import CheckpointError, EnvironmentFault, StablegradError, TrainingDiverged, UsageError
from stablegrad.files import write_json
from stablegrad.training import interaction, lifecycle
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.config import RunConfig, default_run, resolve_device
from stablegrad.training.interaction import resume, train
from stablegrad.training.interruption import Interrupted
from stablegrad.training.lifecycle import Lifecycle
from stablegrad.training.run_folder import RunFolder
from stablegrad.training.update_metrics import norms_by_layer

TIMES = {"wall_seconds", "speed/steps_per_second"}


def final_weights(run_dir):
    return load_checkpoint(list_checkpoints(run_dir / "checkpoints")[-1])[0]


def same_run(first, second):
    """Bit for bit: weights, and every figure that is not a time."""
    a, b = final_weights(first), final_weights(second)
    assert all(torch.equal(a[name], b[name]) for name in a)
    metrics = [
        [{name: value for name, value in row.items() if name not in TIMES} for row in RunFolder(run).read_metrics()]
        for run in (first, second)
    ]
    assert metrics[0] == metrics[1]


class Killed(BaseException):
    pass


def train_until(config, run_dir, updates, monkeypatch):
    """Train and die without a chance to clean up after so many calls of update."""
    calls = 0
    original = PQN.learn

    def update(self, *arguments):
        nonlocal calls
        calls += 1
        if calls > updates:
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PQN, "learn", update)
        patch.setattr(Lifecycle, "_write_summary_if_possible", lambda *_: None)
        with pytest.raises(Killed):
            train(config, run_dir, quiet=True)


def test_the_run_folder_is_as_documented(tmp_path, tiny_run):
    config = dataclasses.replace(tiny_run, eval_episodes=3)
    summary = train(config, tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    assert folder.read_summary() == json.loads(json.dumps(summary))
    assert summary["status"] == "finished"
    assert summary["env_steps"] >= 1500
    assert summary["updates"] % 8 == 0
    assert set(summary["seconds"]) == {"environment", "act", "update", "optimizer", "diagnostics"}
    assert 0 < sum(summary["seconds"].values()) <= summary["wall_seconds"]
    assert summary["evaluation"]["episodes"] == 3
    assert summary["peak_memory_bytes"] > 1e7
    assert summary["health"]["verdict"] in LEVELS
    assert summary["health"]["interventions"] == []
    looked_at = [row for row in folder.read_metrics() if "update_ratio/head" in row]
    assert all(row["gradient_norm/head"] > 0 and "error_signal/network" in row for row in looked_at)
    assert looked_at
    assert RunConfig.from_json(folder.read_config()) == config
    assert folder.read_config()["provenance"]["versions"]["torch"] == torch.__version__
    rows = folder.read_metrics()
    assert rows[-1]["step"] == summary["env_steps"]
    assert rows[-1]["train/return"] == summary["final_return"]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    for layer in summary["layers"]:
        assert rows[0][f"gradient_norm/{layer}"] > 0
    assert summary["layers"] == [
        "torso.project",
        "torso.blocks.0.linear1",
        "torso.blocks.0.linear2",
        "torso.output.linear",
        "head",
    ]
    assert list(tmp_path.joinpath("run").glob("events.out.tfevents*"))


def test_env_steps_and_returns_count_transitions_and_whole_episodes(tmp_path, tiny_run, monkeypatch):
    """CartPole pays 1 a step: the raw return is the length, and resets are not steps."""
    seen = []
    original = interaction.make_vector_env

    def spy(*arguments, **options):
        env = original(*arguments, **options)
        step = env.step

        def recorded(action):
            result = step(action)
            seen.append(result)
            return result

        monkeypatch.setattr(env, "step", recorded)
        return env

    monkeypatch.setattr(interaction, "make_vector_env", spy)
    summary = train(tiny_run, tmp_path / "run", quiet=True)
    assert summary["env_steps"] == sum(result.valid.sum() for result in seen)
    finished = [result for result in seen if result.episode.finished.any()]
    assert summary["episodes"] == sum(result.episode.finished.sum() for result in finished)
    returns = np.concatenate([result.episode.returns[result.episode.finished] for result in finished])
    assert summary["final_return"] == pytest.approx(returns[-100:].mean())
    row = RunFolder(tmp_path / "run").read_metrics()[-1]
    assert row["train/episode_length"] == pytest.approx(row["train/return"])
    assert any((~result.valid).any() for result in seen)


def test_layers_are_those_with_a_weight_matrix_once_and_with_their_bias():
    config = default_run("pqn", "Breakout-v5").agent
    network = build_networks(config, environment_spec("Breakout-v5"))["q"]
    layers = find_layers({"": network})
    names, owner = layers.names, torch.tensor(layers.layer_of)
    assert names == [f"encoder.layers.conv{n}" for n in (1, 2, 3)] + [
        *(f"torso.layers.{n}.linear" for n in range(3)),
        "torso.output.linear",
        "head",
    ]
    parameters = [name for name, _ in network.named_parameters()]
    assert [names[i] if i >= 0 else None for i in owner.tolist()] == [
        None if "norm" in name else name.rpartition(".")[0] for name in parameters
    ]
    norms = torch.arange(1.0, len(parameters) + 1)[None]
    by_layer = norms_by_layer(norms, owner, len(names))
    first = [norms[0, parameters.index(f"encoder.layers.conv1.{part}")].item() for part in ("weight", "bias")]
    assert by_layer[0, 0].item() == pytest.approx(np.hypot(*first))


def test_the_learning_rate_of_a_rollout_is_that_of_its_start(tmp_path, tiny_run):
    config = dataclasses.replace(tiny_run, total_steps=64, log_every=1, checkpoint_every=None)
    assert config.agent.optimizer.schedule == "linear"
    train(config, tmp_path / "run", quiet=True)
    first, *_, last = RunFolder(tmp_path / "run").read_metrics() * 2
    assert first["optimizer/learning_rate"] == config.agent.optimizer.initial_learning_rate
    assert last["optimizer/learning_rate"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.kind": "nature"}, "needs image observations"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(tmp_path, tiny_run, change, message):
    config = dataclasses.replace(tiny_run, agent=apply_changes(tiny_run.agent, change))
    with pytest.raises(UsageError, match=message):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_global_random_streams_follow_from_seed_and_segment(tmp_path, tiny_run, monkeypatch):
    """A user's environment may draw from them: killed and resumed, it must draw the same."""
    (tmp_path / "drawing_env.py").write_text(
        "import random, gymnasium, numpy as np, torch\n"
        "class Drawing(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-9, 9, (3,), np.float32)\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return np.zeros(3, np.float32), {}\n"
        "    def step(self, action):\n"
        "        draws = [random.random(), np.random.rand(), float(torch.rand(()))]\n"
        "        return np.array(draws, np.float32), draws[0], draws[1] < 0.05, False, {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = dataclasses.replace(tiny_run, env="drawing_env:Drawing")
    train(config, tmp_path / "undisturbed", quiet=True)
    train_until(config, tmp_path / "killed", 10, monkeypatch)
    resume(tmp_path / "killed", quiet=True)
    same_run(tmp_path / "undisturbed", tmp_path / "killed")


def test_same_seed_same_run_other_seed_other_run(tmp_path, tiny_run):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(dataclasses.replace(tiny_run, seed=seed), tmp_path / name, quiet=True)
    same_run(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(final_weights(tmp_path / "a")["head.weight"], final_weights(tmp_path / "c")["head.weight"])


def with_optimizer_of(tiny_run, setting):
    optimizer = default_run("pqn", "CartPole-v1", setting).agent.optimizer
    return dataclasses.replace(tiny_run, agent=dataclasses.replace(tiny_run.agent, optimizer=optimizer))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_run):
    """Folders of undisturbed runs by the setting whose optimizer they have."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for setting in ("stable", "baseline"):
        train(with_optimizer_of(tiny_run, setting), folder / setting, quiet=True)
    return folder


# 1500 steps are some 24 rollouts of 64 rows: in the first segment, soon after each checkpoint, near the end.
@pytest.mark.parametrize(
    ("setting", "updates"), [("stable", 3), ("stable", 9), ("stable", 17), ("stable", 22), ("baseline", 9)]
)
def test_killed_and_resumed_is_never_stopped(tmp_path, tiny_run, undisturbed, monkeypatch, setting, updates):
    train_until(with_optimizer_of(tiny_run, setting), tmp_path / "killed", updates, monkeypatch)
    summary = resume(tmp_path / "killed", quiet=True)
    assert summary["status"] == "finished"
    same_run(undisturbed / setting, tmp_path / "killed")
    reference = RunFolder(undisturbed / setting).read_summary()
    for name in ("env_steps", "updates", "episodes", "final_return"):
        assert summary[name] == reference[name]


def test_resuming_a_finished_run_leaves_it_alone(tmp_path, tiny_run):
    first = train(tiny_run, tmp_path / "run", quiet=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert resume(tmp_path / "run", quiet=True) == json.loads(json.dumps(first))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on_from_it(tmp_path, tiny_run, monkeypatch, number, capsys):
    original = PQN.learn
    calls = 0

    def update(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(PQN, "learn", update)
    with pytest.raises(Interrupted, match=f"stopped by {number.name} .*stablegrad resume") as caught:
        train(tiny_run, tmp_path / "run", quiet=True)
    assert caught.value.exit_code == 130
    summary = RunFolder(tmp_path / "run").read_summary()
    assert summary["status"] == "stopped"
    (path,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(path)[1]["env_steps"] == summary["env_steps"]
    # Stopped right after the fifth rollout of 64 rows, of which a few carry only resets; 8 updates a rollout.
    assert 4 * 64 < summary["env_steps"] <= 5 * 64
    assert summary["updates"] == 5 * 8
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)

    monkeypatch.setattr(PQN, "learn", original)
    capsys.readouterr()
    summary = resume(tmp_path / "run")
    assert summary["status"] == "finished"
    assert summary["unscheduled_segments"] == [1]
    assert "outside the schedule" in capsys.readouterr().err


def test_weights_and_biases_gets_what_metrics_get(tmp_path, tiny_run, monkeypatch):
    """A stand-in for the package: it needs an account, and its client is not ours to test."""
    logged, state = [], {}
    fake = types.ModuleType("wandb")
    fake.Error = type("Error", (Exception,), {})
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: state.update(finished=True)
    )
    fake.init = lambda **options: state.update(options) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(dataclasses.replace(tiny_run, wandb="project", total_steps=500), tmp_path / "run", quiet=True)
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [step for step, _ in logged] == [row["step"] for row in rows]
    assert all(values.items() <= row.items() for (_, values), row in zip(logged, rows, strict=True))
    assert state["project"] == "project"
    assert state["finished"]

    def refuse(**_):
        raise fake.Error("no account")

    fake.init = refuse
    with pytest.raises(StablegradError, match="Weights & Biases did not start: no account"):
        train(dataclasses.replace(tiny_run, wandb="project"), tmp_path / "refused", quiet=True)


def test_a_missing_package_is_said_before_anything_is_written(tmp_path, tiny_run):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed here")
    with pytest.raises(UsageError, match=r"pip install 'stablegrad\[wandb\]'"):
        train(dataclasses.replace(tiny_run, wandb="project"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_device_that_is_not_here_goes_on_with_another(tmp_path, tiny_run, monkeypatch, capsys):
    train_until(tiny_run, tmp_path / "run", 10, monkeypatch)
    folder = RunFolder(tmp_path / "run")
    write_json(folder.config_path, folder.read_config() | {"device": "cuda:7"})
    for device, message in ((None, "CUDA devices; try --device "), ("cuda:99", "'cuda:99' is not there")):
        with pytest.raises(UsageError, match=message):
            resume(folder.path, quiet=True, device=device)
    assert resume(folder.path, device="cpu")["status"] == "finished"
    assert folder.read_config()["device"] == "cuda:7"
    assert "note" not in capsys.readouterr().err


def test_a_change_of_device_is_noted(tmp_path, tiny_run, monkeypatch, capsys):
    save = lifecycle.save_checkpoint
    with monkeypatch.context() as there:
        there.setattr(
            lifecycle,
            "save_checkpoint",
            lambda path, step, network, state, *rest, **options: save(
                path, step, network, {**state, "device": "cuda"}, *rest, **options
            ),
        )
        train_until(tiny_run, tmp_path / "run", 10, monkeypatch)
    resume(tmp_path / "run")
    said = capsys.readouterr().err
    assert re.search("note: trained by 1 process on cuda up to step 5.., from here on by 1 process on cpu", said)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:01", "cpu:1", "mps", "meta", "", "CPU", "cuda:1e9"])
def test_devices_that_are_none(name):
    with pytest.raises(UsageError, match=r"^unknown device '.*'; expected cpu, cuda, cuda:<n> or auto$"):
        resolve_device(name)


def test_two_processes_cannot_train_one_run(tmp_path, tiny_run):
    folder = RunFolder.create(tmp_path / "run", tiny_run.to_json())
    with folder.lock(), pytest.raises(UsageError, match="being trained by another process"):
        resume(tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)


def test_divergence_names_step_update_layer_and_checkpoint(tmp_path, tiny_run, monkeypatch):
    original = interaction.make_vector_env
    steps = 0

    def poisoned(*arguments, **options):
        env = original(*arguments, **options)
        step = env.step

        def huge(action):
            nonlocal steps
            steps += 1
            result = step(action)
            if steps < 200:
                return result
            fields = {name: getattr(result, name) for name in StepResult.__slots__}
            return StepResult(**{**fields, "reward": np.full_like(result.reward, 3e38)})

        monkeypatch.setattr(env, "step", huge)
        return env

    monkeypatch.setattr(interaction, "make_vector_env", poisoned)
    message = (
        r"diverged by step [\d,]+, in update [\d,]+: the gradient of layer 'head' is not finite "
        r".*last good checkpoint: '.*step-\d+'"
    )
    with pytest.raises(TrainingDiverged, match=message):
        train(tiny_run, tmp_path / "run", quiet=True)
    summary = RunFolder(tmp_path / "run").read_summary()
    assert summary["status"] == "failed"
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(path)[0].values())


def test_a_failing_environment_ends_the_run_as_failed(tmp_path, tiny_run, monkeypatch):
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
        "        value = np.nan if Faulty.steps > 800 else 0.0\n"
        "        return np.full(2, value, np.float32), 1.0, False, False, {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = dataclasses.replace(tiny_run, env="faulty_env:Faulty")
    with pytest.raises(EnvironmentFault, match="faulty_env:Faulty"):
        train(config, tmp_path / "run", quiet=True)
    summary = RunFolder(tmp_path / "run").read_summary()
    assert summary["status"] == "failed"
    assert summary["final_return"] is None
    assert summary["env_steps"] > 0


def test_a_full_disk_is_said_and_loses_nothing(tmp_path, tiny_run):
    """A real limit on file sizes, in a process of its own: the first checkpoint fits, metrics do not for ever."""
    folder = RunFolder.create(tmp_path / "run", dataclasses.replace(tiny_run, log_every=1, total_steps=4_000).to_json())
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "from stablegrad.cli.main import main\n"
        "sys.exit(main(['resume', sys.argv[1], '--quiet']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder.path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "cannot write run folder" in result.stderr
    assert "last good checkpoint" in result.stderr
    assert folder.read_summary()["status"] == "failed"
    assert resume(folder.path, quiet=True)["status"] == "finished"


def test_a_killed_process_leaves_readable_checkpoints_and_resumes_exactly(tmp_path, tiny_run):
    config = dataclasses.replace(tiny_run, total_steps=4_000)
    train(config, tmp_path / "undisturbed", quiet=True)
    folder = RunFolder.create(tmp_path / "killed", config.to_json())
    process = subprocess.Popen([sys.executable, "-m", "stablegrad", "resume", str(folder.path), "--quiet"])
    while not list_checkpoints(folder.checkpoints_path):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    for path in list_checkpoints(folder.checkpoints_path):
        load_checkpoint(path)
    resume(folder.path, quiet=True)
    same_run(tmp_path / "undisturbed", tmp_path / "killed")


def test_a_changed_network_is_refused(tmp_path, tiny_run, monkeypatch):
    train_until(tiny_run, tmp_path / "run", 20, monkeypatch)
    folder = RunFolder(tmp_path / "run")
    config = folder.read_config()
    config["agent"]["torso"]["width"] = 17
    folder.config_path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="another network"):
        resume(tmp_path / "run", quiet=True)


def test_a_changed_optimizer_is_refused(tmp_path, tiny_run, monkeypatch):
    train_until(tiny_run, tmp_path / "run", 20, monkeypatch)
    folder = RunFolder(tmp_path / "run")
    config = folder.read_config()
    config["agent"]["optimizer"]["name"] = "radam"
    folder.config_path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="optimizer"):
        resume(tmp_path / "run", quiet=True)


def test_folders_that_will_not_do_are_refused_before_anything_is_written(tmp_path, tiny_run):
    train(dataclasses.replace(tiny_run, total_steps=64), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="already holds a run; continue it with 'stablegrad resume"):
        train(tiny_run, tmp_path / "run", quiet=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        train(tiny_run, tmp_path / "full", quiet=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write run folder"):
        train(tiny_run, tmp_path / "file" / "run", quiet=True)
    with pytest.raises(UsageError, match="no run folder"):
        resume(tmp_path / "nothing", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "run"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["agent"].update(num_env=3), "did you mean 'num_envs'"),
        (lambda c: c.update(total_steps="many"), "config.total_steps should be int, got 'many'"),
        (lambda c: c.pop("env"), "missing 1 required"),
        (lambda c: c.update(format=99), "format 99"),
        (lambda c: c["agent"].update(torso=3), "config.agent.torso should be a JSON object"),
    ],
)
def test_an_edited_config_is_refused(tmp_path, tiny_run, change, message):
    folder = RunFolder.create(tmp_path / "run", tiny_run.to_json())
    config = folder.read_config()
    change(config)
    folder.config_path.write_text(json.dumps(config))
    with pytest.raises(StablegradError, match=message):
        resume(folder.path, quiet=True)


def test_cartpole_is_learned(tmp_path):
    """Real training. A random policy gets 22; 40k steps gave 124 to 138 over 3 seeds."""
    config = dataclasses.replace(default_run("pqn", "CartPole-v1"), total_steps=40_000, threads=1, eval_episodes=10)
    summary = train(config, tmp_path / "run", quiet=True)
    assert summary["evaluation"]["mean_return"] > 60

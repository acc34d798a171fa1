"""The loop beside a plain one, exact resume from anywhere, stops and failures."""

import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from stablegrad.errors import CheckpointError, StablegradError, TrainingDiverged, UsageError
from stablegrad.hardware import flushes_denormals
from stablegrad.optimizers import OptimizerConfig
from stablegrad.supervised import (
    Classifier,
    SupervisedConfig,
    load_data,
    phase_labels,
    resume_supervised,
    train_supervised,
)
from stablegrad.supervised.relabelling import Relabelling
from stablegrad.supervised.seeds import Stream, torch_seed
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.interruption import Interrupted
from stablegrad.training.run_folder import RunFolder

TIMES = {"wall_seconds", "speed/images_per_second"}


def final_weights(run_dir):
    return load_checkpoint(list_checkpoints(run_dir / "checkpoints")[-1])[0]


def metrics(run_dir):
    rows = RunFolder(run_dir).read_metrics()
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def same_run(first, second):
    """Bit for bit: weights, and every figure that is not a time."""
    a, b = final_weights(first), final_weights(second)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert metrics(first) == metrics(second)
    one, other = (RunFolder(run).read_summary() for run in (first, second))
    assert (one["phases"], one["relearning"]) == (other["phases"], other["relearning"])


class Killed(BaseException):
    pass


def interrupting(monkeypatch, updates, act):
    """Call ``act`` in the middle of the run's update of that number, counted from 1."""
    original = Relabelling._update
    calls = 0

    def update(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == updates:
            act()
        return original(self, *arguments)

    monkeypatch.setattr(Relabelling, "_update", update)


def kill():
    raise Killed


def test_the_run_folder_is_as_documented(tmp_path, tiny_run):
    summary = train_supervised(tiny_run, tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    assert folder.read_summary() == json.loads(json.dumps(summary))
    assert SupervisedConfig.from_json(folder.read_config()) == tiny_run
    assert (summary["status"], summary["epochs"], summary["updates"]) == ("finished", 9, 36)
    assert summary["parameters"] == sum(
        parameter.numel() for parameter in Classifier(tiny_run, load_data(tiny_run.data)).parameters()
    )
    assert summary["peak_memory_bytes"] > 1e7
    assert 0 < summary["seconds"]["optimizer"] + summary["seconds"]["update"] <= summary["wall_seconds"]
    assert summary["layers"] == [
        *(f"encoder.conv{number}" for number in range(1, 7)),
        "torso.project",
        "torso.blocks.0.linear1",
        "torso.blocks.0.linear2",
        "torso.output.linear",
        "head",
    ]
    rows = folder.read_metrics()
    assert [row["step"] for row in rows] == list(range(4, 40, 4))
    assert [row["train/epoch"] for row in rows] == list(range(1, 10))
    assert [row["train/phase"] for row in rows] == [0] * 3 + [1] * 3 + [2] * 3
    assert all(row[f"gradient_norm/{layer}"] > 0 for row in rows for layer in summary["layers"])
    assert rows[-1]["train/accuracy"] == summary["final_accuracy"] == summary["phases"][-1]["train_accuracy"]
    names = [path.name for path in list_checkpoints(folder.checkpoints_path)]
    assert names == ["step-8", "step-16", "step-24", "step-32", "step-36"]
    assert list(folder.path.glob("events.out.tfevents*"))


def test_there_is_a_test_accuracy_only_while_labels_mean_something(tmp_path, tiny_run):
    summary = train_supervised(tiny_run, tmp_path / "run", quiet=True)
    rows = metrics(tmp_path / "run")
    assert ["test/accuracy" in row for row in rows] == [True] * 3 + [False] * 6
    assert [phase["test_accuracy"] for phase in summary["phases"]] == [rows[2]["test/accuracy"], None, None]
    stays = dataclasses.replace(tiny_run, reshuffle_every=0)
    summary = train_supervised(stays, tmp_path / "stays", quiet=True)
    assert all("test/accuracy" in row for row in metrics(tmp_path / "stays"))
    assert summary["relearning"]["mean_final_accuracy"] is None


def test_the_loop_is_a_plain_one(tmp_path, tiny_run):
    """Against torch's own parts in the order of the textbook: batches, labels, losses, norms, clipping, accuracy."""
    optimizer = OptimizerConfig(name="adam", adam_learning_rate=3e-3, schedule="linear")
    config = dataclasses.replace(tiny_run, optimizer=optimizer, max_grad_norm=0.5, batch_size=7)
    train_supervised(config, tmp_path / "run", quiet=True)
    data = load_data(config.data)
    images = len(data.train_labels)
    assert images % 7  # the last batch of an epoch is smaller
    torch.manual_seed(torch_seed(config.seed, Stream.WEIGHTS))
    network = Classifier(config, data)
    adam = torch.optim.Adam(network.parameters(), lr=3e-3, fused=True)
    for epoch, row in enumerate(metrics(tmp_path / "run")):
        phase = epoch // 3
        labels = phase_labels(data.train_labels, config.seed, phase)
        torch.manual_seed(torch_seed(config.seed, Stream.DROPOUT, epoch))
        generator = torch.Generator().manual_seed(torch_seed(config.seed, Stream.BATCHES, epoch))
        order = torch.randperm(images, generator=generator).tolist()
        adam.param_groups[0]["lr"] = 3e-3 * (1 - epoch / 9)
        losses, right, totals, heads = 0.0, 0, [], []
        for start in range(0, images, 7):
            rows = order[start : start + 7]
            network.train()
            logits = network(data.train_images[rows])
            loss = F.cross_entropy(logits, labels[rows])
            adam.zero_grad()
            loss.backward()
            heads.append(torch.cat([parameter.grad.flatten() for parameter in network.head.parameters()]).norm())
            totals.append(torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5))
            adam.step()
            losses += loss.item() * len(rows)
            right += (logits.argmax(dim=1) == labels[rows]).sum().item()
        assert row["train/accuracy"] == right / images
        assert row["loss/cross_entropy"] == pytest.approx(losses / images, rel=1e-5)
        assert row["gradients/norm"] == pytest.approx(torch.stack(totals).mean().item(), rel=1e-5)
        assert row["gradient_norm/head"] == pytest.approx(torch.stack(heads).mean().item(), rel=1e-5)
        assert row["optimizer/learning_rate"] == pytest.approx(3e-3 * (1 - epoch / 9))
        if phase == 0:
            network.eval()
            with torch.no_grad():
                right = (network(data.test_images).argmax(dim=1) == data.test_labels).sum().item()
            assert row["test/accuracy"] == right / len(data.test_labels)
    assert max(totals) > 0.5


def test_digits_are_learned(tmp_path):
    """Real training: seeds 1 to 3 had training accuracies of 0.974 to 0.983 and test accuracies of 0.961 to 0.981."""
    optimizer = OptimizerConfig(adam_learning_rate=1e-3)
    config = SupervisedConfig(epochs=8, reshuffle_every=0, batch_size=32, optimizer=optimizer, threads=1)
    config = dataclasses.replace(config, torso=dataclasses.replace(config.torso, width=64))
    summary = train_supervised(config, tmp_path / "run", quiet=True)
    assert summary["final_accuracy"] > 0.95
    (phase,) = summary["phases"]
    assert phase["test_accuracy"] > 0.93
    assert phase["epochs_to_learn"] is not None


def test_relearning_is_counted_from_the_reshuffle(tmp_path, tiny_run):
    """With an accuracy that everyone reaches, each phase is learned in its first epoch, and said once."""
    summary = train_supervised(dataclasses.replace(tiny_run, relearn_accuracy=1e-9), tmp_path / "run", quiet=True)
    rows = metrics(tmp_path / "run")
    if all(row["train/accuracy"] > 0 for row in rows):
        assert [row.get("relearning/epochs") for row in rows] == [None] * 3 + [1, None, None] * 2
        assert summary["relearning"]["mean_epochs"] == 1.0
    never = train_supervised(dataclasses.replace(tiny_run, relearn_accuracy=1.0), tmp_path / "never", quiet=True)
    expected = [
        next((number for number, row in enumerate(rows[first : first + 3], 1) if row["train/accuracy"] == 1.0), None)
        for first in (3, 6)
    ]
    assert [phase["epochs_to_learn"] for phase in never["phases"][1:]] == expected == [None, None]
    assert not any("relearning/epochs" in row for row in metrics(tmp_path / "never"))


def test_the_seed_decides_everything(tmp_path, tiny_run):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(list(tmp_path.iterdir())))
        train_supervised(dataclasses.replace(tiny_run, seed=seed), tmp_path / name, quiet=True)
    same_run(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


def test_the_random_numbers_of_the_program_are_left_alone(tmp_path, tiny_run):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_supervised(tiny_run, tmp_path / "run", quiet=True)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("optimizer", "updates"), [("radam", 3), ("radam", 11), ("radam", 30), ("kron", 30)])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, tiny_run, monkeypatch, optimizer, updates):
    """Before the first checkpoint, after one, within the last phase; checkpoints are 8 updates apart."""
    config = dataclasses.replace(tiny_run, optimizer=OptimizerConfig(name=optimizer))
    train_supervised(config, tmp_path / "undisturbed", quiet=True)
    with monkeypatch.context() as patch:
        interrupting(patch, updates, kill)
        with pytest.raises(Killed):
            train_supervised(config, tmp_path / "killed", quiet=True)
    assert resume_supervised(tmp_path / "killed", quiet=True)["status"] == "finished"
    same_run(tmp_path / "undisturbed", tmp_path / "killed")


@pytest.mark.parametrize(
    ("optimizer", "updates", "epochs"),
    [("radam", 6, 1), ("radam", 16, 4), ("radam", 34, 8), ("kron", 6, 1)],
)
def test_a_stopped_run_keeps_its_work_and_resumes_bit_for_bit(
    tmp_path, tiny_run, monkeypatch, optimizer, updates, epochs
):
    """Also within an epoch, with its dropout; a stop is no event that the results would show."""
    config = dataclasses.replace(tiny_run, optimizer=OptimizerConfig(name=optimizer))
    train_supervised(config, tmp_path / "undisturbed", quiet=True)
    with monkeypatch.context() as patch:
        interrupting(patch, updates, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=rf"stopped by SIGTERM at update {updates}") as stop:
            train_supervised(config, tmp_path / "stopped", quiet=True)
    assert stop.value.exit_code == 130
    folder = RunFolder(tmp_path / "stopped")
    summary = folder.read_summary()
    assert (summary["status"], summary["updates"], summary["epochs"]) == ("stopped", updates, epochs)
    assert list_checkpoints(folder.checkpoints_path)[-1].name == f"step-{updates}"
    assert len(folder.read_metrics()) == epochs
    resume_supervised(folder.path, quiet=True)
    same_run(tmp_path / "undisturbed", folder.path)


def test_a_finished_run_is_left_as_it_is(tmp_path, tiny_run):
    summary = train_supervised(tiny_run, tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert resume_supervised(tmp_path / "run", quiet=True) == summary
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


class NoWait(TorchDispatchMode):
    """Fails where a number is taken from a tensor, or a tensor's shape depends on its numbers."""

    WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in self.WAITS, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_within_an_epoch(tmp_path, tiny_run, monkeypatch):
    with pytest.raises(AssertionError, match="waits for the device"), NoWait():
        torch.ones(1).item()
    original = Relabelling._run_batches

    def watched(self, run):
        with NoWait():
            original(self, run)

    monkeypatch.setattr(Relabelling, "_run_batches", watched)
    config = dataclasses.replace(tiny_run, optimizer=OptimizerConfig(name="sgd"), max_grad_norm=1.0)
    assert train_supervised(config, tmp_path / "run", quiet=True)["status"] == "finished"


def test_divergence_names_epoch_update_layer_and_checkpoint(tmp_path, tiny_run, monkeypatch):
    def poison(self, images, original=Relabelling._logits):
        logits = original(self, images)
        return logits * float("nan") if self.network.training and self.updates == 10 else logits

    monkeypatch.setattr(Relabelling, "_logits", poison)
    message = r"diverged in epoch 3, in update 11: the gradient of layer 'head' is not finite .*checkpoint: '.*step-8'"
    with pytest.raises(TrainingDiverged, match=message):
        train_supervised(tiny_run, tmp_path / "run", quiet=True)
    summary = RunFolder(tmp_path / "run").read_summary()
    assert (summary["status"], summary["epochs"]) == ("failed", 2)
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(path)[0].values())


def test_a_learning_rate_that_is_far_too_high_is_said(tmp_path, tiny_run):
    config = dataclasses.replace(tiny_run, optimizer=OptimizerConfig(name="sgd", learning_rate=1e30))
    with pytest.raises(TrainingDiverged, match="there is no checkpoint yet; try a lower"):
        train_supervised(config, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "nowhere"}, "no data set '.*nowhere'"),
        ({"epochs": 3}, "reshuffle-every 3 never comes in 3 epochs"),
        ({"data_limit": 31}, "data-limit must be from 1 to 30"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"data": "digits", "encoder": {"kind": "none", "dropout": 0.5}}, "are for the cnn encoder"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path, tiny_run, change, message):
    if "encoder" in change:
        change = {**change, "encoder": dataclasses.replace(tiny_run.encoder, **change["encoder"])}
    with pytest.raises(UsageError, match=message):
        train_supervised(dataclasses.replace(tiny_run, **change), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_finds_its_data_from_every_folder(tmp_path, tiny_run, images_folder, monkeypatch):
    monkeypatch.chdir(images_folder.parent)
    with monkeypatch.context() as patch:
        interrupting(patch, 10, kill)
        with pytest.raises(Killed):
            train_supervised(dataclasses.replace(tiny_run, data="images"), tmp_path / "run", quiet=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume_supervised(tmp_path / "run", quiet=True)["status"] == "finished"


def test_other_data_networks_and_optimizers_are_refused(tmp_path, tiny_run, images_folder, monkeypatch):
    interrupting(monkeypatch, 20, kill)
    with pytest.raises(Killed):
        train_supervised(tiny_run, tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    config = folder.read_config()
    for path, value, error, message in (
        (("torso", "width"), 17, CheckpointError, "another network"),
        (("optimizer", "name"), "kron", CheckpointError, "does not fit this run's optimizer"),
        (("data_limit",), 29, UsageError, "are not those that this run began with"),
        (("algorithm",), "pqn", StablegradError, "should be 'supervised'"),
    ):
        edited = json.loads(json.dumps(config))
        inner = edited
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        folder.config_path.write_text(json.dumps(edited))
        with pytest.raises(error, match=message):
            resume_supervised(folder.path, quiet=True)
    folder.config_path.write_text(json.dumps(config))
    labels = images_folder / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    with pytest.raises(UsageError, match="are not those that this run began with"):
        resume_supervised(folder.path, quiet=True)


def test_only_one_process_trains_a_run(tmp_path, tiny_run):
    folder = RunFolder.create(tmp_path / "run", tiny_run.to_json())
    with folder.lock(), pytest.raises(UsageError, match="being trained by another process"):
        resume_supervised(folder.path, quiet=True)
    assert resume_supervised(folder.path, quiet=True)["status"] == "finished"


def test_bf16_changes_rounding_only(tmp_path, tiny_run):
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(tiny_run, precision=precision)
        train_supervised(config, tmp_path / precision, quiet=True)
    exact, rounded = metrics(tmp_path / "fp32")[0], metrics(tmp_path / "bf16")[0]
    assert exact["loss/cross_entropy"] != rounded["loss/cross_entropy"]
    assert exact["loss/cross_entropy"] == pytest.approx(rounded["loss/cross_entropy"], rel=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in final_weights(tmp_path / "bf16").values())


def test_a_run_flushes_denormals_and_the_process_does_not_afterwards(tiny_run, tmp_path):
    seen = []
    handle = register_optimizer_step_pre_hook(lambda *arguments: seen.append(flushes_denormals()))
    try:
        train_supervised(tiny_run, tmp_path / "run", quiet=True)
        (tmp_path / "run" / "summary.json").unlink()
        steps = len(seen)
        shutil.rmtree(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
        resume_supervised(tmp_path / "run", quiet=True)
    finally:
        handle.remove()
    assert 0 < steps < len(seen)
    assert all(seen)
    assert not flushes_denormals()

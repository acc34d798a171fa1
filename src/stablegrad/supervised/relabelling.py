"""A classifier on labels that change: epochs of minibatches, and what is logged of them.

The whole data set lies on the device, and batches are rows of it; metrics stay there until their epoch ends, so nothing
waits for the device within one. Every epoch draws its batches and its dropout from (run seed, epoch), and labels follow
from (run seed, phase); so a run that was stopped anywhere and resumed ends bit for bit like one that was not (same
machine, CPU, same thread count). A stop within an epoch keeps that epoch's random state in the checkpoint.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.errors import UsageError
from stablegrad.hardware import denormals_flushed
from stablegrad.networks import parameter_count
from stablegrad.optimizers import clip_gradient_norm_
from stablegrad.optimizers.saved import load_state
from stablegrad.supervised.config import SupervisedConfig
from stablegrad.supervised.data import DIGITS, DataSet, load_data
from stablegrad.supervised.labels import phase_labels, phase_of, summarize_phases, summarize_relearning
from stablegrad.supervised.network import Classifier
from stablegrad.supervised.seeds import Stream, torch_seed
from stablegrad.training.config import resolve_device
from stablegrad.training.lifecycle import Lifecycle
from stablegrad.training.resources import Resources
from stablegrad.training.run_folder import RunFolder
from stablegrad.training.update_metrics import UpdateMetrics

EVALUATION_BATCH = 1000
LOSS, CORRECT = "loss/cross_entropy", "train/correct"


@denormals_flushed()
def train_supervised(config: SupervisedConfig, run_dir: Path | str, *, quiet: bool = False) -> dict[str, Any]:
    """Train a classifier in a new run folder.

    Args:
        config: what to train, on which labels.
        run_dir: a folder that does not exist yet or is empty.
        quiet: show no progress.

    Returns:
        The run's summary, as in summary.json.

    Raises:
        UsageError: the configuration, the data or the folder cannot be used; nothing was written.
        StablegradError: the run failed; summary.json says "failed".
        Interrupted: SIGINT or SIGTERM; a checkpoint was written and summary.json says "stopped".
    """
    if config.data != DIGITS:
        config = dataclasses.replace(config, data=str(Path(config.data).absolute()))
    data = _checked_data(config)
    folder = RunFolder.create(run_dir, config.to_json())
    return _run(folder, config, data, quiet=quiet, clean_stop=True)


@denormals_flushed()
def resume_supervised(
    run_dir: Path | str, *, quiet: bool = False, clean_stop: bool = True, device: str | None = None
) -> dict[str, Any]:
    """Continue a run from its newest checkpoint, or from its start where it has none yet.

    A finished run is left as it is, and its summary returned. Raises what ``train_supervised`` raises.

    Args:
        run_dir: the run's folder.
        quiet: show no progress.
        clean_stop: write a checkpoint on SIGINT and SIGTERM; else they do what they did before.
        device: train on this one from here on, whatever config.json says; None: on the run's.
    """
    folder = RunFolder(run_dir)
    config = SupervisedConfig.from_json(folder.read_config())
    summary = folder.read_summary()
    if summary is not None and summary.get("status") == "finished":
        return summary
    if device is not None:
        config = dataclasses.replace(config, device=device)
    return _run(folder, config, _checked_data(config), quiet=quiet, clean_stop=clean_stop)


def _checked_data(config: SupervisedConfig) -> DataSet:
    """The data, once all is known to fit together: schedule, device, network."""
    resolve_device(config.device)
    _ = config.reshuffles
    data = load_data(config.data, config.data_limit)
    parameter_count(lambda: Classifier(config, data))
    return data


def _run(
    folder: RunFolder, config: SupervisedConfig, data: DataSet, *, quiet: bool, clean_stop: bool
) -> dict[str, Any]:
    resources = Resources.claim(config.device, config.threads, ("update", "optimizer"))
    loop = Relabelling(config, data, resources)
    run = Lifecycle(folder, config.to_json(), loop, resources, keep_checkpoints=config.keep_checkpoints, quiet=quiet)
    with torch.random.fork_rng([resources.device] if resources.device.type == "cuda" else []):
        return run.run(clean_stop=clean_stop)


class Relabelling:
    """A ``Loop``: a classifier learns labels, which are reshuffled now and then."""

    agent = None
    shown, digits = "accuracy", 3

    def __init__(self, config: SupervisedConfig, data: DataSet, resources: Resources):
        self.config = config
        self.device, self.timer = resources.device, resources.timer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(config.seed, Stream.WEIGHTS))
            self.network = Classifier(config, data).to(self.device)
        self.parameters = list(self.network.parameters())
        self.optimizer = config.optimizer.build(self.network)
        self.networks: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, Optimizer] = {"network": self.optimizer}
        self.metrics = UpdateMetrics(self.networks)
        self.layers = self.metrics.layers
        self.data_checksum = data.checksum()
        self.data = data.to(self.device)
        self.reshuffles = config.reshuffles
        self.batches = -(-len(data.train_labels) // config.batch_size)
        self.total_steps = config.epochs * self.batches
        self.epoch = 0
        self.batch = 0
        self.train_accuracy: list[float] = []
        self.test_accuracy: list[float | None] = []
        self._random_state: dict[str, Tensor | None] | None = None

    @property
    def updates(self) -> int:
        """Optimizer steps so far."""
        return self.epoch * self.batches + self.batch

    @property
    def step(self) -> int:  # noqa: D102  # as in Loop, like all without a docstring here
        return self.updates

    @property
    def position(self) -> str:  # noqa: D102
        return f"update {self.updates:,}"

    def advance(self, run: Lifecycle) -> None:
        """To the next epoch after which a checkpoint is due, or to where the run is asked to stop."""
        while self.epoch < self.config.epochs:
            started, first_batch = time.perf_counter(), self.batch
            self._run_batches(run)
            if self.batch == self.batches:
                images = len(self.data.train_labels) - first_batch * self.config.batch_size
                self._finish_epoch(run, images / (time.perf_counter() - started))
            elif self.batch:
                taken = {name: values.cpu() for name, values in self.metrics.stacked().items()}
                self._check_finite(taken, run)
            if run.stops or (self.batch == 0 and self.epoch % self.config.checkpoint_interval == 0):
                return

    def _run_batches(self, run: Lifecycle) -> None:
        """To the end of the epoch, or to where the run is asked to stop."""
        config, data = self.config, self.data
        torch.manual_seed(torch_seed(config.seed, Stream.DROPOUT, self.epoch))
        if self._random_state is not None:
            self._set_random_state(self._random_state)
            self._random_state = None
        # Drawn on the CPU, so that the batches are the same on every device.
        generator = torch.Generator().manual_seed(torch_seed(config.seed, Stream.BATCHES, self.epoch))
        order = torch.randperm(len(data.train_labels), generator=generator).to(self.device)
        labels = phase_labels(data.train_labels, config.seed, phase_of(self.epoch, self.reshuffles))
        config.optimizer.set_learning_rate(self.optimizer, self.epoch / config.epochs)
        self.network.train()
        with self.timer.part("update"):
            for rows in order.split(config.batch_size)[self.batch :]:
                self._update(data.train_images[rows], labels[rows])
                self.batch += 1
                if self.batch < self.batches:
                    run.progress.update(self.updates, self.train_accuracy[-1] if self.train_accuracy else None)
                if run.stops:
                    break

    def _update(self, images: Tensor, labels: Tensor) -> None:
        """One optimizer step; its metrics are kept on the device."""
        logits = self._logits(images)
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        total, norms = clip_gradient_norm_(self.parameters, self.config.max_grad_norm or float("inf"))
        self.optimizer.step()
        correct = (logits.argmax(dim=1) == labels).sum()
        taken = {LOSS: loss.detach(), CORRECT: correct, "gradients/network": total, "parameter_norms/network": norms}
        self.metrics.add({name: value[None] for name, value in taken.items()})

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.network(images).float()

    @torch.no_grad()
    def _test(self) -> float:
        """Accuracy on the test images, without dropout."""
        self.network.eval()
        data = self.data
        batches = zip(data.test_images.split(EVALUATION_BATCH), data.test_labels.split(EVALUATION_BATCH), strict=True)
        correct = [(self._logits(images).argmax(dim=1) == labels).sum() for images, labels in batches]
        return torch.stack(correct).sum().item() / len(data.test_labels)

    def _finish_epoch(self, run: Lifecycle, images_per_second: float) -> None:
        """Fetch the epoch's metrics, once, check that they are finite, and write them."""
        taken = self.metrics.take()
        self._check_finite(taken, run)
        phase = phase_of(self.epoch, self.reshuffles)
        images = len(self.data.train_labels)
        sizes = torch.full((self.batches,), self.config.batch_size, dtype=torch.float64)
        sizes[-1] = images - (self.batches - 1) * self.config.batch_size
        accuracy = taken.pop(CORRECT).sum().item() / images
        self.train_accuracy.append(accuracy)
        self.test_accuracy.append(None if phase else self._test())
        values: dict[str, float | None] = {
            "train/epoch": self.epoch + 1,
            "train/phase": phase,
            "train/accuracy": accuracy,
            "test/accuracy": self.test_accuracy[-1],
            **self.metrics.reduce(taken),
            # The last batch may be smaller.
            LOSS: (taken[LOSS].double() @ sizes).item() / images,
            "relearning/epochs": self._relearned(phase),
            "speed/images_per_second": images_per_second,
            "optimizer/learning_rate": float(self.optimizer.param_groups[0]["lr"]),
        }
        self.epoch, self.batch = self.epoch + 1, 0
        run.log({name: value for name, value in values.items() if value is not None}, accuracy)

    def _check_finite(self, taken: Mapping[str, Tensor], run: Lifecycle) -> None:
        self.metrics.check_finite(taken, self.updates, f"in epoch {self.epoch + 1}", run.last_good)

    def _relearned(self, phase: int) -> int | None:
        """Epochs since the last reshuffle if this one is the first in which the new labels are learned, else None."""
        if phase == 0:
            return None
        *before, last = self.train_accuracy[self.reshuffles[phase - 1] :]
        threshold = self.config.relearn_accuracy
        return len(before) + 1 if last >= threshold and not any(value >= threshold for value in before) else None

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        within_epoch = self.batch > 0
        return {
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "metrics": self.metrics.stacked() if within_epoch else None,
            "random_state": self._get_random_state() if within_epoch else None,
            "train_accuracy": self.train_accuracy,
            "test_accuracy": self.test_accuracy,
            "data_checksum": self.data_checksum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        if state["data_checksum"] != self.data_checksum:
            raise UsageError(f"the training data of '{self.config.data}' are not those that this run began with")
        load_state(self.optimizer, state["optimizer"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        if self.batch:
            self.metrics.add({name: values.to(self.device) for name, values in state["metrics"].items()})
            self._random_state = state["random_state"]
        self.train_accuracy, self.test_accuracy = state["train_accuracy"], state["test_accuracy"]

    def _get_random_state(self) -> dict[str, Tensor | None]:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def _set_random_state(self, state: dict[str, Tensor | None]) -> None:
        if state["cpu"] is not None:
            torch.set_rng_state(state["cpu"])
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def finish(self, run: Lifecycle) -> dict[str, Any]:  # noqa: D102
        return {}

    def summary(self, wall_seconds: float) -> dict[str, Any]:  # noqa: D102
        config = self.config
        phases = summarize_phases(
            self.train_accuracy, self.test_accuracy, self.reshuffles, config.epochs, config.relearn_accuracy
        )
        return {
            "algorithm": config.algorithm,
            "data": config.data,
            "preset": config.preset,
            "seed": config.seed,
            "epochs": self.epoch,
            "final_accuracy": self.train_accuracy[-1] if self.train_accuracy else None,
            "phases": phases,
            "relearning": summarize_relearning(phases),
        }

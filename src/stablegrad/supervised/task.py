"""The training loop: epochs of minibatches, labels that change, checkpoints, a clean stop, and exact resume.

The whole data set lies on the device, and batches are rows of it; figures stay there until their epoch ends, so nothing
waits for the device within one. Every epoch draws its batches and its dropout from (run seed, epoch), and labels follow
from (run seed, phase); so a run that was stopped anywhere and resumed ends bit for bit like one that was not (same
machine, CPU, same thread count). A stop within an epoch keeps that epoch's random state in the checkpoint.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stablegrad.diagnostics.layers import find_layers
from stablegrad.errors import CheckpointError, StablegradError, TrainingDiverged, UsageError, command
from stablegrad.files import write_json
from stablegrad.hardware import denormals_flushed, used_memory
from stablegrad.networks import parameter_count
from stablegrad.optimizers import clip_gradient_norm_
from stablegrad.optimizers.saved import load_state
from stablegrad.supervised.config import ALGORITHM, SupervisedConfig
from stablegrad.supervised.data import DIGITS, DataSet, load_data
from stablegrad.supervised.labels import phase_labels, phase_of, summarize_phases, summarize_relearning
from stablegrad.supervised.network import Classifier
from stablegrad.supervised.seeds import Stream, torch_seed
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, load_weights, save_checkpoint
from stablegrad.training.config import resolve_device, usable_cores
from stablegrad.training.interruption import Interrupted, stop_signals
from stablegrad.training.metrics import MetricsWriter
from stablegrad.training.progress import TrainingProgress
from stablegrad.training.run_folder import RunFolder
from stablegrad.training.timing import PartTimer
from stablegrad.training.trainer import by_layer
from stablegrad.training.tuning import keep_freed_memory

EVALUATION_BATCH = 1000
#: What is kept of every update until its epoch ends: the batch's mean loss and right answers; norms before clipping.
FIGURES = ("loss", "correct", "gradient_norm", "parameter_norms")


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
    return SupervisedTrainer(folder, config, data, quiet=quiet).run()


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
    return SupervisedTrainer(folder, config, _checked_data(config), quiet=quiet).run(clean_stop=clean_stop)


def _checked_data(config: SupervisedConfig) -> DataSet:
    """The data, once all is known to fit together: schedule, device, network."""
    resolve_device(config.device)
    _ = config.reshuffles
    data = load_data(config.data, config.data_limit)
    parameter_count(lambda: Classifier(config, data))
    return data


class SupervisedTrainer:
    """One process's work on one run folder."""

    def __init__(self, folder: RunFolder, config: SupervisedConfig, data: DataSet, *, quiet: bool = False):
        self.folder = folder
        self.config = config
        self.quiet = quiet
        self.device = resolve_device(config.device)
        torch.set_num_threads(config.threads or usable_cores())
        if self.device.type == "cpu":
            keep_freed_memory()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(config.seed, Stream.WEIGHTS))
            self.network = Classifier(config, data).to(self.device)
        self.parameters = list(self.network.parameters())
        self.optimizer = config.optimizer.build(self.network)
        layers = find_layers({"": self.network})
        self.layers, self.layer_of_parameter = layers.names, torch.tensor(layers.layer_of)
        self.data_checksum = data.checksum()
        self.data = data.to(self.device)
        self.reshuffles = config.reshuffles
        self.batches = -(-len(data.train_labels) // config.batch_size)
        self.timer = PartTimer(self.device)
        with self.timer.timing(self.optimizer):
            pass

        self.epoch = 0
        self.batch = 0
        self.figures: dict[str, list[Tensor]] = {name: [] for name in FIGURES}
        self.train_accuracy: list[float] = []
        self.test_accuracy: list[float | None] = []
        self.wall_seconds = 0.0
        self.last_checkpoint: Path | None = None
        self._random_state: dict[str, Tensor | None] | None = None
        self._metrics_position: int | None = None
        self._signals: list[int] = []

    @property
    def updates(self) -> int:
        """Optimizer steps so far."""
        return self.epoch * self.batches + self.batch

    def run(self, *, clean_stop: bool = True) -> dict[str, Any]:
        """Train to the end; writes summary.json however it ends."""
        devices = [self.device] if self.device.type == "cuda" else []
        signals: AbstractContextManager[list[int]] = stop_signals(second_ends=True) if clean_stop else nullcontext([])
        try:
            with (
                self.folder.lock(),
                signals as self._signals,
                torch.random.fork_rng(devices),
            ):
                self._restore()
                return self._run()
        except OSError as error:
            raise StablegradError(
                f"cannot write run folder '{self.folder.path}' in epoch {self.epoch + 1}: "
                f"{error.strerror or error}; {self._checkpoint_text()}"
            ) from error

    def _run(self) -> dict[str, Any]:
        self._started = time.perf_counter() - self.wall_seconds
        try:
            self._train()
            return self._write_summary("finished")
        except (Interrupted, KeyboardInterrupt) as stop:
            self._write_summary_if_possible("stopped", stop)
            raise
        except (StablegradError, OSError, RuntimeError, MemoryError) as error:
            self._write_summary_if_possible("failed", error)
            raise

    def _train(self) -> None:
        # A run that was killed before its first checkpoint starts over, and what it logged is void.
        started_before = self._metrics_position is not None or self.folder.metrics_path.exists()
        resume_at = (self._metrics_position or 0, self.epoch * self.batches) if started_before else None
        epochs = self.config.epochs
        self.writer = MetricsWriter(self.folder, resume_at=resume_at)
        self.progress = TrainingProgress(
            epochs * self.batches, self.updates, quiet=self.quiet, figure="accuracy", digits=3
        )
        try:
            while self.epoch < epochs:
                started, first_batch = time.perf_counter(), self.batch
                self._run_batches()
                if self.batch == self.batches:
                    images = len(self.data.train_labels) - first_batch * self.config.batch_size
                    self._finish_epoch(images / (time.perf_counter() - started))
                due = self.epoch % self.config.checkpoint_interval == 0 or self.epoch == epochs
                asked = bool(self._signals)
                if (due and self.batch == 0) or asked:
                    self._checkpoint()
                if asked and self.epoch < epochs:
                    raise Interrupted(
                        f"stopped by {signal.Signals(self._signals[0]).name} after {self.updates:,} updates; continue "
                        f"with '{command('resume', self.folder.path)}'"
                    )
        finally:
            self.progress.close()
            self.writer.close()

    def _run_batches(self) -> None:
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
                    self.progress.update(self.updates, self.train_accuracy[-1] if self.train_accuracy else None)
                if self._signals:
                    break

    def _update(self, images: Tensor, labels: Tensor) -> None:
        """One optimizer step; its figures are kept on the device."""
        logits = self._logits(images)
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        total, norms = clip_gradient_norm_(self.parameters, self.config.max_grad_norm or float("inf"))
        self.optimizer.step()
        correct = (logits.argmax(dim=1) == labels).sum()
        for name, value in zip(FIGURES, (loss.detach(), correct, total, norms), strict=True):
            self.figures[name].append(value)

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

    def _finish_epoch(self, images_per_second: float) -> None:
        """Fetch the epoch's figures, once, check that they are finite, and write them."""
        figures = self._checked_figures()
        phase = phase_of(self.epoch, self.reshuffles)
        images = len(self.data.train_labels)
        sizes = torch.full((self.batches,), self.config.batch_size, dtype=torch.float64)
        sizes[-1] = images - (self.batches - 1) * self.config.batch_size
        accuracy = figures["correct"].sum().item() / images
        self.train_accuracy.append(accuracy)
        self.test_accuracy.append(None if phase else self._test())
        layer_norms = by_layer(figures["parameter_norms"], self.layer_of_parameter, len(self.layers)).mean(dim=0)
        values: dict[str, float | None] = {
            "train/epoch": self.epoch + 1,
            "train/phase": phase,
            "train/accuracy": accuracy,
            "test/accuracy": self.test_accuracy[-1],
            "loss/cross_entropy": (figures["loss"].double() @ sizes).item() / images,
            "gradients/norm": figures["gradient_norm"].mean().item(),
            **{f"gradient_norm/{name}": norm for name, norm in zip(self.layers, layer_norms.tolist(), strict=True)},
            "relearning/epochs": self._relearned(phase),
            "speed/images_per_second": images_per_second,
            "optimizer/learning_rate": float(self.optimizer.param_groups[0]["lr"]),
        }
        self.epoch, self.batch = self.epoch + 1, 0
        self.figures = {name: [] for name in FIGURES}
        self.wall_seconds = time.perf_counter() - self._started
        there = {name: value for name, value in values.items() if value is not None}
        self.writer.write(self.updates, self.wall_seconds, there)
        self.progress.update(self.updates, accuracy)

    def _relearned(self, phase: int) -> int | None:
        """Epochs since the last reshuffle if this one is the first in which the new labels are learned, else None."""
        if phase == 0:
            return None
        *before, last = self.train_accuracy[self.reshuffles[phase - 1] :]
        threshold = self.config.relearn_accuracy
        return len(before) + 1 if last >= threshold and not any(value >= threshold for value in before) else None

    def _checked_figures(self) -> dict[str, Tensor]:
        """The epoch's figures so far, on the host.

        Raises:
            TrainingDiverged: a loss or a gradient is no number any more; the message says where it began.
        """
        figures = {name: torch.stack(values).cpu() for name, values in self.figures.items()}
        bad = ~(figures["loss"].isfinite() & figures["gradient_norm"].isfinite())
        if not bad.any():
            return figures
        row = int(bad.nonzero()[0])
        norms = figures["parameter_norms"][row].tolist()
        names = [name for name, _ in self.network.named_parameters()]
        # The backward pass runs from the last layer to the first, so the last bad one is where it began.
        broken = [name for name, norm in zip(names, norms, strict=True) if not torch.isfinite(torch.tensor(norm))]
        layer = broken[-1].rpartition(".")[0] if broken else "the global norm"
        raise TrainingDiverged(
            f"training diverged in epoch {self.epoch + 1}, in update {self.epoch * self.batches + row + 1:,}: the "
            f"gradient of layer '{layer}' is not finite (loss {figures['loss'][row].item():.4g}); "
            f"{self._checkpoint_text()}; try a lower --optimizer.learning-rate"
        )

    def _checkpoint(self) -> None:
        """Write a checkpoint, from which the run goes on as if it had never stopped."""
        within_epoch = self.batch > 0
        if within_epoch:
            self._checked_figures()
        self.wall_seconds = time.perf_counter() - self._started
        self.timer.seconds()
        state = {
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "figures": {name: torch.stack(values) for name, values in self.figures.items()} if within_epoch else None,
            "random_state": self._get_random_state() if within_epoch else None,
            "train_accuracy": self.train_accuracy,
            "test_accuracy": self.test_accuracy,
            "wall_seconds": self.wall_seconds,
            "seconds": dict(self.timer.total),
            "data_checksum": self.data_checksum,
            "metrics_bytes": self.writer.position(),
        }
        self.last_checkpoint = save_checkpoint(
            self.folder.checkpoints_path, self.updates, self.network, state, self.config.keep_checkpoints
        )

    def _get_random_state(self) -> dict[str, Tensor | None]:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def _set_random_state(self, state: dict[str, Tensor | None]) -> None:
        if state["cpu"] is not None:
            torch.set_rng_state(state["cpu"])
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def _restore(self) -> None:
        """Load the newest checkpoint, if there is one."""
        checkpoints = list_checkpoints(self.folder.checkpoints_path)
        if not checkpoints:
            return
        path = checkpoints[-1]
        weights, state = load_checkpoint(path)
        load_weights(self.network, weights, path)
        try:
            if state["data_checksum"] != self.data_checksum:
                raise UsageError(
                    f"the training data of '{self.config.data}' are not those that run '{self.folder.path}' began with"
                )
            self._load_optimizer(state["optimizer"], path)
            self.epoch, self.batch = state["epoch"], state["batch"]
            if self.batch:
                self.figures = {name: list(state["figures"][name].to(self.device)) for name in FIGURES}
                self._random_state = state["random_state"]
            self.train_accuracy, self.test_accuracy = state["train_accuracy"], state["test_accuracy"]
            self.wall_seconds = state["wall_seconds"]
            self.timer.total.update(state["seconds"])
            self._metrics_position = state["metrics_bytes"]
        except KeyError as error:
            raise CheckpointError(f"checkpoint '{path}' is not of a {ALGORITHM} run: it lacks {error}") from error
        self.last_checkpoint = path

    def _load_optimizer(self, state: dict[str, Any], path: Path) -> None:
        try:
            load_state(self.optimizer, state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint '{path}' does not fit this run's optimizer: {error}") from error

    def _write_summary(self, status: str, *, error: str | None = None) -> dict[str, Any]:
        config, seconds = self.config, self.timer.seconds()
        phases = summarize_phases(
            self.train_accuracy, self.test_accuracy, self.reshuffles, config.epochs, config.relearn_accuracy
        )
        summary = {
            "status": status,
            "error": error,
            "algorithm": ALGORITHM,
            "data": config.data,
            "preset": config.preset,
            "seed": config.seed,
            "parameters": sum(parameter.numel() for parameter in self.parameters),
            "layers": self.layers,
            "epochs": self.epoch,
            "updates": self.updates,
            "wall_seconds": round(self.wall_seconds, 3),
            "final_accuracy": self.train_accuracy[-1] if self.train_accuracy else None,
            "phases": phases,
            "relearning": summarize_relearning(phases),
            "seconds": {name: round(seconds[name], 3) for name in ("update", "optimizer")},
            "health": {"verdict": None},
            "peak_memory_bytes": self._peak_memory(),
        }
        write_json(self.folder.summary_path, summary)
        return summary

    def _write_summary_if_possible(self, status: str, reason: BaseException) -> None:
        try:
            self._write_summary(status, error=str(reason) or type(reason).__name__)
        except OSError as error:
            print(f"could not write '{self.folder.summary_path}': {error.strerror}", file=sys.stderr)

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return used_memory()

    def _checkpoint_text(self) -> str:
        return (
            f"last good checkpoint: '{self.last_checkpoint}'" if self.last_checkpoint else "there is no checkpoint yet"
        )

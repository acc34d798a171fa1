"""The lifecycle of a run: lock, restore, train, log, checkpoint, stop, summary.

A run is a chain of stretches between checkpoints, which a ``Loop`` trains. What it needs to go on exactly as if it had
never stopped is in its checkpoints; metrics that were logged after the newest one are void.
"""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from stablegrad.agents.replay import Replay
from stablegrad.diagnostics.rules import Outcome
from stablegrad.errors import CheckpointError, StablegradError, command
from stablegrad.files import write_json
from stablegrad.hardware import used_memory
from stablegrad.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_weights,
    remove_checkpoint,
    save_checkpoint,
    step_of,
)
from stablegrad.training.distributed import checksums
from stablegrad.training.experience import EXPERIENCE, load_experience
from stablegrad.training.health import HEALTHY, MAX_ROLLBACKS, DiagnosisConfig, Health, apply_live, outcome_of
from stablegrad.training.integrity import write_record
from stablegrad.training.interruption import Interrupted, stop_signals
from stablegrad.training.loop import Loop
from stablegrad.training.metrics import MetricsWriter
from stablegrad.training.progress import TrainingProgress
from stablegrad.training.resources import Resources
from stablegrad.training.run_folder import RunFolder

NO_DIAGNOSIS = DiagnosisConfig(look_every=0)


class Collapsed(StablegradError):
    """The diagnosis found the run collapsing, and --on-collapse says to stop; a checkpoint was written."""


class RollBack(Exception):
    """The diagnosis found the run collapsing, and --on-collapse says to go back; carries what to change and why."""


class Lifecycle:
    """One process's work on one run folder; with torchrun, of one of the processes that train the run together.

    Args:
        folder: the run.
        config: its configuration, as JSON values.
        loop: what trains.
        resources: what this process works with.
        diagnosis: how the loop's agent is watched.
        keep_checkpoints: how many of the newest checkpoints stay on disk.
        wandb: Weights & Biases project to log to as well.
        quiet: show no progress.

    Attributes:
        stops: signals that asked the run to stop so far.
        collapsed: why the run is collapsing, where that is to stop it.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        loop: Loop,
        resources: Resources,
        *,
        diagnosis: DiagnosisConfig = NO_DIAGNOSIS,
        keep_checkpoints: int,
        wandb: str | None = None,
        quiet: bool = False,
    ):
        self.folder = folder
        self.config = config
        self.loop = loop
        self.ranks, self.device, self.timer = resources.ranks, resources.device, resources.timer
        self.on_collapse = diagnosis.on_collapse
        self.keep_checkpoints = keep_checkpoints
        self.wandb = wandb
        self.quiet = quiet or not self.ranks.is_first
        self.parameters = sum(one.numel() for network in loop.networks.values() for one in network.parameters())
        optimizers = list(loop.optimizers.values())
        with self.timer.timing(optimizers):
            # One process watches for all.
            self.health = Health(diagnosis if self.ranks.is_first else NO_DIAGNOSIS, loop.agent)
        self.interventions: list[dict[str, Any]] = []
        self.collapsed: str | None = None
        self.wall_seconds = 0.0
        self.last_checkpoint: Path | None = None
        self.stops: list[int] = []
        self._agent_config = None if loop.agent is None else loop.agent.config
        self._healthy_checkpoint: Path | None = None
        self._metrics_position: int | None = None
        self._warned = False

    def run(self, *, clean_stop: bool = True) -> dict[str, Any]:
        """Train to the end; writes summary.json however it ends.

        Args:
            clean_stop: write a checkpoint on SIGINT and SIGTERM; else they do what they did before.

        Returns:
            the summary.

        Raises:
            StablegradError: the run failed; summary.json says "failed".
            Interrupted: it was asked to stop; a checkpoint was written and summary.json says "stopped".
        """
        signals: AbstractContextManager[list[int]] = stop_signals(second_ends=True) if clean_stop else nullcontext([])
        try:
            with (
                self.folder.lock() if self.ranks.is_first else nullcontext(),
                self.ranks.joined(self.device),
                signals as self.stops,
            ):
                self._restore()
                return self._run()
        except OSError as error:
            raise StablegradError(self._disk_message(error)) from error

    def _run(self) -> dict[str, Any]:
        self._started = time.perf_counter() - self.wall_seconds
        try:
            self._train()
            self.ranks.leave()
            return self._write_summary("finished", self.loop.finish(self) if self.ranks.is_first else {})
        except (Interrupted, Collapsed, KeyboardInterrupt) as stop:
            self._write_summary_if_possible("stopped", stop)
            raise
        except (StablegradError, OSError, RuntimeError, MemoryError) as error:
            self._write_summary_if_possible("failed", error)
            raise

    def _train(self) -> None:
        if self.ranks.is_first:
            self._open_logs()
        if self.on_collapse == "rollback" and self.last_checkpoint is None:
            # The beginning is healthy, and a run may collapse before its first checkpoint.
            self._save()
        try:
            while self.loop.step < self.loop.total_steps:
                try:
                    self._advance()
                except RollBack as back:
                    self._roll_back(*back.args)
        finally:
            if self.ranks.is_first:
                self.progress.close()
                self.writer.close()

    def _open_logs(self) -> None:
        # A run that was killed before its first checkpoint starts over, and what it logged is void.
        started_before = self._metrics_position is not None or self.folder.metrics_path.exists()
        resume_at = (self._metrics_position or 0, self.loop.step) if started_before else None
        self.writer = MetricsWriter(self.folder, resume_at=resume_at, wandb_project=self.wandb, config=self.config)
        self.health.restore(self.folder.read_metrics())
        self._warned = self.health.sure
        self.progress = TrainingProgress(
            self.loop.total_steps, self.loop.step, quiet=self.quiet, figure=self.loop.shown, digits=self.loop.digits
        )

    def _advance(self) -> None:
        """To the next checkpoint, and on or out."""
        loop = self.loop
        loop.advance(self)
        if self.ranks.size > 1:
            what = f"their weights at {loop.position}: are their devices of one kind?"
            weights = [one for network in loop.networks.values() for one in network.parameters()]
            self.ranks.require_agreement(checksums(weights), what)
        if self.ranks.is_first:
            self._save()
        if loop.step < loop.total_steps:
            self.stop_if_asked()
        if self.collapsed:
            raise Collapsed(
                f"stopped at {loop.position}, as the run is collapsing: {self.collapsed}; "
                f"'{command('diagnose', self.folder.path)}' says what to do, "
                f"'{command('resume', self.folder.path)}' goes on"
            )

    def log(self, values: Mapping[str, float], shown: float | None) -> None:
        """Write a line of metrics, with those of the diagnosis, and act on its verdict.

        Args:
            values: metrics by name.
            shown: what tells how well the run is doing.
        """
        values = dict(values)
        if self.health.monitor is not None:
            self.timer.move(self.health.take_seconds(), "update", "diagnostics")
            with self.timer.part("diagnostics"):
                values |= self.health.log(self.loop.step, values)
        self.wall_seconds = time.perf_counter() - self._started
        self.writer.write(self.loop.step, self.wall_seconds, values)
        self.progress.update(self.loop.step, shown)
        if self.health.sure and not self._warned:
            self._warned = True
            self._collapse()
        elif self._warned and self.health.verdict in HEALTHY:
            self._warned = False
            self.progress.say(f"the warning is taken back at {self.loop.position}: {self.health.verdict}")

    def _collapse(self) -> None:
        """The run has just turned collapsing: say so, and do what was asked for."""
        finding = self.health.findings[0]
        self.progress.say(
            f"warning: {self.health.verdict} at {self.loop.position}: {finding.reason}; "
            f"'{command('diagnose', self.folder.path)}' says what to do"
        )
        if self.on_collapse == "stop":
            self.collapsed = finding.reason
        elif self.on_collapse == "rollback":
            live = self.health.live_prescription()
            if self._healthy_checkpoint is None or live is None or len(self.interventions) == MAX_ROLLBACKS:
                why = (
                    f"it has been rolled back {MAX_ROLLBACKS} times"
                    if self.interventions[MAX_ROLLBACKS - 1 :]
                    else "nothing that helps can be changed while it runs"
                )
                self.progress.say(f"the run goes on as it is: {why}")
                return
            raise RollBack(live.name, live.factor, finding.reason)

    def _roll_back(self, name: str, factor: float | None, reason: str) -> None:
        """Return to the newest checkpoint written in health, and change what can be changed in a running agent.

        What was logged and saved since then is void. The changes are kept in interventions.json, so that a run that is
        resumed has them too.
        """
        path, collapsed_at = self._healthy_checkpoint, self.loop.step
        assert path is not None
        self.writer.close()
        self.progress.close()
        seconds = dict(self.timer.total)
        self._load(path)
        self.timer.total.update(seconds)
        for newer in list_checkpoints(self.folder.checkpoints_path):
            if newer.name != path.name and step_of(newer) > self.loop.step:
                remove_checkpoint(newer)
        self.interventions.append(
            {
                "collapsed_at": collapsed_at,
                "back_to": self.loop.step,
                "name": name,
                "factor": factor,
                "reason": reason,
            }
        )
        write_json(self.folder.interventions_path, {"interventions": self.interventions})
        self._apply_interventions()
        self._open_logs()
        self.progress.say(f"rolled back from step {collapsed_at:,} to {self.loop.step:,} and applied {name}")

    def _apply_interventions(self) -> None:
        """Change the agent, as it is after a checkpoint was loaded, by all that rollbacks changed so far."""
        agent = self.loop.agent
        if agent is None:
            return
        agent.config = self._agent_config
        for intervention in self.interventions:
            # Checkpoints since a rollback hold the optimizer's new state, but not the agent's new configuration; those
            # before it hold neither.
            if intervention["name"] != "reset_optimizer_state" or intervention["back_to"] == self.loop.step:
                apply_live(agent, intervention["name"], intervention["factor"])

    def _save(self) -> None:
        self.wall_seconds = time.perf_counter() - self._started
        self.timer.seconds()
        state = {
            **self.loop.state_dict(),
            "processes": self.ranks.size,
            "device": self.device.type,
            "wall_seconds": self.wall_seconds,
            "seconds": dict(self.timer.total),
            "metrics_bytes": self.writer.position(),
            "verdict": self.health.verdict,
        }
        self.last_checkpoint = save_checkpoint(
            self.folder.checkpoints_path,
            self.loop.step,
            self.loop.networks,
            state,
            self.keep_checkpoints,
            protected=self._healthy_checkpoint if self.on_collapse == "rollback" else None,
            experience=self._replay,
        )
        if self.health.verdict in HEALTHY:
            self._healthy_checkpoint = self.last_checkpoint

    def _restore(self) -> None:
        """Load the newest checkpoint, if there is one."""
        checkpoints = list_checkpoints(self.folder.checkpoints_path)
        self.ranks.require_agreement(
            (self.config, [path.name for path in checkpoints]),
            f"options or checkpoints: all need the same options and the same run folder '{self.folder.path}'",
        )
        if not checkpoints:
            return
        self._load(checkpoints[-1])
        self.interventions = self.folder.read_interventions()
        self._apply_interventions()
        if self.on_collapse == "rollback":
            self._healthy_checkpoint = next((path for path in reversed(checkpoints) if _was_healthy(path)), None)

    def _load(self, path: Path) -> None:
        """Take over a checkpoint."""
        weights, state = load_checkpoint(path)
        load_weights(self.loop.networks, weights, path)
        try:
            if self._replay is not None:
                load_experience(self.folder.checkpoints_path / EXPERIENCE, state[EXPERIENCE], self._replay)
            self.loop.load_state_dict(state)
            self.wall_seconds = state["wall_seconds"]
            self.timer.total.update(state["seconds"])
            self._metrics_position = state["metrics_bytes"]
        except KeyError as error:
            raise CheckpointError(f"checkpoint '{path}' is not of such a run: it lacks {error}") from error
        except StablegradError:
            raise
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint '{path}' does not fit this run's optimizer: {error}") from error
        self.last_checkpoint = path
        self._note_differences(state)

    @property
    def _replay(self) -> Replay | None:
        return None if self.loop.agent is None else self.loop.agent.replay

    def _note_differences(self, state: Mapping[str, Any]) -> None:
        """Say what keeps a resumed run from being, bit for bit, one that was never stopped."""
        if self.quiet:
            return
        before, now = (
            f"{processes} process{'es' if processes > 1 else ''} on {device}"
            for processes, device in (
                (state.get("processes", 1), state.get("device", self.device.type)),
                (self.ranks.size, self.device.type),
            )
        )
        if before != now:
            print(
                f"note: trained by {before} up to {self.loop.position}, from here on by {now}; it continues well, "
                "but not bit for bit like a run of either",
                file=sys.stderr,
            )
        if state.get("segment") in state.get("unscheduled_segments", ()):
            print(
                f"note: resuming from {self.loop.position}, a checkpoint outside the schedule (the run was stopped "
                "there); it continues well, but not bit for bit like a run that was never stopped",
                file=sys.stderr,
            )

    def stop_if_asked(self) -> None:
        """Raise Interrupted where a signal asked any process of the run to stop."""
        asked = [number for numbers in self.ranks.gather(self.stops) for number in numbers]
        if asked:
            raise Interrupted(
                f"stopped by {signal.Signals(asked[0]).name} at {self.loop.position}; continue with "
                f"'{command('resume', self.folder.path)}'"
            )

    @property
    def last_good(self) -> str:
        """Which checkpoint is good, for messages."""
        if self.last_checkpoint is None:
            return "there is no checkpoint yet"
        return f"last good checkpoint: '{self.last_checkpoint}'"

    def _outcome(self) -> Outcome | None:
        """The returns so far; a damaged log ends no run."""
        try:
            return outcome_of(self.config, self.folder.read_metrics())
        except StablegradError:
            return None

    def _write_summary(
        self, status: str, finished: Mapping[str, Any] | None = None, *, error: str | None = None
    ) -> dict[str, Any]:
        summary = {
            "status": status,
            "error": error,
            **self.loop.summary(self.wall_seconds),
            "parameters": self.parameters,
            "layers": self.loop.layers,
            "updates": self.loop.updates,
            "wall_seconds": round(self.wall_seconds, 3),
            "seconds": {name: round(value, 3) for name, value in self.timer.seconds().items()},
            "health": self.health.summary(self._outcome()) | {"interventions": self.interventions},
            "peak_memory_bytes": self._peak_memory(),
            "processes": self.ranks.size,
            **(finished or {}),
        }
        if self.ranks.is_first:
            if status == "finished":
                write_record(self.folder, summary)
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

    def _disk_message(self, error: OSError) -> str:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        return f"cannot write run folder '{self.folder.path}' at {self.loop.position}: {reason}; {self.last_good}"


def _was_healthy(checkpoint: Path) -> bool:
    return load_checkpoint(checkpoint)[1].get("verdict") in HEALTHY

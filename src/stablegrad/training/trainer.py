"""The training loop: rollouts and updates, checkpoints, logs, a clean stop, and exact resume.

A run is a chain of *segments*. Each starts with fresh environments and fresh random streams, both derived from (run
seed, segment), and ends with a checkpoint. As vector engines cannot save an environment's state, this is what makes a
run that was killed and resumed equal, bit for bit, to one that was never stopped: both start the next segment from the
same checkpoint in the same way. Episodes that run when a segment ends count as truncated: their last state is
bootstrapped, their return is not counted.
"""

from __future__ import annotations

import dataclasses
import errno
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.agents import PQN
from stablegrad.agents.rollout import Rollout
from stablegrad.diagnostics.layers import find_layers
from stablegrad.environments import StepResult, environment_seeds, environment_spec, make_vector_env
from stablegrad.errors import CheckpointError, StablegradError, TrainingDiverged, command
from stablegrad.files import write_json
from stablegrad.hardware import denormals_flushed, has_fast_bf16, used_memory
from stablegrad.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_weights,
    remove_checkpoint,
    save_checkpoint,
    step_of,
)
from stablegrad.training.config import RunConfig, resolve_device, usable_cores
from stablegrad.training.distributed import Ranks, checksums
from stablegrad.training.evaluation import evaluate
from stablegrad.training.health import HEALTHY, MAX_ROLLBACKS, DiagnosisConfig, Health, apply_live
from stablegrad.training.interruption import Interrupted, stop_signals
from stablegrad.training.metrics import MetricsWriter
from stablegrad.training.progress import TrainingProgress
from stablegrad.training.run_folder import RunFolder
from stablegrad.training.timing import PartTimer
from stablegrad.training.tuning import keep_freed_memory

RETURN_WINDOW = 100


@denormals_flushed()
def train(config: RunConfig, run_dir: Path | str, *, quiet: bool = False) -> dict[str, Any]:
    """Train an agent in a new run folder.

    Args:
        config: what to train.
        run_dir: a folder that does not exist yet or is empty.
        quiet: show no progress.

    Returns:
        The run's summary, as in summary.json.

    Raises:
        UsageError: the configuration or the folder cannot be used; nothing was written.
        StablegradError: the run failed; summary.json says "failed".
        Interrupted: SIGINT or SIGTERM; a checkpoint was written and summary.json says "stopped".
    """
    config.check()
    is_first = Ranks().is_first
    folder = RunFolder.create(run_dir, config.to_json()) if is_first else RunFolder(run_dir)
    if not quiet and is_first:
        print(f"needs {config.memory_need()}", file=sys.stderr)
        if config.agent.precision == "bf16" and not has_fast_bf16(resolve_device(config.device)):
            print("bf16 is only emulated here and far slower than fp32", file=sys.stderr)
    return Trainer(folder, config, quiet=quiet).run()


@denormals_flushed()
def resume(
    run_dir: Path | str, *, quiet: bool = False, clean_stop: bool = True, device: str | None = None
) -> dict[str, Any]:
    """Continue a run from its newest checkpoint, or from its start where it has none yet.

    A finished run is left as it is, and its summary returned. Raises what ``train`` raises.

    Args:
        run_dir: the run's folder.
        quiet: show no progress.
        clean_stop: write a checkpoint on SIGINT and SIGTERM; else they do what they did before.
        device: train on this one from here on, whatever config.json says; None: on the run's.
    """
    folder = RunFolder(run_dir)
    config = RunConfig.from_json(folder.read_config())
    summary = folder.read_summary()
    if summary is not None and summary.get("status") == "finished":
        return summary
    if device is not None:
        config = dataclasses.replace(config, device=device)
    config.check()
    return Trainer(folder, config, quiet=quiet).run(clean_stop=clean_stop)


class Collapsed(StablegradError):
    """The diagnosis found the run collapsing, and --on-collapse says to stop; a checkpoint was written."""


class _RollBack(Exception):
    """The diagnosis found the run collapsing, and --on-collapse says to go back; carries what to change and why."""


class Trainer:
    """One process's work on one run folder; with torchrun, of one of the processes that train the run together."""

    def __init__(self, folder: RunFolder, config: RunConfig, *, quiet: bool = False):
        self.folder = folder
        self.config = config
        self.ranks = Ranks()
        self.quiet = quiet or not self.ranks.is_first
        self.device = self.ranks.device(resolve_device(config.device))
        self.threads = config.threads or max(usable_cores() // self.ranks.local_size, 1)
        torch.set_num_threads(self.threads)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.spec = environment_spec(config.env, atari=config.atari)
        self.agent = PQN(
            self.ranks.share(config.agent),
            self.spec,
            total_steps=config.total_steps,
            device=self.device,
            seed=_torch_seed(config.seed, 0),
            average_gradients=self.ranks.average_gradients if self.ranks.size > 1 else None,
        )
        self._agent_config = self.agent.config
        layers = find_layers({"": self.agent.network})
        self.layers, self.layer_of_parameter = layers.names, torch.tensor(layers.layer_of)
        self.parameters = sum(parameter.numel() for parameter in self.agent.parameters)
        self.timer = PartTimer(self.device)
        with self.timer.timing(self.agent.optimizer):
            # One process watches for all.
            watched = self.ranks.is_first
            self.health = Health(config.diagnosis if watched else DiagnosisConfig(look_every=0), self.agent)
        self.interventions: list[dict[str, Any]] = []
        self._collapsed: str | None = None
        self._healthy_checkpoint: Path | None = None

        self.env_steps = 0
        self.episodes = 0
        self.segment = 0
        self.unscheduled_segments: list[int] = []
        self.returns: deque[float] = deque(maxlen=RETURN_WINDOW)
        self.lengths: deque[int] = deque(maxlen=RETURN_WINDOW)
        self.wall_seconds = 0.0
        self.last_checkpoint: Path | None = None
        self._metrics_position: int | None = None
        self._signals: list[int] = []

    def run(self, *, clean_stop: bool = True) -> dict[str, Any]:
        """Train to the end; writes summary.json however it ends."""
        signals: AbstractContextManager[list[int]] = stop_signals(second_ends=True) if clean_stop else nullcontext([])
        try:
            with (
                self.folder.lock() if self.ranks.is_first else nullcontext(),
                self.ranks.joined(self.device),
                signals as self._signals,
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
            return self._write_summary("finished", evaluation=self._evaluate())
        except (Interrupted, Collapsed, KeyboardInterrupt) as stop:
            self._write_summary_if_possible("stopped", stop)
            raise
        except (StablegradError, OSError, RuntimeError, MemoryError) as error:
            self._write_summary_if_possible("failed", error)
            raise

    def _train(self) -> None:
        if self.ranks.is_first:
            self._open_logs()
        if self.config.diagnosis.on_collapse == "rollback" and self.last_checkpoint is None:
            # The beginning is healthy, and a run may collapse before its first checkpoint.
            self._save()
        try:
            while self.env_steps < self.config.total_steps:
                try:
                    self._run_segment()
                except _RollBack as back:
                    self._roll_back(*back.args)
        finally:
            if self.ranks.is_first:
                self.progress.close()
                self.writer.close()

    def _open_logs(self) -> None:
        # A run that was killed before its first checkpoint starts over, and what it logged is void.
        started_before = self._metrics_position is not None or self.folder.metrics_path.exists()
        resume_at = (self._metrics_position or 0, self.env_steps) if started_before else None
        self.writer = MetricsWriter(
            self.folder, resume_at=resume_at, wandb_project=self.config.wandb, config=self.config.to_json()
        )
        self.health.restore(self.folder.read_metrics())
        self.progress = TrainingProgress(self.config.total_steps, self.env_steps, quiet=self.quiet)

    def _run_segment(self) -> None:
        """From fresh environments to the next checkpoint."""
        agent, config, ranks = self.agent, self.agent.config, self.ranks
        with self.timer.part("environment"):
            env = make_vector_env(
                self.config.env,
                config.num_envs,
                # The run's environments are the same however many processes share them.
                seeds=environment_seeds(self.config.seed, self.segment, self.config.agent.num_envs)[
                    ranks.rank :: ranks.size
                ],
                atari=self.config.atari,
                num_threads=self.threads if self.spec.engine == "envpool" else 0,
            )
            first_observation = env.reset()
        seed = _torch_seed(self.config.seed, self.segment, ranks.rank)
        agent.reseed(seed)
        # The global streams as well: a user's environment or an optimizer may draw from them. Optimizers draw from
        # torch's, and must do so alike in all processes.
        torch.manual_seed(_torch_seed(self.config.seed, self.segment))
        np.random.seed(seed % 2**32)
        random.seed(seed)
        rollout = Rollout(
            config.num_steps,
            config.num_envs,
            self.spec.observation_shape,
            getattr(torch, self.spec.observation_dtype),
            self.device,
        )
        rollout.begin(first_observation)
        self.health.begin_segment(rollout)
        target = min(_next_multiple(self.env_steps, self.config.checkpoint_interval), self.config.total_steps)
        interval = _Interval(self.env_steps, time.perf_counter())
        try:
            while self.env_steps < target:
                first_step, collected = self.env_steps, _Collected()
                for t in range(config.num_steps):
                    with self.timer.part("act"):
                        action, value = agent.act(rollout.observation[t], self.env_steps)
                        host_action = action.cpu().numpy()
                    with self.timer.part("environment"):
                        result = env.step(host_action)
                        rollout.add(t, action, value, result)
                    collected.add(result)
                    # Those of the other processes are taken to be as many, until they tell after the rollout.
                    self.env_steps = first_step + ranks.size * collected.env_steps
                with self.timer.part("update"):
                    updates = agent.updates
                    interval.add(agent.update(rollout, first_step))
                    self.health.after_update(updates)
                rollout.begin()
                stop = self._count(first_step, collected)
                ended = self.env_steps >= target or stop
                if ended or self.env_steps - interval.first_step >= self.config.log_interval:
                    self._log(interval)
                    interval = _Interval(self.env_steps, time.perf_counter())
                if stop or self._collapsed:
                    break
        finally:
            env.close()
        self._checkpoint(scheduled=self.env_steps >= target)
        if self.env_steps < self.config.total_steps:
            self._stop_if_asked()
        if self._collapsed:
            raise Collapsed(
                f"stopped at step {self.env_steps:,}, as the run is collapsing: {self._collapsed}; "
                f"'{command('diagnose', self.folder.path)}' says what to do, "
                f"'{command('resume', self.folder.path)}' goes on"
            )

    def _count(self, first_step: int, collected: _Collected) -> bool:
        """Add one rollout of all processes to the run's counters; returns whether any of them was asked to stop."""
        everyone = self.ranks.gather((collected, bool(self._signals)))
        self.env_steps = first_step + sum(one.env_steps for one, _ in everyone)
        for one, _ in everyone:
            self.episodes += len(one.returns)
            self.returns.extend(one.returns)
            self.lengths.extend(one.lengths)
        return any(asked for _, asked in everyone)

    def _log(self, interval: _Interval) -> None:
        """Fetch the interval's figures, once, check that they are finite, and write them."""
        figures = {name: torch.cat(values).cpu() for name, values in interval.figures.items()}
        self._check_finite(figures)
        if not self.ranks.is_first:
            return
        layer_norms = by_layer(figures["gradients/parameters"], self.layer_of_parameter, len(self.layers)).mean(dim=0)
        values: dict[str, float] = {
            "train/episodes": self.episodes,
            "loss/td": figures["loss/td"].mean().item(),
            "values/q": figures["values/q"].mean().item(),
            "values/std": figures["values/std"].mean().item(),
            "values/min": figures["values/min"].min().item(),
            "values/max": figures["values/max"].max().item(),
            "values/explained_variance": figures["values/explained_variance"].nanmean().item(),
            "gradients/norm": figures["gradients/norm"].mean().item(),
            **{f"gradient_norm/{name}": norm for name, norm in zip(self.layers, layer_norms.tolist(), strict=True)},
            "exploration/epsilon": self.agent.epsilon(self.env_steps),
            "speed/steps_per_second": (self.env_steps - interval.first_step) / (time.perf_counter() - interval.started),
            "optimizer/learning_rate": float(self.agent.optimizer.param_groups[0]["lr"]),
        }
        if self.returns:
            values["train/return"] = float(np.mean(self.returns))
            values["train/episode_length"] = float(np.mean(self.lengths))
        verdict = self.health.verdict
        self.timer.move(self.health.take_seconds(), "update", "diagnostics")
        with self.timer.part("diagnostics"):
            values |= self.health.log(self.env_steps, values)
        self.wall_seconds = time.perf_counter() - self._started
        self.writer.write(self.env_steps, self.wall_seconds, values)
        self.progress.update(self.env_steps, values.get("train/return"))
        if self.health.turned_bad(verdict):
            self._collapse()

    def _collapse(self) -> None:
        """The run has just turned collapsing: say so, and do what was asked for."""
        finding = self.health.findings[0]
        self.progress.say(
            f"warning: {self.health.verdict} at step {self.env_steps:,}: {finding.reason}; "
            f"'{command('diagnose', self.folder.path)}' says what to do"
        )
        if self.config.diagnosis.on_collapse == "stop":
            self._collapsed = finding.reason
        elif self.config.diagnosis.on_collapse == "rollback":
            live = self.health.live_prescription()
            if self._healthy_checkpoint is None or live is None or len(self.interventions) == MAX_ROLLBACKS:
                why = (
                    f"it has been rolled back {MAX_ROLLBACKS} times"
                    if self.interventions[MAX_ROLLBACKS - 1 :]
                    else "nothing that helps can be changed while it runs"
                )
                self.progress.say(f"the run goes on as it is: {why}")
                return
            raise _RollBack(live.name, live.factor, finding.reason)

    def _roll_back(self, name: str, factor: float | None, reason: str) -> None:
        """Return to the newest checkpoint written in health, and change what can be changed in a running agent.

        What was logged and saved since then is void. The changes are kept in interventions.json, so that a run that is
        resumed has them too.
        """
        path, collapsed_at = self._healthy_checkpoint, self.env_steps
        assert path is not None
        self.writer.close()
        self.progress.close()
        seconds = dict(self.timer.total)
        self._load(path)
        self.timer.total.update(seconds)
        for newer in list_checkpoints(self.folder.checkpoints_path):
            if newer.name != path.name and step_of(newer) > self.env_steps:
                remove_checkpoint(newer)
        self.interventions.append(
            {
                "collapsed_at": collapsed_at,
                "back_to": self.env_steps,
                "name": name,
                "factor": factor,
                "reason": reason,
            }
        )
        write_json(self.folder.interventions_path, {"interventions": self.interventions})
        self._apply_interventions()
        self._open_logs()
        self.progress.say(f"rolled back from step {collapsed_at:,} to {self.env_steps:,} and applied {name}")

    def _apply_interventions(self) -> None:
        """Change the agent, as it is after a checkpoint was loaded, by all that rollbacks changed so far."""
        self.agent.config = self._agent_config
        for intervention in self.interventions:
            # Checkpoints since a rollback hold the optimizer's new state, but not the agent's new configuration; those
            # before it hold neither.
            if intervention["name"] != "reset_optimizer_state" or intervention["back_to"] == self.env_steps:
                apply_live(self.agent, intervention["name"], intervention["factor"])

    def _check_finite(self, figures: Mapping[str, Tensor]) -> None:
        """Stop a run whose loss or gradients are no numbers any more, and say where it began."""
        bad = ~(figures["loss/td"].isfinite() & figures["gradients/norm"].isfinite())
        if not bad.any():
            return
        row = int(bad.nonzero()[0])
        update = self.agent.updates - len(bad) + row + 1
        loss = figures["loss/td"][row].item()
        norms = figures["gradients/parameters"][row]
        names = [name for name, _ in self.agent.network.named_parameters()]
        # With a finite loss the trouble began in the backward pass, which runs from the last layer to the first: in the
        # last bad one in forward order. With a bad loss every gradient is bad; it came through the head, from a target
        # or an activation, unless weights went bad before.
        broken = [name for name, norm in zip(names, norms.tolist(), strict=True) if not np.isfinite(norm)]
        if not np.isfinite(loss) and row > 0 and np.isfinite(figures["gradients/parameters"][row - 1].numpy()).all():
            largest = int(figures["gradients/parameters"][row - 1].argmax())
            origin = f"; the update before, the largest gradient was that of '{names[largest]}'"
        else:
            origin = ""
        layer = broken[-1].rpartition(".")[0] if broken else "the global norm"
        if self.last_checkpoint is None:
            checkpoint = "there is no checkpoint yet"
        else:
            checkpoint = f"last good checkpoint: '{self.last_checkpoint}'"
        raise TrainingDiverged(
            f"training diverged by step {self.env_steps:,}, in update {update:,}: the gradient of layer '{layer}' "
            f"is not finite (loss {loss:.4g}{origin}); {checkpoint}; try a lower --optimizer.learning-rate"
        )

    def _checkpoint(self, *, scheduled: bool) -> None:
        """Write a checkpoint, with which a new segment begins."""
        self.segment += 1
        if not scheduled:
            self.unscheduled_segments.append(self.segment)
        if self.ranks.size > 1:
            what = f"their weights at step {self.env_steps:,}: are their devices of one kind?"
            self.ranks.require_agreement(checksums(self.agent.parameters), what)
        if self.ranks.is_first:
            self._save()

    def _save(self) -> None:
        self.wall_seconds = time.perf_counter() - self._started
        state = {
            "agent": self.agent.state_dict(),
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "segment": self.segment,
            "unscheduled_segments": self.unscheduled_segments,
            "processes": self.ranks.size,
            "device": self.device.type,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "wall_seconds": self.wall_seconds,
            "seconds": self._seconds_total(),
            "metrics_bytes": self.writer.position(),
            "verdict": self.health.verdict,
        }
        rolls_back = self.config.diagnosis.on_collapse == "rollback"
        self.last_checkpoint = save_checkpoint(
            self.folder.checkpoints_path,
            self.env_steps,
            self.agent.network,
            state,
            self.config.keep_checkpoints,
            protected=self._healthy_checkpoint if rolls_back else None,
        )
        if self.health.verdict in HEALTHY:
            self._healthy_checkpoint = self.last_checkpoint

    def _seconds_total(self) -> dict[str, float]:
        self.timer.seconds()
        return dict(self.timer.total)

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
        if self.config.diagnosis.on_collapse == "rollback":
            self._healthy_checkpoint = next((path for path in reversed(checkpoints) if _was_healthy(path)), None)

    def _load(self, path: Path) -> None:
        """Take over a checkpoint."""
        weights, state = load_checkpoint(path)
        load_weights(self.agent.network, weights, path)
        try:
            self.agent.load_state_dict(state["agent"])
        except (CheckpointError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint '{path}' does not fit this run's optimizer: {error}") from error
        try:
            self.env_steps, self.episodes = state["env_steps"], state["episodes"]
            self.segment, self.unscheduled_segments = state["segment"], state["unscheduled_segments"]
            self.returns = deque(state["returns"], maxlen=RETURN_WINDOW)
            self.lengths = deque(state["lengths"], maxlen=RETURN_WINDOW)
            self.wall_seconds = state["wall_seconds"]
            self.timer.total.update(state["seconds"])
            self._metrics_position = state["metrics_bytes"]
        except KeyError as error:
            raise CheckpointError(f"checkpoint '{path}' is not of a training run: it lacks {error}") from error
        self.last_checkpoint = path
        before, now = (
            f"{processes} process{'es' if processes > 1 else ''} on {device}"
            for processes, device in (
                (state.get("processes", 1), state.get("device", self.device.type)),
                (self.ranks.size, self.device.type),
            )
        )
        if before != now and not self.quiet:
            print(
                f"note: trained by {before} up to step {self.env_steps:,}, from here on by {now}; it continues well, "
                "but not bit for bit like a run of either",
                file=sys.stderr,
            )
        if self.segment in self.unscheduled_segments and not self.quiet:
            print(
                f"note: resuming from step {self.env_steps:,}, a checkpoint outside the schedule (the run was stopped "
                "there); it continues well, but not bit for bit like a run that was never stopped",
                file=sys.stderr,
            )

    def _evaluate(self) -> dict[str, Any] | None:
        if not self.config.eval_episodes or not self.ranks.is_first:
            return None
        return evaluate(
            self.agent.act_greedily,
            self.config.env,
            episodes=self.config.eval_episodes,
            seed=self.config.seed,
            atari=self.config.atari,
            stop=self._stop_if_asked,
            quiet=self.quiet,
        )

    def _stop_if_asked(self) -> None:
        asked = [number for numbers in self.ranks.gather(self._signals) for number in numbers]
        if asked:
            raise Interrupted(
                f"stopped by {signal.Signals(asked[0]).name} at step {self.env_steps:,}; continue with "
                f"'{command('resume', self.folder.path)}'"
            )

    def _write_summary(
        self, status: str, *, evaluation: dict[str, Any] | None = None, error: str | None = None
    ) -> dict[str, Any]:
        summary = {
            "status": status,
            "error": error,
            "algorithm": self.config.algorithm,
            "environment": self.config.env,
            "preset": self.config.preset,
            "seed": self.config.seed,
            "parameters": self.parameters,
            "layers": self.layers,
            "env_steps": self.env_steps,
            "updates": self.agent.updates,
            "wall_seconds": round(self.wall_seconds, 3),
            "steps_per_second": self.env_steps / self.wall_seconds if self.wall_seconds else None,
            "final_return": float(np.mean(self.returns)) if self.returns else None,
            "episodes": self.episodes,
            "evaluation": evaluation,
            "seconds": {name: round(value, 3) for name, value in self.timer.seconds().items()},
            "health": self.health.summary() | {"interventions": self.interventions},
            "peak_memory_bytes": self._peak_memory(),
            "unscheduled_segments": self.unscheduled_segments,
            "processes": self.ranks.size,
        }
        if self.ranks.is_first:
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
        where = (
            f"last good checkpoint: '{self.last_checkpoint}'" if self.last_checkpoint else "there is no checkpoint yet"
        )
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        return f"cannot write run folder '{self.folder.path}' at step {self.env_steps:,}: {reason}; {where}"


class _Interval:
    """Figures of the updates since the last log line, still on the device."""

    def __init__(self, first_step: int, started: float):
        self.first_step = first_step
        self.started = started
        self.figures: dict[str, list[Tensor]] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        for name, values in figures.items():
            self.figures.setdefault(name, []).append(values)


@dataclass
class _Collected:
    """What one process's environments brought in one rollout: transitions, and the games that ended."""

    env_steps: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        self.env_steps += int(np.count_nonzero(result.valid))
        finished = result.episode.finished
        if finished.any():
            self.returns += result.episode.returns[finished].tolist()
            self.lengths += result.episode.lengths[finished].tolist()


def by_layer(norms: Tensor, layer_of_parameter: Tensor, num_layers: int) -> Tensor:
    """Norms of layers, [updates, layers], from those of their parameters, [updates, parameters]."""
    inside = layer_of_parameter >= 0
    squares = torch.zeros(len(norms), num_layers)
    squares.index_add_(1, layer_of_parameter[inside], norms[:, inside].float().square())
    return squares.sqrt()


def _was_healthy(checkpoint: Path) -> bool:
    return load_checkpoint(checkpoint)[1].get("verdict") in HEALTHY


def _next_multiple(value: int, interval: int) -> int:
    return (value // interval + 1) * interval


def _torch_seed(run_seed: int, segment: int, rank: int = 0) -> int:
    """Seed of one process's random numbers in one segment; its stream is another one than the environments'."""
    return int(np.random.SeedSequence((run_seed, segment, 1 + rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))

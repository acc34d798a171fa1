"""The training loop: rollouts and updates, checkpoints, logs, a clean stop, and exact resume.

A run is a chain of *segments*. Each starts with fresh environments and fresh random streams, both derived from (run
seed, segment), and ends with a checkpoint. As vector engines cannot save an environment's state, this is what makes a
run that was killed and resumed equal, bit for bit, to one that was never stopped: both start the next segment from the
same checkpoint in the same way. Episodes that run when a segment ends count as truncated: their last state is
bootstrapped, their return is not counted.
"""

from __future__ import annotations

import errno
import fcntl
import random
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.agents import PQN
from stablegrad.agents.rollout import Rollout
from stablegrad.environments import environment_seeds, environment_spec, make_vector_env
from stablegrad.errors import CheckpointError, StablegradError, TrainingDiverged, UsageError
from stablegrad.hardware import has_fast_bf16
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, load_weights, save_checkpoint
from stablegrad.training.config import RunConfig, resolve_device, usable_cores
from stablegrad.training.evaluation import evaluate
from stablegrad.training.layers import layer_groups
from stablegrad.training.metrics import MetricsWriter
from stablegrad.training.progress import TrainingProgress
from stablegrad.training.run_folder import RunFolder, write_json
from stablegrad.training.timing import PartTimer
from stablegrad.training.tuning import keep_freed_memory

RETURN_WINDOW = 100


class Interrupted(StablegradError):
    """The run was asked to stop (SIGINT, SIGTERM) and did, after writing a checkpoint."""

    exit_code = 130


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
    folder = RunFolder.create(run_dir, config.to_json())
    if not quiet:
        print(f"needs {config.memory_need()}", file=sys.stderr)
        if config.agent.precision == "bf16" and not has_fast_bf16(resolve_device(config.device)):
            print("bf16 is only emulated here and far slower than fp32", file=sys.stderr)
    return Trainer(folder, config, quiet=quiet).run()


def resume(run_dir: Path | str, *, quiet: bool = False) -> dict[str, Any]:
    """Continue a run from its newest checkpoint, or from its start where it has none yet.

    A finished run is left as it is, and its summary returned. Raises what ``train`` raises.
    """
    folder = RunFolder(run_dir)
    config = RunConfig.from_json(folder.read_config())
    summary = folder.read_summary()
    if summary is not None and summary.get("status") == "finished":
        return summary
    config.check()
    return Trainer(folder, config, quiet=quiet).run()


class Trainer:
    """One process's work on one run folder."""

    def __init__(self, folder: RunFolder, config: RunConfig, *, quiet: bool = False):
        self.folder = folder
        self.config = config
        self.quiet = quiet
        self.device = resolve_device(config.device)
        self.threads = config.threads or usable_cores()
        torch.set_num_threads(self.threads)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.spec = environment_spec(config.env, atari=config.atari)
        self.agent = PQN(
            config.agent,
            self.spec,
            total_steps=config.total_steps,
            device=self.device,
            seed=_torch_seed(config.seed, 0),
        )
        self.layers, self.layer_of_parameter = layer_groups(self.agent.network)
        self.parameters = sum(parameter.numel() for parameter in self.agent.parameters)
        self.timer = PartTimer(self.device)
        self.timer.time_optimizer(self.agent.optimizer)

        self.env_steps = 0
        self.episodes = 0
        self.segment = 0
        self.unscheduled_segments: list[int] = []
        self.returns: deque[float] = deque(maxlen=RETURN_WINDOW)
        self.lengths: deque[int] = deque(maxlen=RETURN_WINDOW)
        self.wall_seconds = 0.0
        self.last_checkpoint: Path | None = None
        self._metrics_position: int | None = None
        self._stop_signal: int | None = None

    def run(self) -> dict[str, Any]:
        """Train to the end; writes summary.json however it ends."""
        try:
            with self._lock(), self._signals():
                self._restore()
                return self._run()
        except OSError as error:
            raise StablegradError(self._disk_message(error)) from error

    def _run(self) -> dict[str, Any]:
        self._started = time.perf_counter() - self.wall_seconds
        try:
            self._train()
            return self._write_summary("finished", evaluation=self._evaluate())
        except (Interrupted, KeyboardInterrupt) as stop:
            self._write_summary_if_possible("stopped", stop)
            raise
        except (StablegradError, OSError, RuntimeError, MemoryError) as error:
            self._write_summary_if_possible("failed", error)
            raise

    def _train(self) -> None:
        # A run that was killed before its first checkpoint starts over, and what it logged is void.
        started_before = self._metrics_position is not None or self.folder.metrics_path.exists()
        resume_at = (self._metrics_position or 0, self.env_steps) if started_before else None
        self.writer = MetricsWriter(
            self.folder, resume_at=resume_at, wandb_project=self.config.wandb, config=self.config.to_json()
        )
        self.progress = TrainingProgress(self.config.total_steps, self.env_steps, quiet=self.quiet)
        try:
            while self.env_steps < self.config.total_steps:
                self._run_segment()
        finally:
            self.progress.close()
            self.writer.close()

    def _run_segment(self) -> None:
        """From fresh environments to the next checkpoint."""
        config, agent = self.config.agent, self.agent
        with self.timer.part("environment"):
            env = make_vector_env(
                self.config.env,
                config.num_envs,
                seeds=environment_seeds(self.config.seed, self.segment, config.num_envs),
                atari=self.config.atari,
                num_threads=self.threads if self.spec.engine == "envpool" else 0,
            )
            first_observation = env.reset()
        seed = _torch_seed(self.config.seed, self.segment)
        agent.reseed(seed)
        # The global streams as well: a user's environment or an optimizer may draw from them.
        torch.manual_seed(seed)
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
        target = min(_next_multiple(self.env_steps, self.config.checkpoint_interval), self.config.total_steps)
        interval = _Interval(self.env_steps, time.perf_counter())
        try:
            while self.env_steps < target:
                first_step = self.env_steps
                for t in range(config.num_steps):
                    with self.timer.part("act"):
                        action, value = agent.act(rollout.observation[t], self.env_steps)
                        host_action = action.cpu().numpy()
                    with self.timer.part("environment"):
                        result = env.step(host_action)
                        rollout.add(t, action, value, result)
                    self.env_steps += int(np.count_nonzero(result.valid))
                    if result.episode.finished.any():
                        finished = result.episode.finished
                        self.episodes += int(np.count_nonzero(finished))
                        self.returns.extend(result.episode.returns[finished].tolist())
                        self.lengths.extend(result.episode.lengths[finished].tolist())
                with self.timer.part("update"):
                    interval.add(agent.update(rollout, first_step))
                rollout.begin()
                ended = self.env_steps >= target or self._stop_signal is not None
                if ended or self.env_steps - interval.first_step >= self.config.log_interval:
                    self._log(interval)
                    interval = _Interval(self.env_steps, time.perf_counter())
                if self._stop_signal is not None:
                    break
        finally:
            env.close()
        self._checkpoint(scheduled=self.env_steps >= target)
        if self.env_steps < self.config.total_steps:
            self._stop_if_asked()

    def _log(self, interval: _Interval) -> None:
        """Fetch the interval's figures, once, check that they are finite, and write them."""
        figures = {name: torch.cat(values).cpu() for name, values in interval.figures.items()}
        self._check_finite(figures)
        layer_norms = _by_layer(figures["gradients/parameters"], self.layer_of_parameter, len(self.layers)).mean(dim=0)
        values: dict[str, float] = {
            "train/episodes": self.episodes,
            "loss/td": figures["loss/td"].mean().item(),
            "values/q": figures["values/q"].mean().item(),
            "gradients/norm": figures["gradients/norm"].mean().item(),
            **{f"gradient_norm/{name}": norm for name, norm in zip(self.layers, layer_norms.tolist(), strict=True)},
            "exploration/epsilon": self.agent.epsilon(self.env_steps),
            "speed/steps_per_second": (self.env_steps - interval.first_step) / (time.perf_counter() - interval.started),
            "optimizer/learning_rate": float(self.agent.optimizer.param_groups[0]["lr"]),
        }
        if self.returns:
            values["train/return"] = float(np.mean(self.returns))
            values["train/episode_length"] = float(np.mean(self.lengths))
        self.wall_seconds = time.perf_counter() - self._started
        self.writer.write(self.env_steps, self.wall_seconds, values)
        self.progress.update(self.env_steps, values.get("train/return"))

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
        self.wall_seconds = time.perf_counter() - self._started
        state = {
            "agent": self.agent.state_dict(),
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "segment": self.segment,
            "unscheduled_segments": self.unscheduled_segments,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "wall_seconds": self.wall_seconds,
            "seconds": self._seconds_total(),
            "metrics_bytes": self.writer.position(),
        }
        self.last_checkpoint = save_checkpoint(
            self.folder.checkpoints_path, self.env_steps, self.agent.network, state, self.config.keep_checkpoints
        )

    def _seconds_total(self) -> dict[str, float]:
        self.timer.seconds()
        return dict(self.timer.total)

    def _restore(self) -> None:
        """Load the newest checkpoint, if there is one."""
        checkpoints = list_checkpoints(self.folder.checkpoints_path)
        if not checkpoints:
            return
        path = checkpoints[-1]
        weights, state = load_checkpoint(path)
        load_weights(self.agent.network, weights, path)
        try:
            self.agent.load_state_dict(state["agent"])
        except (CheckpointError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint '{path}' does not fit this run's optimizer: {error}") from error
        try:
            self.env_steps, self.episodes = state["env_steps"], state["episodes"]
            self.segment, self.unscheduled_segments = state["segment"], state["unscheduled_segments"]
            self.returns.extend(state["returns"])
            self.lengths.extend(state["lengths"])
            self.wall_seconds = state["wall_seconds"]
            self.timer.total.update(state["seconds"])
            self._metrics_position = state["metrics_bytes"]
        except KeyError as error:
            raise CheckpointError(f"checkpoint '{path}' is not of a training run: it lacks {error}") from error
        self.last_checkpoint = path
        if self.segment in self.unscheduled_segments and not self.quiet:
            print(
                f"note: resuming from step {self.env_steps:,}, a checkpoint outside the schedule (the run was stopped "
                "there); it continues well, but not bit for bit like a run that was never stopped",
                file=sys.stderr,
            )

    def _evaluate(self) -> dict[str, Any] | None:
        if not self.config.eval_episodes:
            return None
        return evaluate(
            self.agent.act_greedily,
            self.config.env,
            episodes=self.config.eval_episodes,
            seed=self.config.seed,
            atari=self.config.atari,
            stop=self._stop_if_asked,
        )

    def _stop_if_asked(self) -> None:
        if self._stop_signal is not None:
            raise Interrupted(
                f"stopped by {signal.Signals(self._stop_signal).name} at step {self.env_steps:,}; continue with "
                f"'stablegrad resume {self.folder.path}'"
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
            "health": {"verdict": None},
            "peak_memory_bytes": self._peak_memory(),
            "unscheduled_segments": self.unscheduled_segments,
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
        kilobyte = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte

    def _disk_message(self, error: OSError) -> str:
        where = (
            f"last good checkpoint: '{self.last_checkpoint}'" if self.last_checkpoint else "there is no checkpoint yet"
        )
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        return f"cannot write run folder '{self.folder.path}' at step {self.env_steps:,}: {reason}; {where}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep a second process from training the same run; the lock falls with the process."""
        with (self.folder.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"run '{self.folder.path}' is being trained by another process") from error
            yield

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks for a checkpoint and a clean exit; a second one ends at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = number

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class _Interval:
    """Figures of the updates since the last log line, still on the device."""

    def __init__(self, first_step: int, started: float):
        self.first_step = first_step
        self.started = started
        self.figures: dict[str, list[Tensor]] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        for name, values in figures.items():
            self.figures.setdefault(name, []).append(values)


def _by_layer(norms: Tensor, layer_of_parameter: Tensor, num_layers: int) -> Tensor:
    """Norms of layers, [updates, layers], from those of their parameters, [updates, parameters]."""
    inside = layer_of_parameter >= 0
    squares = torch.zeros(len(norms), num_layers)
    squares.index_add_(1, layer_of_parameter[inside], norms[:, inside].float().square())
    return squares.sqrt()


def _next_multiple(value: int, interval: int) -> int:
    return (value // interval + 1) * interval


def _torch_seed(run_seed: int, segment: int) -> int:
    """Seed of torch's random numbers in one segment; its stream is another one than the environments'."""
    return int(np.random.SeedSequence((run_seed, segment, 1)).generate_state(1, np.uint64)[0] >> np.uint64(1))

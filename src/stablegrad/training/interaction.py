"""An agent in its environments: segments, steps, updates, and what is logged of them.

A run is a chain of *segments*. Each starts with fresh environments and fresh random streams, both derived from (run
seed, segment), and ends with a checkpoint. As vector engines cannot save an environment's state, this is what makes a
run that was killed and resumed equal, bit for bit, to one that was never stopped: both start the next segment from the
same checkpoint in the same way. Episodes that run when a segment ends count as truncated: their last state is
bootstrapped, their return is not counted.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from stablegrad.agents.catalogue import find_algorithm
from stablegrad.agents.contract import Agent
from stablegrad.environments import StepResult, VectorEnv, environment_seeds, make_vector_env
from stablegrad.hardware import denormals_flushed, has_fast_bf16
from stablegrad.training.config import RunConfig, resolve_device
from stablegrad.training.distributed import Ranks
from stablegrad.training.evaluation import evaluate
from stablegrad.training.lifecycle import Lifecycle
from stablegrad.training.resources import Resources
from stablegrad.training.run_folder import RunFolder
from stablegrad.training.timing import PARTS
from stablegrad.training.update_metrics import UpdateMetrics

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
    return lifecycle(folder, config, quiet=quiet).run()


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
    return lifecycle(folder, config, quiet=quiet).run(clean_stop=clean_stop)


def lifecycle(folder: RunFolder, config: RunConfig, *, quiet: bool = False) -> Lifecycle:
    """The lifecycle of an agent's run."""
    resources = Resources.claim(config.device, config.threads, PARTS)
    return Lifecycle(
        folder,
        config.to_json(),
        Interaction(config, resources),
        resources,
        diagnosis=config.diagnosis,
        keep_checkpoints=config.keep_checkpoints,
        wandb=config.wandb,
        quiet=quiet,
    )


class Interaction:
    """A ``Loop``: an agent acts, observes and learns."""

    shown, digits = "return", 1

    def __init__(self, config: RunConfig, resources: Resources):
        self.config = config
        self.resources = resources
        self.ranks, self.timer = resources.ranks, resources.timer
        self.spec = config.spec
        self.agent: Agent = find_algorithm(config.algorithm).agent(
            self.ranks.share(config.agent),
            self.spec,
            total_steps=config.total_steps,
            device=resources.device,
            seed=_torch_seed(config.seed, 0),
            average_gradients=self.ranks.average_gradients if self.ranks.size > 1 else None,
        )
        self.metrics = UpdateMetrics(self.agent.networks)
        self.env_steps = 0
        self.episodes = 0
        self.segment = 0
        self.unscheduled_segments: list[int] = []
        self.returns: deque[float] = deque(maxlen=RETURN_WINDOW)
        self.lengths: deque[int] = deque(maxlen=RETURN_WINDOW)

    @property
    def networks(self) -> Mapping[str, nn.Module]:  # noqa: D102  # as in Loop, like all without a docstring here
        return self.agent.networks

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:  # noqa: D102
        return self.agent.optimizers

    @property
    def layers(self) -> list[str]:  # noqa: D102
        return self.metrics.layers

    @property
    def updates(self) -> int:  # noqa: D102
        return self.agent.updates

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self.env_steps

    @property
    def total_steps(self) -> int:  # noqa: D102
        return self.config.total_steps

    @property
    def position(self) -> str:  # noqa: D102
        return f"step {self.env_steps:,}"

    def advance(self, run: Lifecycle) -> None:
        """One segment: from fresh environments to the next checkpoint, or to where the run is asked to stop."""
        agent = self.agent
        with self.timer.part("environment"):
            env = self._make_env()
            first_observation = env.reset()
        self._reseed()
        agent.begin(first_observation)
        run.health.begin_segment()
        target = min(_next_multiple(self.env_steps, self.config.checkpoint_interval), self.config.total_steps)
        logged_at, logged_time = self.env_steps, time.perf_counter()
        try:
            while self.env_steps < target:
                first_step, collected = self.env_steps, _Collected()
                for _ in range(agent.config.horizon):
                    with self.timer.part("act"):
                        action = agent.act(self.env_steps)
                    with self.timer.part("environment"):
                        result = env.step(action)
                        agent.observe(result)
                    collected.add(result)
                    # Assume the other ranks stepped equally often; corrected by the gather below.
                    self.env_steps = first_step + self.ranks.size * collected.env_steps
                with self.timer.part("update"):
                    updates = agent.updates
                    self.metrics.add(agent.learn(first_step))
                    run.health.after_update(updates)
                stop = self._count(first_step, collected, run)
                ended = self.env_steps >= target or stop
                if ended or self.env_steps - logged_at >= self.config.log_interval:
                    self._log(run, self.env_steps - logged_at, time.perf_counter() - logged_time)
                    logged_at, logged_time = self.env_steps, time.perf_counter()
                if stop or run.collapsed:
                    break
        finally:
            env.close()
        self.segment += 1
        if self.env_steps < target:
            self.unscheduled_segments.append(self.segment)

    def _make_env(self) -> VectorEnv:
        config, ranks = self.config, self.ranks
        # The run's environments are the same however many processes share them.
        seeds = environment_seeds(config.seed, self.segment, config.agent.num_envs)[ranks.rank :: ranks.size]
        return make_vector_env(
            config.env,
            len(seeds),
            seeds=seeds,
            atari=config.atari,
            num_threads=self.resources.threads if self.spec.engine == "envpool" else 0,
            action_repeat=config.action_repeat,
        )

    def _reseed(self) -> None:
        """Fresh random streams for the segment."""
        seed = _torch_seed(self.config.seed, self.segment, self.ranks.rank)
        self.agent.reseed(seed)
        # The global streams as well: a user's environment or an optimizer may draw from them. Optimizers draw from
        # torch's, and must do so alike in all processes.
        torch.manual_seed(_torch_seed(self.config.seed, self.segment))
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def _count(self, first_step: int, collected: _Collected, run: Lifecycle) -> bool:
        """Add what all processes collected to the run's counters; returns whether any was asked to stop."""
        everyone = self.ranks.gather((collected, bool(run.stops)))
        self.env_steps = first_step + sum(one.env_steps for one, _ in everyone)
        for one, _ in everyone:
            self.episodes += len(one.returns)
            self.returns.extend(one.returns)
            self.lengths.extend(one.lengths)
        return any(asked for _, asked in everyone)

    def _log(self, run: Lifecycle, steps: int, seconds: float) -> None:
        """Fetch the metrics since the last line, once, check that they are finite, and write them."""
        taken = self.metrics.take()
        self.metrics.check_finite(taken, self.agent.updates, f"by {self.position}", run.last_good)
        if not self.ranks.is_first:
            return
        values: dict[str, float] = {
            "train/episodes": self.episodes,
            **self.metrics.reduce(taken),
            **self.agent.scalars(self.env_steps),
            "speed/steps_per_second": steps / seconds,
            **_learning_rates(self.agent.optimizers),
        }
        if self.returns:
            values["train/return"] = float(np.mean(self.returns))
            values["train/episode_length"] = float(np.mean(self.lengths))
        run.log(values, values.get("train/return"))

    def finish(self, run: Lifecycle) -> dict[str, Any]:
        """Evaluate, where that is asked for."""
        if not self.config.eval_episodes:
            return {}
        evaluation = evaluate(
            self.agent.policy,
            self.config.env,
            episodes=self.config.eval_episodes,
            seed=self.config.seed,
            atari=self.config.atari,
            action_repeat=self.config.action_repeat,
            stop=run.stop_if_asked,
            quiet=run.quiet,
        )
        return {"evaluation": evaluation}

    def summary(self, wall_seconds: float) -> dict[str, Any]:  # noqa: D102
        config = self.config
        return {
            "algorithm": config.algorithm,
            "environment": config.env,
            "preset": config.preset,
            "seed": config.seed,
            "env_steps": self.env_steps,
            "steps_per_second": self.env_steps / wall_seconds if wall_seconds else None,
            "final_return": float(np.mean(self.returns)) if self.returns else None,
            "episodes": self.episodes,
            "evaluation": None,
            "unscheduled_segments": self.unscheduled_segments,
        }

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            "agent": self.agent.state_dict(),
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "segment": self.segment,
            "unscheduled_segments": self.unscheduled_segments,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.agent.load_state_dict(state["agent"])
        self.env_steps, self.episodes = state["env_steps"], state["episodes"]
        self.segment, self.unscheduled_segments = state["segment"], state["unscheduled_segments"]
        self.returns = deque(state["returns"], maxlen=RETURN_WINDOW)
        self.lengths = deque(state["lengths"], maxlen=RETURN_WINDOW)
        # What a run that is rolled back had collected since then is void.
        self.metrics.take()


@dataclass
class _Collected:
    """What one process's environments brought between two calls of ``learn``: transitions, and games that ended."""

    env_steps: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        self.env_steps += int(np.count_nonzero(result.valid))
        finished = result.episode.finished
        if finished.any():
            self.returns += result.episode.returns[finished].tolist()
            self.lengths += result.episode.lengths[finished].tolist()


def _learning_rates(optimizers: Mapping[str, Optimizer]) -> dict[str, float]:
    """The first optimizer's learning rate, and where there are several, each one's."""
    rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in optimizers.items()}
    named = {f"optimizer/learning_rate/{name}": rate for name, rate in rates.items()} if len(rates) > 1 else {}
    return {"optimizer/learning_rate": next(iter(rates.values())), **named} if rates else {}


def _next_multiple(value: int, interval: int) -> int:
    return (value // interval + 1) * interval


def _torch_seed(run_seed: int, segment: int, rank: int = 0) -> int:
    """Seed of one process's random numbers in one segment; its stream is another one than the environments'."""
    return int(np.random.SeedSequence((run_seed, segment, 1 + rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))

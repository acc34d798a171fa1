"""What the diagnosis costs: looks and probings beside plain updates of PQN, Nature CNN, small and large torso.

    python benchmarks/diagnosis_overhead.py [--rounds 7] [--sizes small large]

Updates without a monitor, with looks, and with looks and probings take turns in one process, on a random rollout with
minibatches of 128. The cost of a look and of a probing are differences of medians; the share is what they come to at
the defaults, a look every 100 updates and a probing every 1000, environment and acting left out (they make it smaller).
Memory is what allocations of four steps come to at their highest, as torch's profiler counts them; it is compared with
that of the parameters.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import tyro

from common import save
from stablegrad.agents import PQN
from stablegrad.agents.presets import apply_changes, preset_config
from stablegrad.diagnostics import Monitor
from stablegrad.environments import EnvironmentSpec, StepResult, environment_spec
from stablegrad.training.health import PROBE_ROWS, DiagnosisConfig

UPDATES, EVERY, MINIBATCH = 8, 4, 128


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    rounds: int = 7
    """Turns of each condition; medians are reported."""
    sizes: tuple[str, ...] = ("small", "large")
    """Torsos to measure, of "small", "medium" and "large"."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    spec = environment_spec("Breakout-v5")
    defaults = DiagnosisConfig()
    results = {}
    for size in arguments.sizes:
        changes = {"torso.depth": size, "torso.width": size, "num_envs": 16, "num_minibatches": 4}
        agent = PQN(
            apply_changes(preset_config("pqn", "baseline", spec), changes),
            spec,
            total_steps=10**6,
            device=torch.device("cpu"),
            seed=1,
        )
        fill_rollout(agent, spec)
        rollout = agent.rollout
        rows = torch.arange(min(PROBE_ROWS, rollout.valid.numel()))
        rows = rows.repeat(-(-PROBE_ROWS // len(rows)))[:PROBE_ROWS]
        probe = rollout.observations_at(rows)
        conditions = {"plain": None, "looks": {"probe_every": 0}, "probings": {"probe_every": EVERY, "probe": probe}}
        times: dict[str, list[float]] = {name: [] for name in conditions}
        for turn in range(arguments.rounds + 1):
            for name, options in conditions.items():
                with watched(agent, options):
                    started = time.perf_counter()
                    agent.learn(0)
                    seconds = time.perf_counter() - started
                if turn:
                    times[name].append(seconds)
        median = {name: float(np.median(values)) for name, values in times.items()}
        step = median["plain"] / UPDATES
        look = (median["looks"] - median["plain"]) / (UPDATES / EVERY)
        probing = (median["probings"] - median["looks"]) / (UPDATES / EVERY)
        peak = {}
        loss = partial(agent.objectives(MINIBATCH)["q"].mean_loss, agent.network)
        for name, options in conditions.items():
            agent.optimizer.zero_grad()  # what was there before is not counted, and would not be when it is freed
            with watched(agent, options):
                peak[name] = peak_bytes(partial(take_steps, agent, loss))
        parameters = sum(parameter.numel() * parameter.element_size() for parameter in agent.parameters)
        memory = {name: (peak[name] - peak["plain"]) / parameters for name in ("looks", "probings")}
        share = (look / defaults.look_every + probing / defaults.probe_every) / step
        results[size] = {
            "parameters": sum(parameter.numel() for parameter in agent.parameters),
            "seconds_a_step": step,
            "look_in_steps": look / step,
            "probing_in_steps": probing / step,
            "share_at_defaults": share,
            "peak_bytes": peak,
            "more_bytes_over_parameters": memory,
            "times": times,
        }
        print(
            f"{size}: step {step * 1e3:.1f} ms, a look costs {look / step:.2f} steps, a probing {probing / step:.2f}; "
            f"at the defaults {share:.2%} of the updates' time; at its peak a look takes {memory['looks']:.2f} times "
            f"the parameters' memory more, a probing {memory['probings']:.2f} times"
        )
    save("diagnosis_overhead", f"python benchmarks/diagnosis_overhead.py {' '.join(sys.argv[1:])}".strip(), results)


@contextmanager
def watched(agent: PQN, options: dict[str, Any] | None) -> Iterator[None]:
    """A monitor that looks at every fourth update from the first on; none without options."""
    if options is None:
        yield
        return
    with Monitor(agent.network, agent.optimizer, every=EVERY, **options) as monitor:
        monitor.restart(EVERY)
        yield


def take_steps(agent: PQN, loss: Callable[[], torch.Tensor]) -> None:
    """As many as lie between two looks: without targets, which take memory of their own in an update."""
    for _ in range(EVERY):
        agent.optimizer.zero_grad()
        loss().backward()
        agent.optimizer.step()


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that is allocated in passing and not yet freed, above what there is before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def fill_rollout(agent: PQN, spec: EnvironmentSpec) -> None:
    config = agent.config
    random = np.random.default_rng(0)
    shape = (config.num_envs, *spec.observation_shape)
    agent.begin(random.integers(0, 255, shape, dtype=np.uint8))
    never = np.zeros(config.num_envs, dtype=bool)
    for _ in range(config.num_steps):
        agent.act(0)
        reward = random.normal(size=config.num_envs).astype(np.float32)
        observation = random.integers(0, 255, shape, dtype=np.uint8)
        agent.observe(StepResult(observation, reward, never, never, ~never, None))


if __name__ == "__main__":
    main()

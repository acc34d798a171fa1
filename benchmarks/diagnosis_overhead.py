"""What the diagnosis costs: looks and probings beside plain updates of PQN, Nature CNN, small and large torso.

    python benchmarks/diagnosis_overhead.py [--rounds 7]

Updates without a monitor, with looks, and with looks and probings take turns in one process, on a random rollout with
minibatches of 128. The cost of a look and of a probing are differences of medians; the share is what they come to at
the defaults, a look every 100 updates and a probing every 1000, environment and acting left out (they make it smaller).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from common import save
from stablegrad.agents import PQN
from stablegrad.agents.presets import apply_changes, preset_config
from stablegrad.agents.rollout import Rollout
from stablegrad.diagnostics import Monitor
from stablegrad.environments import EnvironmentSpec, StepResult, environment_spec
from stablegrad.training.health import PROBE_ROWS, DiagnosisConfig

UPDATES, EVERY = 8, 4


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    rounds: int = 7
    """Turns of each condition; medians are reported."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    spec = environment_spec("Breakout-v5")
    defaults = DiagnosisConfig()
    results = {}
    for size in ("small", "large"):
        changes = {"torso.depth": size, "torso.width": size, "num_envs": 16, "num_minibatches": 4}
        agent = PQN(
            apply_changes(preset_config("baseline", spec), changes),
            spec,
            total_steps=10**6,
            device=torch.device("cpu"),
            seed=1,
        )
        rollout = random_rollout(agent, spec)
        rows = torch.arange(min(PROBE_ROWS, rollout.valid.numel()))
        rows = rows.repeat(-(-PROBE_ROWS // len(rows)))[:PROBE_ROWS]
        probe = rollout.observations_at(rows)
        conditions = {"plain": None, "looks": {"probe_every": 0}, "probings": {"probe_every": EVERY, "probe": probe}}
        times: dict[str, list[float]] = {name: [] for name in conditions}
        for turn in range(arguments.rounds + 1):
            for name, options in conditions.items():
                monitor = Monitor(agent.network, agent.optimizer, every=EVERY, **options) if options else None
                if monitor is not None:
                    monitor.restart(EVERY)
                started = time.perf_counter()
                agent.update(rollout, 0)
                seconds = time.perf_counter() - started
                if monitor is not None:
                    monitor.close()
                if turn:
                    times[name].append(seconds)
        median = {name: float(np.median(values)) for name, values in times.items()}
        step = median["plain"] / UPDATES
        look = (median["looks"] - median["plain"]) / (UPDATES / EVERY)
        probing = (median["probings"] - median["looks"]) / (UPDATES / EVERY)
        share = (look / defaults.look_every + probing / defaults.probe_every) / step
        results[size] = {
            "parameters": sum(parameter.numel() for parameter in agent.parameters),
            "seconds_a_step": step,
            "look_in_steps": look / step,
            "probing_in_steps": probing / step,
            "share_at_defaults": share,
            "times": times,
        }
        print(
            f"{size}: step {step * 1e3:.1f} ms, a look costs {look / step:.2f} steps, a probing {probing / step:.2f}; "
            f"at the defaults {share:.2%} of the updates' time"
        )
    save("diagnosis_overhead", f"python benchmarks/diagnosis_overhead.py {' '.join(sys.argv[1:])}".strip(), results)


def random_rollout(agent: PQN, spec: EnvironmentSpec) -> Rollout:
    config = agent.config
    rollout = Rollout(config.num_steps, config.num_envs, spec.observation_shape, torch.uint8, agent.device)
    random = np.random.default_rng(0)
    shape = (config.num_envs, *spec.observation_shape)
    rollout.begin(random.integers(0, 255, shape, dtype=np.uint8))
    never = np.zeros(config.num_envs, dtype=bool)
    for t in range(config.num_steps):
        action, value = agent.act(rollout.observation[t], 0)
        reward = random.normal(size=config.num_envs).astype(np.float32)
        observation = random.integers(0, 255, shape, dtype=np.uint8)
        rollout.add(t, action, value, StepResult(observation, reward, never, never, ~never, None))
    return rollout


if __name__ == "__main__":
    main()

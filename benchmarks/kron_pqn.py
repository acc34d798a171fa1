"""Kron beside kron_torch's rule in PQN: LunarLander with five multi-skip blocks.

    python benchmarks/kron_pqn.py [--seeds 10] [--settings "kron.rule=classic" "" "kron.block_size=128"] [--width 512]

A setting is changes of the optimizer's options, "" the defaults. Final return is the mean of the last 100 training
games. Paired differences are to the first setting, with Student-t 95% intervals over seeds. Every run that has ended is
kept in the results, so the command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

import tyro

from common import PQN_64X16, measure, paired, train_once
from stablegrad.training.config import default_run

NAME = "kron_pqn"
ENV = "LunarLander-v3"
#: As in benchmarks/learning.py.
BASE = f"stable+torso.depth=large{PQN_64X16}+num_epochs=4+optimizer.adam_learning_rate=1e-3"


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    seeds: int = 10
    """Seeds 1 to this."""
    settings: tuple[str, ...] = ("kron.rule=classic", "")
    """Options of the optimizer, joined by +; the first is what the others are compared with."""
    total_steps: int = 300_000
    """Environment steps of a run."""
    width: int = 256
    """Units of a layer."""
    workers: int = 2
    """Runs at once, one thread each."""


def run(setting: str, seed: int, total_steps: int, width: int) -> dict[str, Any]:
    """One training."""
    changes = "".join(f"+optimizer.{change}" for change in setting.split("+") if change)
    config = default_run("pqn", ENV, f"{BASE}+torso.width={width}{changes}")
    result = train_once(dataclasses.replace(config, total_steps=total_steps, seed=seed, threads=1, eval_episodes=0))
    kept = {name: result[name] for name in ("final_return", "wall_seconds", "seconds", "curve")}
    return kept | {"shown": f"{result['final_return']:.1f}, {result['wall_seconds']:.0f} s"}


def main() -> None:
    arguments = tyro.cli(Arguments)
    seeds = range(1, arguments.seeds + 1)

    def name(setting: str, seed: int) -> str:
        wide = "" if arguments.width == 256 else f"width {arguments.width} | "
        return f"{setting or 'defaults'} | {wide}{arguments.total_steps} steps | seed {seed}"

    jobs = {
        name(setting, seed): (run, (setting, seed, arguments.total_steps, arguments.width))
        for seed in seeds
        for setting in arguments.settings
    }
    runs = measure(NAME, f"python benchmarks/kron_pqn.py {' '.join(sys.argv[1:])}".strip(), jobs, arguments.workers)
    own = {setting: [runs[name(setting, seed)]["final_return"] for seed in seeds] for setting in arguments.settings}
    for setting, returns in own.items():
        print(f"{setting or 'defaults'}: {paired(returns, own[arguments.settings[0]], digits=1)}")


if __name__ == "__main__":
    main()

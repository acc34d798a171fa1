"""``stablegrad train``: one agent in a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from stablegrad.cli.arguments import RunOptions, algorithm_and_env, folder_name, option, parse
from stablegrad.errors import command
from stablegrad.training.config import RunConfig, default_run
from stablegrad.training.distributed import Ranks
from stablegrad.training.interaction import train


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad train`` takes."""

    run: Annotated[RunOptions, tyro.conf.arg(name=""), tyro.conf.SuppressFixed]
    run_dir: Path | None = None
    """Folder of the run; default: runs/<algorithm>-<env>-<preset>-seed<n>."""
    json: bool = False
    """Print the summary as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    algorithm, env, rest = algorithm_and_env("train", arguments)
    default = default_run(algorithm, env, option(rest, "--preset", "baseline") or "")
    parsed = parse(
        Arguments,
        f"train {algorithm}",
        rest,
        "Train one agent; the defaults are those of the environment and the preset.",
        Arguments(run=RunOptions.of(default)),
    )
    config = parsed.run.config
    run_dir = parsed.run_dir or Path("runs") / run_name(config)
    summary = train(config, run_dir, quiet=parsed.quiet)
    print_summary(summary, run_dir, as_json=parsed.json)
    return 0


def run_name(config: RunConfig) -> str:
    """A folder name that says what the run is."""
    return folder_name(config.algorithm, config.env, config.preset, f"seed{config.seed}")


def print_summary(summary: dict, run_dir: Path, *, as_json: bool) -> None:
    """The outcome of a run in one sentence, or as JSON; under torchrun by one process."""
    if not Ranks().is_first:
        return
    if as_json:
        print(json.dumps({"run_dir": str(run_dir), **summary}))
        return
    result = summary["final_return"]
    shown = "no episode finished" if result is None else f"return {result:,.1f} (last 100 episodes)"
    print(
        f"{summary['status']}: {shown} after {summary['env_steps']:,} steps in {summary['wall_seconds']:,.0f} s "
        f"({summary['steps_per_second']:,.0f} steps/s), {summary['parameters']:,} parameters; {run_dir}"
    )
    verdict = (summary.get("health") or {}).get("verdict")
    ill = verdict in ("at risk", "collapsing", "collapsed")
    print(
        f"next: {command('diagnose' if ill else 'report', run_dir)}" + (f"   (its network is {verdict})" if ill else "")
    )

"""``stablegrad relearn``: a classifier whose training labels are reshuffled, again and again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from stablegrad.cli.arguments import option, parse
from stablegrad.supervised import SupervisedConfig, preset_config, train_supervised


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad relearn`` takes."""

    run: Annotated[SupervisedConfig, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Folder of the run; default: runs/relearn-<data>-<preset>-seed<n>."""
    json: bool = False
    """Print the summary as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    default = preset_config(option(arguments, "--preset", "baseline") or "")
    text = "Train a classifier on labels that are reshuffled, and see how fast it learns them again."
    parsed = parse(Arguments, "relearn", arguments, text, Arguments(run=default))
    run_dir = parsed.run_dir or Path("runs") / run_name(parsed.run)
    summary = train_supervised(parsed.run, run_dir, quiet=parsed.quiet)
    print_summary(summary, run_dir, as_json=parsed.json)
    return 0


def run_name(config: SupervisedConfig) -> str:
    """A folder name that says what the run is."""
    return f"relearn-{Path(config.data).resolve().name}-{config.preset}-seed{config.seed}"


def print_summary(summary: dict[str, Any], run_dir: Path, *, as_json: bool) -> None:
    """The outcome of a run: a line a phase and one for all, or JSON."""
    if as_json:
        print(json.dumps({"run_dir": str(run_dir), **summary}))
        return
    for phase in summary["phases"]:
        learned = phase["epochs_to_learn"]
        shown = "never learned" if learned is None else f"learned in {learned} of {phase['epochs']} epochs"
        test = "" if phase["test_accuracy"] is None else f", test accuracy {phase['test_accuracy']:.3f}"
        name = f"labels reshuffled ({phase['phase']})" if phase["phase"] else "true labels"
        print(f"{name}: {shown}, training accuracy at the end {phase['train_accuracy']:.3f}{test}")
    again = summary["relearning"]
    relearned = (
        f"{again['relearned']} of {again['reshuffles']} reshuffles learned again; " if again["reshuffles"] else ""
    )
    print(
        f"{summary['status']}: {relearned}{summary['epochs']} epochs in {summary['wall_seconds']:,.0f} s, "
        f"{summary['parameters']:,} parameters; {run_dir}"
    )

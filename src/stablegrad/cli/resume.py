"""``stablegrad resume``: continue a run from its newest checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from stablegrad.cli import relearn
from stablegrad.cli.arguments import parse
from stablegrad.cli.train import print_summary
from stablegrad.supervised import resume_supervised
from stablegrad.supervised.config import ALGORITHM as SUPERVISED
from stablegrad.training.distributed import refuse_torchrun
from stablegrad.training.interaction import resume
from stablegrad.training.run_folder import RunFolder


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad resume`` takes."""

    run_dir: tyro.conf.Positional[Path]
    """The run's folder."""
    device: str | None = None
    """Device to go on with: cpu, cuda, cuda:<n>, auto; default: the run's."""
    json: bool = False
    """Print the summary as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "resume", arguments, "Continue a run; a finished one is left as it is.")
    folder = RunFolder(parsed.run_dir)
    algorithm = folder.read_config().get("algorithm")
    if (folder.read_summary() or {}).get("status") == "finished" and not parsed.quiet:
        print("note: this run has finished already; for more steps start a new one", file=sys.stderr)
    if algorithm == SUPERVISED:
        refuse_torchrun("relearn")
        relearn.print_summary(
            resume_supervised(parsed.run_dir, quiet=parsed.quiet, device=parsed.device),
            parsed.run_dir,
            as_json=parsed.json,
        )
        return 0
    summary = resume(parsed.run_dir, quiet=parsed.quiet, device=parsed.device)
    print_summary(summary, parsed.run_dir, as_json=parsed.json)
    return 0

"""``stablegrad report``: a run or a comparison as one offline HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from stablegrad.cli.arguments import parse
from stablegrad.errors import UsageError
from stablegrad.reports import write_comparison_report, write_run_report


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad report`` takes."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders or comparison folders."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "report", arguments, "Write report.html into each folder.")
    if not parsed.folders:
        raise UsageError("name at least one run folder or comparison folder")
    for folder in parsed.folders:
        write = write_comparison_report if (folder / "comparison.json").exists() else write_run_report
        print(write(folder))
    return 0

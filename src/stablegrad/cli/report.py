"""``stablegrad report``: a run, a comparison or a study as one offline HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from stablegrad.cli.arguments import parse
from stablegrad.errors import UsageError
from stablegrad.reports import write_comparison_report, write_run_report, write_study_report


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad report`` takes."""

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(one or more)")]
    """Run folders, comparison folders or study folders."""
    json: bool = False
    """Print each folder and its report as JSON on the last line."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "report", arguments, "Write report.html into each folder.")
    if not parsed.folders:
        raise UsageError("name at least one run folder, comparison folder or study folder")
    reports = []
    for folder in parsed.folders:
        reports.append({"folder": str(folder), "report": str(_writer_for(folder)(folder))})
        if not parsed.json:
            print(reports[-1]["report"])
    if parsed.json:
        print(json.dumps(reports))
    return 0


def _writer_for(folder: Path) -> Callable[[Path], Path]:
    """Who writes the report of what the folder holds; of a folder that holds nothing, who says so."""
    if (folder / "comparison.json").exists():
        return write_comparison_report
    if (folder / "study.json").exists():
        return write_study_report
    return write_run_report

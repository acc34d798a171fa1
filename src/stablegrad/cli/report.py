"""``stablegrad report``: a run, comparison or study as an offline page; with --summary, two pages to decide by."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from stablegrad.cli.arguments import parse
from stablegrad.errors import UsageError
from stablegrad.reports import write_comparison_report, write_run_report, write_study_report, write_summary_page
from stablegrad.training.run_folder import what_is_there


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad report`` takes."""

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(one or more)")]
    """Run folders, comparison folders or study folders."""
    summary: bool = False
    """Write summary.html instead: two pages for those who decide, of a comparison or a study (docs/decide.md)."""
    language: str = "en"
    """With --summary: en or ja."""
    price_per_hour: float | None = None
    """With --summary: what an hour of the machine costs."""
    currency: str | None = None
    """With --summary: of that price: an ISO 4217 code, such as USD or JPY."""
    watts: float | None = None
    """With --summary: what the machine draws under load, for the energy."""
    json: bool = False
    """Print each folder and its report as JSON on the last line."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "report", arguments, "Write report.html into each folder.")
    if not parsed.folders:
        raise UsageError("name at least one run folder, comparison folder or study folder")
    costs = parsed.price_per_hour, parsed.currency, parsed.watts
    if not parsed.summary and (parsed.language, *costs) != ("en", None, None, None):
        raise UsageError("--language, --price-per-hour, --currency and --watts are for --summary")
    reports = []
    for folder in parsed.folders:
        if parsed.summary:
            name, page = "summary", write_summary_page(folder, parsed.language, *costs)
        else:
            name, page = "report", _writer_for(folder)(folder)
        reports.append({"folder": str(folder), name: str(page)})
        if not parsed.json:
            print(page)
    if parsed.json:
        print(json.dumps(reports))
    return 0


def _writer_for(folder: Path) -> Callable[[Path], Path]:
    """Who writes the report of what the folder holds."""
    writers = {
        "comparison.json": write_comparison_report,
        "study.json": write_study_report,
        "config.json": write_run_report,
    }
    for name, writer in writers.items():
        if (folder / name).exists():
            return writer
    raise UsageError(f"'{folder}' is no folder of a run, a comparison or a study: {what_is_there(folder, *writers)}")

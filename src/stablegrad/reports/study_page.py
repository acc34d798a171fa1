"""report.html of a study: what it claims and what came out, the figures, the costs, every run."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stablegrad.errors import command
from stablegrad.pages import write_page
from stablegrad.reports.charts import AnyChart
from stablegrad.reports.charts_page import page_figures
from stablegrad.reports.charts_picture import write_pictures
from stablegrad.reports.study_costs import cost_rows, pareto_charts
from stablegrad.reports.study_figures import PERCENT, figure_title, note_on, study_charts
from stablegrad.reports.tuning_figures import GOOD, tuning_chart, tuning_rows
from stablegrad.studies.equal_time import EqualTime, equal_time
from stablegrad.studies.study import parse_expectation
from stablegrad.studies.study_folder import TUNING, StudyFolder
from stablegrad.studies.study_verdict import counts_in_words, study_verdict
from stablegrad.studies.table import SPEED, Estimate, Row, Table, read_table
from stablegrad.studies.tuning_verdict import tuning_in_words
from stablegrad.text import MISSING, duration, memory, number, percent

MAX_NAME = 150  # bytes
TUNED = ("Where", "Setting", "Best trial", "Learning rate", "Score in tuning", "Good rates", "Failed trials")
EQUAL = ("Task", "Size", "Setting", "After all steps", "Equal time", "After that time")


def write_study_report(directory: Path | str) -> Path:
    """Write ``report.html`` and ``figures/*.png`` and ``*.svg`` of a study.

    Args:
        directory: a study folder; its runs may be in any state.

    Returns:
        the path of report.html.

    Raises:
        UsageError: the folder holds no study.
        StablegradError: a file in it cannot be read.
    """
    folder = StudyFolder.read(directory)
    study, table = folder.study, read_table(folder)
    tuning = tuning_chart(study, table)
    charts = [*study_charts(folder, table), *pareto_charts(table)]
    if tuning:
        # Of trials it is the answer, of a tuned study what stands behind it.
        charts.insert(0 if study.tuning is None else len(charts), tuning)
    charts = _apart(charts)
    write_pictures(folder.directory / "figures", charts)
    expectations = [parse_expectation(text, study.cells) for text in study.expect]
    answer, *sentences = study_verdict(table, expectations)
    return write_page(
        folder.directory / "report.html",
        "reports/templates/study.html",
        title=study.texts.get("title", f"Study {study.name}"),
        texts=study.texts,
        form=study.form,
        axes=[(axis, list(values)) for axis, values in table.axes.items()],
        seeds=list(study.seeds),
        counts=counts_in_words(table),
        failures=[row for row in table.rows if row.status == "failed"],
        answer=answer,
        sentences=[*sentences, *tuning_in_words(study)],
        percent=PERCENT,
        figures=[
            {"name": chart.name, "title": chart.title, "reading": chart.reading, "note": chart.note, "drawn": drawn}
            for chart in charts
            for drawn in [page_figures(chart)]
        ],
        tuned=_without_empty_columns(TUNED, tuning_rows(study, table)),
        good=GOOD,
        trials=command("report", folder.directory / TUNING),
        equal=_without_empty_columns(EQUAL, _equal_rows(equal_time(folder, table))),
        cost=[_cost_row(row) for row in cost_rows(table)],
        cost_note=note_on(table.rows, [row["seconds"].seeds for row in cost_rows(table)]),
        speed=figure_title(SPEED[table.kind]),
        shown=list(dict.fromkeys([*([table.score] if table.score else []), *study.report])),
        runs=_runs(folder, table),
        again=command("report", folder.directory),
        resume=command("study", "resume", folder.directory),
    )


def _apart(charts: Sequence[AnyChart]) -> list[AnyChart]:
    """The same charts under names that file systems hold, no two alike."""
    found: dict[str, AnyChart] = {}
    for chart in charts:
        short = os.fsencode(chart.name)[:MAX_NAME].decode(errors="ignore")
        names = itertools.chain([short], (f"{short}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name.casefold() not in found)
        found[name.casefold()] = dataclasses.replace(chart, name=name)
    return list(found.values())


def _without_empty_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Headings and rows of a table, without columns that are empty throughout; nothing where there are no rows."""
    kept = [column for column in range(len(headings)) if any(row[column] for row in rows)]
    return [[row[column] for column in kept] for row in (headings, *rows)] if rows else []


def _equal_rows(found: Sequence[EqualTime]) -> list[list[str]]:
    """Rows of the table of scores at equal steps and at equal time."""
    return [
        [one.task, one.size, one.setting, _estimate(one.score), duration(one.seconds), _estimate(one.after)]
        for one in found
    ]


def _cost_row(row: dict[str, Any]) -> list[str]:
    """A row of the table of costs as text."""
    share = row["optimizer"]
    return [
        row["size"],
        row["setting"],
        number(row["parameters"]),
        duration(row["seconds"].value),
        number(row["speed"]),
        memory(row["memory"]),
        percent(share),
        "1" if row["ratio"] is None else _estimate(row["ratio"]),
    ]


def _runs(folder: StudyFolder, table: Table) -> list[dict[str, Any]]:
    """Every run: what came of it and where it lies, relative to the page."""
    found = []
    names = list(dict.fromkeys([*([table.score] if table.score else []), *folder.study.report]))
    for row, run in zip(table.rows, folder.study.runs, strict=True):
        run_folder = folder.run_folder(run)
        relative = quote(os.path.relpath(run_folder.path, folder.directory))
        report = (run_folder.path / "report.html").exists()
        link = f"{relative}/report.html" if report else f"{relative}/" if run_folder.path.exists() else None
        found.append(
            {
                "name": row.name,
                "link": link,
                "status": _status(row),
                "figures": [number(row.figures.get(name)) for name in names],
            }
        )
    return found


def _status(row: Row) -> str:
    return f"{row.status}: {row.error}" if row.error else row.status


def _estimate(found: Estimate) -> str:
    if found.value is None:
        return MISSING
    ends: Sequence[float] = found.interval or ()
    interval = f" [{', '.join(number(end) for end in ends)}]" if ends else ""
    return f"{number(found.value)}{interval}"

"""What the settings of a study cost, and which are worth it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stablegrad.reports.charts import GREY, Line, LineChart, Panel
from stablegrad.reports.study_figures import PERCENT, estimate_line, figure_title, file_name, note_on, part_title
from stablegrad.studies.table import OPTIMIZER_SECONDS, SPEED, Row, Table, average, estimate, ratio


def pareto_charts(table: Table) -> list[LineChart]:
    """Score against time, a figure for each part of the study whose scores may be set side by side."""
    return [chart for name, rows in table.parts() if (chart := pareto_chart(table, name, rows)) is not None]


def pareto_chart(table: Table, name: str, rows: Sequence[Row]) -> LineChart | None:
    """Score against the time of a run; the frontier is what nothing else beats in both."""
    if table.score is None:
        return None
    lines, seeds = [], []
    every: list[tuple[float, float]] = []
    for index, (setting, own) in enumerate(table.groups(rows, table.settings).items()):
        points = []
        for size, group in table.groups(own, table.sizes).items():
            seconds, found = average(group, "wall_seconds").value, estimate(group, table.score)
            seeds.append(found.seeds)
            if seconds and found.value is not None:
                points.append((seconds, found, table.label(table.sizes, size) if table.sizes else ""))
        if points:
            lines.append(estimate_line(table.label(table.settings, setting), index, points, mode="points"))
            every.extend((seconds, found.value or 0.0) for seconds, found, _ in points)
    frontier = pareto_frontier(every)
    if len(every) < 2:
        return None
    if len(frontier) > 1:
        x, y = zip(*frontier, strict=True)
        lines.append(Line("frontier", GREY, x, y, dash="dot"))
    return LineChart(
        file_name("pareto", name),
        part_title("Score against time", name),
        "How to read it: a point is a setting at a size; up is better, left is cheaper. The dotted line joins what "
        f"nothing else beats in both. Bars are {PERCENT} intervals over seeds; times are those of the study's machine, "
        "with its runs side by side.",
        note_on(rows, seeds),
        [Panel("", lines)],
        "time of a run (seconds, log scale)",
        figure_title(table.score),
        log_x=True,
    )


def pareto_frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, score) those that no other point beats in one and equals in the other, by rising cost."""
    frontier: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not frontier or score > frontier[-1][1]:
            frontier.append((cost, score))
    return frontier


def cost_rows(table: Table) -> list[dict[str, Any]]:
    """A row a size and setting: what it costs, and how that stands to the first setting at the same size."""
    rows = []
    for size, own in table.groups(table.rows, table.sizes).items():
        groups = table.groups(own, table.settings)
        first = next(iter(groups.values()))
        for setting, group in groups.items():
            seconds, optimizer = average(group, "wall_seconds"), average(group, OPTIMIZER_SECONDS)
            if seconds.value is None:
                continue
            share = None if optimizer.value is None or not seconds.value else optimizer.value / seconds.value
            rows.append(
                {
                    "size": table.label(table.sizes, size) if table.sizes else "",
                    "setting": table.label(table.settings, setting),
                    "parameters": average(group, "parameters").value,
                    "seconds": seconds,
                    "speed": average(group, SPEED[table.kind]).value,
                    "memory": average(group, "peak_memory_bytes").value,
                    "optimizer": share,
                    "ratio": None if group is first else ratio(first, group, "wall_seconds"),
                }
            )
    return rows

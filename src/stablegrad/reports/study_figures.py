"""The figures of a study, each made only of what the study has: sizes, settings, environments, curves, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stablegrad.environments.atari_scores import human_normalized_score
from stablegrad.errors import StablegradError
from stablegrad.reports.charts import (
    GREY,
    AnyChart,
    Cell,
    Dot,
    DotChart,
    GridChart,
    GridPanel,
    Grids,
    Line,
    LineChart,
    Panel,
    colour_of,
    dash_of,
)
from stablegrad.studies.bootstrap import aggregates, sample_efficiency_curve
from stablegrad.studies.curves import Curve, common_grid, extract, on_grid
from stablegrad.studies.kinds import RELEARN
from stablegrad.studies.statistics import mean_interval
from stablegrad.studies.study import Run
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.summary import FEW_SEEDS, RETURN
from stablegrad.studies.table import (
    CONFIDENCE,
    GRADIENT,
    HUMAN_NORMALIZED,
    REPLICATES,
    Estimate,
    Row,
    Table,
    average,
    counts,
    difference,
    estimate,
    task_matrix,
)
from stablegrad.supervised import SupervisedConfig

#: What people call a figure, with its unit.
TITLES = {
    "final_return": "final return (mean of the last 100 episodes)",
    HUMAN_NORMALIZED: "human-normalised return (0 random, 1 human)",
    "evaluation.mean_return": "mean return in evaluation",
    "evaluation.human_normalized_score": "human-normalised score in evaluation (0 random, 1 human)",
    "relearning.mean_final_accuracy": "training accuracy at the end of reshuffled phases (share of images)",
    "final_accuracy": "training accuracy at the end (share of images)",
    "relearning.relearned": "reshuffles learned again (number)",
    "wall_seconds": "time of a run (seconds)",
    "steps_per_second": "environment steps a second",
    "speed/images_per_second": "images a second",
    GRADIENT: "gradient norm before clipping (loss by parameter unit)",
}
POINTS = 200  # of a curve
CURVE_REPLICATES = 400
MOST_LINES = 8  # in a panel
MOST_PANELS = 48
PERCENT = f"{CONFIDENCE:.0%}"


def figure_title(name: str) -> str:
    """A figure's name and unit for people."""
    return TITLES.get(name, name)


def study_charts(folder: StudyFolder, table: Table) -> list[AnyChart]:
    """All figures that the study has something for, in the order of the page."""
    charts: list[AnyChart | None] = []
    parts = table.parts()
    for name, rows in parts:
        charts.append(grid_chart(table, name, rows))
    charts.append(size_chart(table))
    charts.append(curve_chart(folder, table))
    charts.append(improvement_chart(table))
    charts.append(aggregate_chart(table))
    for name, rows in parts:
        charts.extend(ablation_charts(table, name, rows))
    return [chart for chart in charts if chart is not None]


def note_on(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """What is to be borne in mind of a figure: few seeds, runs that are missing."""
    number_of, notes = counts(rows), []
    if any(0 < count < FEW_SEEDS for count in seeds):
        notes.append(f"Fewer than {FEW_SEEDS} seeds in places: a first look, not evidence.")
    if number_of["failed"] or number_of["left"]:
        notes.append(
            f"{number_of['failed']} of {len(rows)} runs failed and {number_of['left']} are left; "
            "they count in no number."
        )
    return " ".join(notes)


def layout(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(Axes of settings that get panels, axes that get lines): as many lines as can be told apart."""
    lines: tuple[str, ...] = ()
    for axis in reversed(table.settings):
        count = len(table.groups(table.rows, (axis, *lines)))
        if count <= MOST_LINES or not lines:
            lines = (axis, *lines)
        else:
            break
    return tuple(axis for axis in table.settings if axis not in lines), lines


def grid_chart(table: Table, name: str, rows: Sequence[Row]) -> GridChart | None:
    """The figure by depth x width, a grid a setting, beside the same of gradient norms; by size x setting where one of
    the two is no axis."""
    if not table.sizes:
        return None
    down: tuple[str, ...]
    across: tuple[str, ...]
    if len(table.sizes) == 2:
        down, across, over = table.sizes[:1], table.sizes[1:], table.settings
    else:
        down, across, over = table.settings, table.sizes, ()
    row_keys, column_keys = (list(table.groups(rows, along)) for along in (down, across))
    kinds, seeds = [], []
    for figure in dict.fromkeys([table.shown, GRADIENT]):
        panels = []
        for labels, own in table.groups(rows, over).items():
            by_row = table.groups(own, (*down, *across))
            cells = []
            for row in row_keys:
                line = []
                for column in column_keys:
                    group = by_row.get((*row, *column), [])
                    found = average(group, figure, logarithmic=True) if figure == GRADIENT else estimate(group, figure)
                    seeds.append(found.seeds)
                    line.append(Cell(found.value, found.interval, _missing(group, found)))
                cells.append(line)
            panels.append(GridPanel(table.label(over, labels) if over else "", cells))
        kinds.append(
            Grids(
                figure_title(figure),
                [table.label(down, row) for row in row_keys],
                [", ".join(column) for column in column_keys],
                panels,
                logarithmic=figure == GRADIENT,
            )
        )
    if all(cell.value is None for grids in kinds for panel in grids.panels for line in panel.cells for cell in line):
        return None
    return GridChart(
        file_name("grid", name),
        part_title("Score and gradient norm by size" if table.score else "Figures by size", name),
        "How to read it: a cell is a size of network; bright is high, dark is low, on one scale for all grids of a "
        "kind; where the gradient grid darkens together with the score, the network no longer receives a signal. "
        f"A number is the {_mean_of(table)}; of gradient norms the geometric mean.",
        note_on(rows, seeds),
        kinds,
        " and ".join(down) or "",
        across[0],
    )


def size_chart(table: Table) -> LineChart | None:
    """The figure against the number of parameters, a line a setting."""
    extra, over = layout(table)
    panel_axes = (*_task_axes(table), *extra)
    panels, seeds, sizes = [], [], set()
    for labels, own in table.groups(table.rows, panel_axes).items():
        lines = []
        for index, (setting, group) in enumerate(table.groups(own, over).items()):
            points = []
            for size, cell in table.groups(group, table.sizes).items():
                parameters, found = average(cell, "parameters").value, estimate(cell, table.shown)
                seeds.append(found.seeds)
                if parameters is not None and found.value is not None:
                    points.append((parameters, found, table.label(table.sizes, size)))
            points.sort(key=lambda point: point[0])
            sizes |= {point[0] for point in points}
            if points:
                lines.append(estimate_line(table.label(over, setting), index, points))
        if lines:
            panels.append(Panel(table.label(panel_axes, labels) if panel_axes else "", lines))
    if len(sizes) < 2 or not table.sizes:
        return None
    return LineChart(
        "parameters",
        "Score against the number of parameters" if table.score else "Against the number of parameters",
        "How to read it: a point is a size of network, its bar the "
        f"{PERCENT} interval of the {_mean_of(table)}; a line that rises to the right gains from size.",
        note_on(table.rows, seeds),
        panels[:MOST_PANELS],
        "parameters (log scale)",
        figure_title(table.shown),
        log_x=True,
        shared_y=table.comparable,
    )


def curve_chart(folder: StudyFolder, table: Table) -> LineChart | None:
    """Training accuracy by epoch with the reshuffles marked, or return by step; a panel a size."""
    extra, over = layout(table)
    normalized = table.kind != RELEARN and table.shown == HUMAN_NORMALIZED and table.comparable
    panel_axes = (*(() if table.kind == RELEARN or normalized else _tasks(table)), *extra, *table.sizes)
    runs = {run.name: run for run in folder.study.runs}
    panels: list[Panel] = []
    seeds, dropped, unread = [], 0, list[str]()
    for labels, own in table.groups(table.rows, panel_axes).items():
        if len(panels) == MOST_PANELS:
            dropped += 1
            continue
        lines, marks = [], set[int]()
        for index, (setting, group) in enumerate(table.groups(own, over).items()):
            curves: dict[tuple[str, int], Curve] = {}
            for row in group:
                if row.status == "finished":
                    config = runs[row.name].config
                    try:
                        curves[row.task, row.seed] = _curve(folder, runs[row.name], normalized)
                    except StablegradError as error:
                        unread.append(str(error))
                        continue
                    if isinstance(config, SupervisedConfig):
                        marks |= set(config.reshuffles)
            found = _mean_curve(curves)
            if found is None:
                continue
            x, mean, interval, count = found
            seeds.append(count)
            low, high = (None, None) if interval is None else ([*map(float, interval[0])], [*map(float, interval[1])])
            lines.append(
                Line(
                    table.label(over, setting),
                    colour_of(index),
                    [*map(float, x)],
                    [*map(float, mean)],
                    low,
                    high,
                    dash=dash_of(index),
                )
            )
        if lines:
            panels.append(Panel(table.label(panel_axes, labels), lines, sorted(marks)))
    if not panels:
        return None
    what = "mean" if len(table.tasks) < 2 or not normalized else "interquartile mean over environments"
    cut = f" The first {MOST_PANELS} of {MOST_PANELS + dropped} panels are shown." if dropped else ""
    if unread:
        cut += f" {len(unread)} curves are left out, as their metrics cannot be read: {unread[0]}."
    if table.kind == RELEARN:
        return LineChart(
            "relearning",
            "Training accuracy while labels are reshuffled",
            "How to read it: at every dashed mark labels are reshuffled and accuracy falls; a network that still "
            f"learns climbs again, one that does not stays low. A line is the mean of finished runs, its band, from "
            f"{FEW_SEEDS} seeds on, the {PERCENT} interval.",
            note_on(table.rows, seeds) + cut,
            panels,
            "epoch",
            "training accuracy (share of images)",
        )
    return LineChart(
        "learning_curves",
        "Learning curves",
        f"How to read it: higher is better. A line is the {what} of finished runs, its band, from {FEW_SEEDS} seeds "
        f"on, the {PERCENT} interval over seeds; bands that stay apart speak for a difference.",
        note_on(table.rows, seeds) + cut,
        panels,
        "environment steps",
        figure_title(HUMAN_NORMALIZED) if normalized else "return (mean of the last 100 episodes)",
        shared_y=len(table.tasks) < 2 or normalized,
    )


def improvement_chart(table: Table) -> DotChart | None:
    """What every setting gains over the first, environment by environment."""
    names = list(table.groups(table.rows, table.settings))
    if table.task_axis is None or table.score is None or len(names) < 2:
        return None
    groups, seeds = [], []
    for index, setting in enumerate(names[1 : 1 + MOST_LINES], start=1):
        dots = []
        for task in table.tasks:
            rows = [row for row in table.rows if row.task == task]
            pair = table.groups(rows, table.settings)
            first, second = pair.get(names[0], []), pair.get(setting, [])
            found = difference(first, second, table.score)
            unit = 1.0 if table.comparable else _range(rows, table.score)
            seeds.append(found.seeds)
            if found.value is None or not unit:
                dots.append(Dot(task, None, None, GREY, _missing([*first, *second], found) or "no range"))
            else:
                ends = None if found.interval is None else (found.interval[0] / unit, found.interval[1] / unit)
                dots.append(Dot(task, found.value / unit, ends, colour_of(index)))
        groups.append(
            (f"{table.label(table.settings, setting)} over {table.label(table.settings, names[0])}", _sorted(dots))
        )
    if all(dot.value is None for _, dots in groups for dot in dots):
        return None
    return DotChart(
        "improvement",
        "Improvement by environment",
        "How to read it: a bar to the right is an environment that the setting improves; whiskers are the "
        f"{PERCENT} interval of the difference paired by seed. Where they cross 0, chance alone could explain it.",
        note_on(table.rows, seeds)
        + (f" The first {MOST_LINES} of {len(names) - 1} settings are shown." if len(names) - 1 > MOST_LINES else ""),
        groups,
        f"difference in {figure_title(table.score)}"
        if table.comparable
        else f"difference in {figure_title(table.score)}, as a share of the range of all runs in that environment",
        zero=True,
    )


def aggregate_chart(table: Table) -> DotChart | None:
    """Interquartile mean, median, mean and optimality gap over environments, by setting."""
    if len(table.tasks) < 2 or not table.comparable or table.score is None:
        return None
    found: dict[str, list[Dot]] = {}
    seeds = []
    for index, (setting, rows) in enumerate(table.groups(table.rows, table.settings).items()):
        label, matrix = table.label(table.settings, setting), task_matrix(rows, table.score)
        if matrix is None:
            continue
        seeds.append(len(matrix.seeds))
        for name, value in aggregates(matrix, replicates=REPLICATES).items():
            ends = None if value.interval is None else (float(value.interval[0]), float(value.interval[1]))
            found.setdefault(name.replace("_", " ").replace("iqm", "interquartile mean"), []).append(
                Dot(label, float(value.estimate), ends, colour_of(index))
            )
    if not found:
        return None
    return DotChart(
        "aggregates",
        f"Over all {len(table.tasks)} tasks",
        "How to read it: to the right is better, but for the optimality gap, the mean shortfall from 1; bars are "
        f"{PERCENT} bootstrap intervals: what other seeds of the same tasks might have given.",
        note_on(table.rows, seeds),
        list(found.items()),
        figure_title(table.score),
    )


def ablation_charts(table: Table, name: str, rows: Sequence[Row]) -> list[DotChart]:
    """One axis of settings at a time, the others averaged over; and all combinations where there are several axes."""
    if table.score is None:
        return []
    by_size = table.groups(rows, table.sizes)
    largest = next(reversed(by_size))
    scopes = [(f"largest: {table.label(table.sizes, largest)}", by_size[largest])] if len(by_size) > 1 else []
    scopes.append(("mean over sizes" if scopes else "", list(rows)))
    charts = []
    axes = table.settings
    for combination in [*((axis,) for axis in axes), *([axes] if len(axes) > 1 else [])]:
        ordered = len(combination) == 1 and all(_is_number(value) for value in table.axes[combination[0]])
        groups, seeds = [], []
        for scope, own in scopes:
            dots = []
            for index, (labels, group) in enumerate(table.groups(own, combination).items()):
                found = estimate(group, table.score)
                seeds.append(found.seeds)
                colour = colour_of(index) if len(combination) == 1 else colour_of(1)
                dots.append(
                    Dot(table.label(combination, labels), found.value, found.interval, colour, _missing(group, found))
                )
            groups.append((scope, dots if ordered else _sorted(dots)))
        if all(dot.value is None for _, dots in groups for dot in dots):
            continue
        what = " x ".join(combination)
        others = [axis for axis in table.settings if axis not in combination]
        averaged = f" They are averaged over {', '.join(others)}." if others else ""
        charts.append(
            DotChart(
                file_name(f"ablation_{'_'.join(combination)}", name),
                part_title(f"Ablation: {what}", name),
                f"How to read it: a dot is the {_mean_of(table)}, its bar the {PERCENT} interval"
                f"{'' if ordered else '; the best stands on top'}.{averaged}",
                note_on(rows, seeds),
                groups,
                figure_title(table.score),
            )
        )
    return charts


def _curve(folder: StudyFolder, run: Run, normalized: bool) -> Curve:
    metrics = folder.run_folder(run).read_metrics()
    if isinstance(run.config, SupervisedConfig):
        by_epoch = [{**row, "step": row["train/epoch"]} for row in metrics if "train/epoch" in row]
        return extract(by_epoch, "train/accuracy")
    curve = extract(metrics, RETURN)
    return Curve(curve.steps, human_normalized_score(run.config.env, curve.values)) if normalized else curve


def _mean_curve(
    curves: Mapping[tuple[str, int], Curve],
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None, int] | None:
    """Grid, mean, interval and number of seeds of (task, seed) -> curve; of seeds that every task has."""
    curves = {key: curve for key, curve in curves.items() if curve.steps.size}
    tasks = list(dict.fromkeys(task for task, _ in curves))
    seeds = sorted({seed for _, seed in curves if all((task, seed) in curves for task in tasks)})
    if not seeds:
        return None
    chosen = [curves[task, seed] for seed in seeds for task in tasks]
    grid = common_grid(chosen, min(POINTS, max(curve.steps.size for curve in chosen)))
    if not grid.size:
        return None
    values = on_grid(chosen, grid)
    if len(tasks) == 1:
        found = mean_interval(values)
        # Of two seeds Student's interval is wider than the panel everywhere: a band would only hide the lines.
        return grid, found.mean, found.interval if found.count >= FEW_SEEDS else None, found.count
    array = values.reshape(len(seeds), len(tasks), grid.size)
    if grid.size == 1:
        return grid, array.mean(axis=(0, 1)), None, len(seeds)
    efficiency = sample_efficiency_curve(array, grid, replicates=CURVE_REPLICATES)
    return grid, efficiency.estimate, efficiency.interval, efficiency.count


def estimate_line(name: str, index: int, points: Sequence[tuple[float, Estimate, str]], mode: str = "both") -> Line:
    """A line through estimates; where one has no interval, its ends are the estimate itself."""
    values = [found.value or 0.0 for _, found, _ in points]
    ends = [found.interval or (value, value) for (_, found, _), value in zip(points, values, strict=True)]
    several = any(found.interval is not None for _, found, _ in points)
    return Line(
        name,
        colour_of(index),
        [x for x, _, _ in points],
        values,
        [low for low, _ in ends] if several else None,
        [high for _, high in ends] if several else None,
        mode,
        dash_of(index),
        [f"{label}, {found.seeds} seed{'' if found.seeds == 1 else 's'}" for _, found, label in points],
    )


def _missing(rows: Sequence[Row], found: Estimate) -> str:
    """Why a group has no number, or which of its runs are not in it; "" where all are."""
    if not rows:
        return "not in the study"
    number_of = counts(rows)
    if found.value is None:
        words = [f"{number_of[status]} {status}" for status in ("failed", "left") if number_of[status]]
        return ", ".join(words) or "no number"
    seeds = len({row.seed for row in rows})
    return f"{found.seeds}/{seeds} seeds" if found.seeds < seeds else ""


def _sorted(dots: Sequence[Dot]) -> list[Dot]:
    """The highest first, those without a number last."""
    return sorted(dots, key=lambda dot: (dot.value is None, -(dot.value or 0.0)))


def _range(rows: Sequence[Row], figure: str) -> float:
    values = [value for row in rows if (value := row.figures.get(figure)) is not None]
    return max(values) - min(values) if values else 0.0


def _task_axes(table: Table) -> tuple[str, ...]:
    return () if table.comparable else _tasks(table)


def _tasks(table: Table) -> tuple[str, ...]:
    return () if table.task_axis is None else (table.task_axis,)


def _mean_of(table: Table) -> str:
    several = len(table.tasks) > 1 and table.comparable
    return "interquartile mean over tasks and seeds" if several else "mean over seeds"


def part_title(title: str, name: str) -> str:
    """The title of a figure of one part of a study."""
    return f"{title}: {name}" if name else title


def file_name(kind: str, name: str) -> str:
    """Name of a figure's files, without their endings."""
    words = [kind, *([name] if name else [])]
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in "_".join(words))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True

"""Charts as pictures: PNG and SVG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from stablegrad.files import write_atomically
from stablegrad.reports.charts import (
    GREY,
    AnyChart,
    Chart,
    DotChart,
    GridChart,
    Line,
    LineChart,
    colour_range,
    colour_ticks,
    columns_of,
    dot_limits,
    ink_on,
    limits,
    log_ticks,
    scaled_value,
    tick_label,
)
from stablegrad.reports.figures import new_figure, png, styled
from stablegrad.reports.fonts import tell, watched_letters
from stablegrad.text import number

DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
MARKERS = {"line": "", "points": "o", "both": "o"}


def write_pictures(folder: Path, charts: Sequence[AnyChart]) -> list[Path]:
    """Write every chart as PNG and SVG into a folder, which is made.

    Returns:
        the files written.
    """
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    missing: set[str] = set()
    for chart in charts:
        figure = picture(chart)
        with watched_letters() as lacking:
            pictures = {"png": png(figure, 110)}
        with watched_letters(), mpl.rc_context({"svg.fonttype": "none" if lacking else "path"}):
            # As text, letters are drawn with the fonts of who looks at it.
            pictures["svg"] = _svg(figure)
        missing |= lacking
        for ending, content in pictures.items():
            written.append(folder / f"{chart.name}.{ending}")
            write_atomically(written[-1], content)
    tell(missing)
    return written


def picture(chart: AnyChart) -> Figure:
    """A chart drawn, with its title above and what is to be known of it below."""
    with styled():
        if isinstance(chart, LineChart):
            return _lines(chart)
        if isinstance(chart, DotChart):
            return _dots(chart)
        return _grids(chart)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with styled():
        # without a date: the same figures give the same file
        figure.savefig(buffer, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def _lines(chart: LineChart) -> Figure:
    count = len(chart.panels)
    columns = columns_of(count)
    rows = -(-count // columns)
    figure = new_figure(7.8 if count == 1 else 3.3 * columns + 1.4, 4.6 if count == 1 else 2.2 * rows + 1.4)
    share: Any = "all" if chart.shared_y else False
    panels = figure.subplots(rows, columns, squeeze=False, sharex="all", sharey=share).ravel()
    legend: dict[str, Any] = {}
    for axes, panel in zip(panels, chart.panels, strict=False):
        for line in panel.lines:
            legend.setdefault(line.name, _line(axes, line))
        for mark in panel.marks:
            axes.axvline(mark, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        axes.set_title(panel.title, loc="left", fontsize=10)
        axes.xaxis.set_tick_params(labelbottom=True)
        if chart.log_x:
            axes.set_xscale("log")
            every = [x for each in chart.panels for line in each.lines for x in line.x]
            axes.xaxis.set_major_locator(FixedLocator(log_ticks(min(every) / 1.15, max(every) * 1.15)))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(lambda value, _: tick_label(value))
        if not chart.shared_y:
            axes.set_ylim(*limits(panel.lines))
    if chart.shared_y:
        panels[0].set_ylim(*limits([line for panel in chart.panels for line in panel.lines]))
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[max(count - columns, 0) : count]:
        axes.set_xlabel(chart.x_title)
    figure.supylabel("\n".join(textwrap.wrap(chart.y_title, 22 * rows + 16)), fontsize=10)
    if len(legend) > 1:
        figure.legend(legend.values(), legend.keys(), loc="outside right upper", fontsize=9)
    return _captioned(figure, chart)


def _line(axes: Axes, line: Line) -> Any:
    style = {"line": DASHES[line.dash], "both": DASHES[line.dash], "points": ""}[line.mode]
    (drawn,) = axes.plot(line.x, line.y, color=line.colour, linestyle=style, marker=MARKERS[line.mode], markersize=5)
    if line.low is not None and line.high is not None:
        if line.mode == "line":
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.15, linewidth=0)
        else:
            axes.vlines(line.x, line.low, line.high, color=line.colour, linewidth=1)
    return drawn


def _dots(chart: DotChart) -> Figure:
    lengths = [len(dots) for _, dots in chart.groups]
    figure = new_figure(7.0, 0.26 * sum(lengths) + 0.55 * len(lengths) + 1.0)
    panels = figure.subplots(len(lengths), 1, squeeze=False, sharex="all", height_ratios=lengths)[:, 0]
    for axes, (title, dots) in zip(panels, chart.groups, strict=True):
        axes.grid(axis="y", visible=False)
        for row, dot in enumerate(dots):
            if dot.value is None:
                axes.text(
                    0.01, row, dot.note, style="italic", va="center", fontsize=9, transform=axes.get_yaxis_transform()
                )
                continue
            if chart.zero:
                axes.barh(row, dot.value, color=dot.colour, alpha=0.75, height=0.7)
            else:
                axes.plot(dot.value, row, "o", color=dot.colour)
            if dot.interval is not None:
                axes.hlines(row, *dot.interval, color="#444444" if chart.zero else dot.colour, linewidth=1.3)
        if chart.zero:
            axes.axvline(0, color="#444444", linewidth=0.8)
        axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title, loc="left", fontsize=10)
    panels[-1].set_xlim(*dot_limits(chart))
    panels[-1].set_xlabel("\n".join(textwrap.wrap(chart.x_title, 80)))
    return _captioned(figure, chart)


def _grids(chart: GridChart) -> Figure:
    kinds, most = chart.kinds, max(len(kind.panels) for kind in chart.kinds)
    columns, rows = len(kinds[0].columns), len(kinds[0].rows)
    figure = new_figure(max(0.95 * columns + 1.3, 3.6) * len(kinds), most * (0.42 * rows + 0.55) + 1.2)
    panels = figure.subplots(most, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        low, high = colour_range(kind)
        norm = Normalize(low, high)
        for axes, panel in zip(panels[:, column], kind.panels, strict=True):
            axes.grid(False)
            axes.spines[:].set_visible(False)
            values = np.array(
                [[_nan(scaled_value(cell.value, kind.logarithmic)) for cell in line] for line in panel.cells]
            )
            axes.imshow(values, norm=norm, cmap="viridis", aspect="auto")
            for row, line in enumerate(panel.cells):
                for place, cell in enumerate(line):
                    if cell.value is None:
                        text, ink = cell.note.replace(", ", "\n"), "#444444"
                    else:
                        text = number(cell.value) + (f"\n{cell.note}" if cell.note else "")
                        ink = ink_on(float(norm(_nan(scaled_value(cell.value, kind.logarithmic)))))
                    axes.text(place, row, text, ha="center", va="center", fontsize=8, color=ink)
            axes.set_xticks(range(columns), [*map(str, kind.columns)])
            axes.set_yticks(range(rows), kind.rows)
            axes.tick_params(length=0)
            axes.set_title(panel.title, loc="left", fontsize=10)
        panels[-1, column].set_xlabel(chart.column_title)
        bar = figure.colorbar(
            ScalarMappable(norm, "viridis"),
            ax=list(panels[:, column]),
            location="bottom",
            label="\n".join(textwrap.wrap(kind.title, 40)),
            aspect=30,
        )
        ticks, words = colour_ticks(low, high, kind.logarithmic)
        bar.set_ticks(ticks, labels=words)
        bar.outline.set_visible(False)
    return _captioned(figure, chart)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _captioned(figure: Figure, chart: Chart) -> Figure:
    """The title above, how to read it and what to bear in mind below."""
    width = int(figure.get_figwidth() * 13.5)
    caption = textwrap.wrap(f"{chart.reading} {chart.note}".strip(), width)
    figure.suptitle("\n".join(textwrap.wrap(chart.title, width)), x=0.01, ha="left", fontsize=12)
    figure.supxlabel("\n".join(caption), x=0.01, ha="left", fontsize=8, color="#444444", linespacing=1.4)
    return figure

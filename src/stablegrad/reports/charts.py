"""What a figure shows, apart from how it is drawn: panels of lines, rows of dots, grids of cells.

``charts_page`` draws them for a page (plotly), ``charts_picture`` as PNG and SVG (matplotlib), from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from matplotlib import colormaps
from matplotlib.ticker import EngFormatter

from stablegrad.pages import SETTING_COLOURS
from stablegrad.text import number, power

#: The two colours of comparisons, then others that stay apart for colour-blind readers.
PALETTE = (*SETTING_COLOURS, "#009e73", "#cc79a7", "#a58a00", "#7f5fd6", "#56b4e9", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot")
GREY = "#8a8f98"


def colour_of(index: int) -> str:
    """Colour of the setting with this number."""
    return PALETTE[index % len(PALETTE)]


def dash_of(index: int) -> str:
    """Line style of the setting with this number: another where colours begin anew."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


@dataclass(frozen=True)
class Line:
    """One line or one set of points; lists of one length.

    Attributes:
        name: in the legend; lines of one name are one entry.
        colour: "#rrggbb".
        x: positions.
        y: values.
        low: lower ends of the intervals; None where there are none.
        high: upper ends.
        mode: "line" (with a band), "points" (with error bars) or "both" (with error bars).
        dash: one of ``DASHES``.
        labels: what is said of a point when it is pointed at.
    """

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    mode: str = "line"
    dash: str = "solid"
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """A system of axes with its lines and the vertical marks in it."""

    title: str
    lines: Sequence[Line]
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Dot:
    """A number with its interval, a row of its own; ``value`` None: ``note`` says why."""

    label: str
    value: float | None
    interval: tuple[float, float] | None
    colour: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a grid; ``value`` None: ``note`` says why there is no number."""

    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class GridPanel:
    """Cells [rows][columns] under one title."""

    title: str
    cells: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Chart:
    """What all figures have.

    Attributes:
        name: of its files.
        title: what is shown.
        reading: one sentence on how to read it.
        note: what is to be borne in mind: few seeds, runs that are missing; "" where nothing is.
    """

    name: str
    title: str
    reading: str
    note: str


@dataclass(frozen=True)
class LineChart(Chart):
    """Panels of lines, side by side."""

    panels: Sequence[Panel]
    x_title: str
    y_title: str
    log_x: bool = False
    shared_y: bool = True


@dataclass(frozen=True)
class DotChart(Chart):
    """Rows of dots with intervals, a title a group; ``zero``: a line there, and bars from it in place of dots."""

    groups: Sequence[tuple[str, Sequence[Dot]]]
    x_title: str
    zero: bool = False


@dataclass(frozen=True)
class Grids:
    """Grids of one kind, on one colour scale."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    panels: Sequence[GridPanel]
    logarithmic: bool = False


@dataclass(frozen=True)
class GridChart(Chart):
    """Grids of several kinds, a colour scale each, side by side."""

    kinds: Sequence[Grids]
    row_title: str
    column_title: str


AnyChart: TypeAlias = LineChart | DotChart | GridChart


def limits(lines: Sequence[Line]) -> tuple[float, float]:
    """The range of the y axis of lines, see :func:`span_of`."""
    ends = [end for line in lines if line.low is not None and line.high is not None for end in (*line.low, *line.high)]
    return span_of([value for line in lines for value in line.y], ends)


def dot_limits(chart: DotChart) -> tuple[float, float]:
    """The range of the x axis of dots, see :func:`span_of`."""
    dots = [dot for _, group in chart.groups for dot in group if dot.value is not None]
    values = [dot.value for dot in dots if dot.value is not None]
    ends = [end for dot in dots if dot.interval is not None for end in dot.interval]
    return span_of([*values, *([0.0] if chart.zero else [])], ends)


def span_of(values: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """The range of all values with a margin; of intervals at most half that range more at each side.

    The interval of two seeds can be many times wider than anything seen.
    """
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    low, high = max(min([low, *ends]), low - span / 2), min(max([high, *ends]), high + span / 2)
    margin = (high - low) / 20 or 0.5
    return low - margin, high + margin


def columns_of(panels: int) -> int:
    """How many panels stand side by side."""
    return 2 if panels in (2, 4) else min(panels, 3)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range of positive ones: powers of ten, or if these are few, multiples of them, too."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for factors in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)):
        ticks = [tick for decade in decades for factor in factors if low <= (tick := factor * 10.0**decade) <= high]
        if len(ticks) >= 3:
            break
    return ticks


def tick_label(value: float) -> str:
    """A round number on an axis: 0.5, 20, 50k, 2M."""
    return f"{value:g}" if abs(value) < 1000 else EngFormatter(sep="")(value)


def colour_range(grids: Grids) -> tuple[float, float]:
    """The ends of a colour scale, in logarithms to the base of ten where the scale has them."""
    cells = [cell.value for panel in grids.panels for line in panel.cells for cell in line]
    values = [scaled for value in cells if (scaled := scaled_value(value, grids.logarithmic)) is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)


def colour_ticks(low: float, high: float, logarithmic: bool) -> tuple[list[float], list[str]]:
    """Places and labels of a colour bar: decades where there are two or more, else its ends and its middle."""
    decades = list(range(math.ceil(low), math.floor(high) + 1))
    if logarithmic and len(decades) > 1:
        return [float(decade) for decade in decades], [power(decade) for decade in decades]
    places = [low, (low + high) / 2, high]
    return places, [number(10**place if logarithmic else place) for place in places]


def scaled_value(value: float | None, logarithmic: bool) -> float | None:
    """Where a value lies on a colour scale; None where it is not on it."""
    if value is None or not logarithmic:
        return value
    return math.log10(value) if value > 0 else None


def ink_on(position: float) -> str:
    """Black or white, whichever is read better on the colour at a position, 0 to 1, of the scale of grids."""
    red, green, blue, _ = colormaps["viridis"](position)
    return "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "#ffffff"

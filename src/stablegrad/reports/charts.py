"""What a figure shows, apart from how it is drawn: panels of lines, rows of dots, grids of cells.

``charts_page`` draws them for a page (plotly), ``charts_picture`` as PNG and SVG (matplotlib), from the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from stablegrad.reports.series import SETTING_COLOURS

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
    """The range of all values with a margin; of intervals at most half that range more at each end.

    The interval of two seeds can be many times wider than anything seen.
    """
    values = [value for line in lines for value in line.y]
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    ends = [end for line in lines if line.low is not None and line.high is not None for end in (*line.low, *line.high)]
    low, high = max(min([low, *ends]), low - span / 2), min(max([high, *ends]), high + span / 2)
    margin = (high - low) / 20 or 0.5
    return low - margin, high + margin

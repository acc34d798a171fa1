"""Charts as interactive figures of a page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

from stablegrad.pages import VIRIDIS, PageFigure, page_figure, transparent
from stablegrad.reports.charts import (
    GREY,
    AnyChart,
    Cell,
    Chart,
    DotChart,
    GridChart,
    Grids,
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
from stablegrad.text import number

SCALE = [[index / (len(VIRIDIS) - 1), colour] for index, colour in enumerate(VIRIDIS)]
PANEL_HEIGHT = 190  # pixels
WIDE, NARROW = 110, 46  # characters of a line of text above or below a figure
DOT_HEIGHT = 26
GROUP_HEIGHT = 34


def page_figures(chart: AnyChart) -> list[PageFigure]:
    """One figure, or of grids one a kind, which a page puts side by side; each with its layout on phones."""
    if isinstance(chart, GridChart):
        return [_grids(chart, kind, 2).with_narrow(_grids(chart, kind, 1)) for kind in chart.kinds]
    if isinstance(chart, LineChart):
        return [_lines(chart, columns_of(len(chart.panels)), WIDE).with_narrow(_lines(chart, 1, NARROW))]
    return [_dots(chart, WIDE).with_narrow(_dots(chart, NARROW))]


def _lines(chart: LineChart, columns: int, characters: int) -> PageFigure:
    count = len(chart.panels)
    columns = min(columns, count)
    rows = -(-count // columns)
    height = PANEL_HEIGHT * rows if count > 1 else 340
    figure = _subplots(rows, columns, height, [panel.title for panel in chart.panels])
    shown = set[str]()
    common = limits([line for panel in chart.panels for line in panel.lines])
    log_axis = _log_axis([x for panel in chart.panels for line in panel.lines for x in line.x]) if chart.log_x else {}
    for place, panel in enumerate(chart.panels):
        axes = _axes(place)
        for line in panel.lines:
            for trace in _traces(line):
                trace.update(**axes, legendgroup=line.name)
                if trace.showlegend is None:
                    trace.showlegend = line.name not in shown
                    shown.add(line.name)
                figure.add_trace(trace)
        for mark in panel.marks:
            figure.add_shape(
                type="line", x0=mark, x1=mark, y0=0, y1=1, xref=axes["xaxis"], yref=f"{axes['yaxis']} domain",
                line={"color": GREY, "width": 1, "dash": "dash"}, layer="below",
            )  # fmt: skip
        own = common if chart.shared_y else limits(panel.lines)
        bottom, left = place + columns >= count, place % columns == 0
        # a grid line would hide a mark
        figure.layout[_key("x", place)].update(showticklabels=bottom, showgrid=not panel.marks, **log_axis)
        figure.layout[_key("y", place)].update(range=own, showticklabels=left or not chart.shared_y)
        if not chart.shared_y:
            figure.layout[_key("y", place)].update(tickfont_size=10)
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(nticks=5)
    return _finished(figure, chart, height, chart.x_title, chart.y_title, len(shown), characters)


def _traces(line: Line) -> list[Any]:
    """A line with its band, or points with error bars."""
    traces: list[Any] = []
    x, y = _rounded(line.x), _rounded(line.y)
    if line.low is not None and line.high is not None and line.mode == "line":
        low, high = _rounded(line.low), _rounded(line.high)
        traces.append(
            go.Scatter(
                x=[*x, *x[::-1]],
                y=[*high, *low[::-1]],
                fill="toself",
                fillcolor=transparent(line.colour, 0.16),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
            )
        )
    name = str(escape(line.name))
    hover = "%{x:,.4~s}: %{y:.4~g}" + ("<br>%{text}" if line.labels else "") + f"<extra>{name}</extra>"
    main = go.Scatter(
        x=x,
        y=y,
        name=name,
        mode={"line": "lines", "points": "markers", "both": "lines+markers"}[line.mode],
        line={"color": line.colour, "width": 2, "dash": line.dash},
        marker={"color": line.colour, "size": 8},
        text=[str(escape(label)) for label in line.labels] or None,
        hovertemplate=hover,
    )
    if line.low is not None and line.high is not None and line.mode != "line":
        main.error_y = {
            "array": _rounded([high - value for high, value in zip(line.high, line.y, strict=True)]),
            "arrayminus": _rounded([value - low for low, value in zip(line.low, line.y, strict=True)]),
            "thickness": 1,
            "width": 3,
        }
    return [*traces, main]


def _dots(chart: DotChart, characters: int) -> PageFigure:
    """Rows of dots, or bars from 0; the groups one below the other on one x axis."""
    lengths = [len(dots) for _, dots in chart.groups]
    height = DOT_HEIGHT * sum(lengths) + GROUP_HEIGHT * len(lengths)
    figure = go.Figure()
    top = 1.0
    for place, (title, dots) in enumerate(chart.groups):
        share = (DOT_HEIGHT * len(dots)) / height
        top -= GROUP_HEIGHT / height
        _panel_title(figure, title, 0.0, top, x_ref="paper")
        y_key = _key("y", place)
        figure.layout[y_key] = {
            "domain": [max(top - share, 0.0), top],
            "range": [len(dots) - 0.5, -0.5],
            "tickvals": list(range(len(dots))),
            "ticktext": [str(escape(dot.label)) for dot in dots],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "anchor": "x",
        }
        top -= share
        axis = _axes(place)["yaxis"]
        known = [(row, dot) for row, dot in enumerate(dots) if dot.value is not None]
        values = [dot.value or 0.0 for _, dot in known]
        ends = [dot.interval or (value, value) for (_, dot), value in zip(known, values, strict=True)]
        error: dict[str, Any] = {
            "array": [high - value for (_, high), value in zip(ends, values, strict=True)],
            "arrayminus": [value - low for (low, _), value in zip(ends, values, strict=True)],
            "thickness": 1.5,
            "width": 4,
        }
        common: dict[str, Any] = {
            "x": values,
            "y": [row for row, _ in known],
            "yaxis": axis,
            "showlegend": False,
            "text": [str(escape(_in_words(dot.value, dot.interval, dot.note))) for _, dot in known],
            "hovertemplate": "%{text}<extra></extra>",
            "error_x": error,
        }
        colours = [dot.colour for _, dot in known]
        if chart.zero:
            bar = go.Bar(**common, orientation="h", width=0.7, textposition="none")
            figure.add_trace(bar.update(marker={"color": colours, "opacity": 0.75}))
            figure.data[-1].error_x.color = GREY
        else:
            # a trace has one colour for its error bars, so each dot is its own
            for index, colour in enumerate(colours):
                single = {key: [common[key][index]] for key in ("x", "y", "text")}
                bars = {key: [error[key][index]] for key in ("array", "arrayminus")}
                figure.add_scatter(
                    **{**common, **single, "error_x": {**error, **bars, "color": colour}},
                    mode="markers",
                    marker={"color": colour, "size": 10},
                )
        for row, dot in enumerate(dots):
            if dot.value is None:
                figure.add_annotation(
                    x=0, xref="paper", xanchor="left", y=row, yref=axis, text=f"<i>{escape(dot.note)}</i>",
                    showarrow=False, xshift=6,
                )  # fmt: skip
    last = _axes(len(chart.groups) - 1)["yaxis"]
    figure.update_layout(
        xaxis={"anchor": last, "zeroline": chart.zero, "zerolinewidth": 2, "range": list(dot_limits(chart))}, bargap=0.3
    )
    return _finished(figure, chart, height, chart.x_title, None, 0, characters)


def _grids(chart: GridChart, kind: Grids, columns: int) -> PageFigure:
    """All grids of a kind with one colour bar."""
    count = len(kind.panels)
    columns = min(count, columns if len(kind.columns) > 2 else 2)
    rows = -(-count // columns)
    height = rows * (26 + 40 * len(kind.rows)) + 24 * (rows - 1)
    figure = _subplots(rows, columns, height, [panel.title for panel in kind.panels], gap=0.12)
    low, high = colour_range(kind)
    for place, panel in enumerate(kind.panels):
        axes = _axes(place)
        z = [[scaled_value(cell.value, kind.logarithmic) for cell in line] for line in panel.cells]
        figure.add_heatmap(
            x=list(range(len(kind.columns))),
            y=list(range(len(kind.rows))),
            z=z,
            coloraxis="coloraxis",
            customdata=[[str(escape(_in_words(c.value, c.interval, c.note))) for c in line] for line in panel.cells],
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            xgap=2,
            ygap=2,
            **axes,
        )
        places = [(row, column) for row in range(len(kind.rows)) for column in range(len(kind.columns))]
        size = 12 if len(kind.columns) < 4 else 10
        inks = {
            (row, column): ink_on((value - low) / (high - low))
            for row, column in places
            if (value := z[row][column]) is not None
        }
        # Words where there is no number stand on the page, and have its ink, light or dark.
        wordless = [at for at in places if at not in inks]
        for group, font in ((list(inks), {"color": list(inks.values())}), (wordless, {})):
            if group:
                figure.add_scatter(
                    x=[column for _, column in group],
                    y=[row for row, _ in group],
                    text=[_cell_text(panel.cells[row][column]) for row, column in group],
                    mode="text",
                    textfont={"size": size, **font},
                    hoverinfo="skip",
                    showlegend=False,
                    **axes,
                )
        bottom, left = place + columns >= count, place % columns == 0
        figure.layout[_key("x", place)].update(
            tickvals=list(range(len(kind.columns))), ticktext=[str(escape(column)) for column in kind.columns],
            showticklabels=bottom, showgrid=False, ticks="", zeroline=False, fixedrange=True,
            range=[-0.5, len(kind.columns) - 0.5],
        )  # fmt: skip
        figure.layout[_key("y", place)].update(
            tickvals=list(range(len(kind.rows))), ticktext=[str(escape(row)) for row in kind.rows],
            showticklabels=left, showgrid=False, ticks="", zeroline=False, fixedrange=True,
            range=[len(kind.rows) - 0.5, -0.5],
        )  # fmt: skip
    ticks, words = colour_ticks(low, high, kind.logarithmic)
    figure.update_layout(
        coloraxis={
            "colorscale": SCALE,
            "cmin": low,
            "cmax": high,
            "colorbar": {
                "orientation": "h",
                "yref": "container",
                "y": 0,
                "yanchor": "bottom",
                "thickness": 10,
                "len": 0.9,
                "tickvals": ticks,
                "ticktext": words,
                "outlinewidth": 0,
            },
        }
    )
    for place in range(max(count - columns, 0), count):
        figure.layout[_key("x", place)].title = str(escape(chart.column_title))
    description = f"{kind.title} by {chart.row_title} and {chart.column_title}"
    _above(figure, kind.title, NARROW)
    top = max(_height_above(other.title, NARROW) for other in chart.kinds)
    return page_figure(figure, height + 90 + top, description, margin={"t": top, "b": 90})


def _subplots(rows: int, columns: int, height: float, titles: Sequence[str], gap: float = 0.05) -> go.Figure:
    """Axes in rows and columns, with the panels' titles above them."""
    figure = go.Figure()
    title_share = 26 / height if any(titles) else 0.0
    row_gap = 24 / height if rows > 1 else 0.0
    row_height = (1 - row_gap * (rows - 1)) / rows
    for place in range(len(titles)):
        row, column = divmod(place, columns)
        width = (1 - gap * (columns - 1)) / columns
        left = column * (width + gap)
        start = 1 - row * (row_height + row_gap)
        top, bottom = start - title_share, start - row_height
        axes = _axes(place)
        figure.layout[_key("x", place)] = {"domain": [left, left + width], "anchor": axes["yaxis"]}
        figure.layout[_key("y", place)] = {"domain": [max(bottom, 0.0), top], "anchor": axes["xaxis"]}
        _panel_title(figure, titles[place], left, top, x_ref="paper")
    return figure


def _panel_title(figure: go.Figure, title: str, x: float, y: float, x_ref: str) -> None:
    if title:
        figure.add_annotation(
            x=x, y=y, xref=x_ref, yref="paper", xanchor="left", yanchor="bottom", text=f"<b>{escape(title)}</b>",
            showarrow=False, font_size=12,
        )  # fmt: skip


def _finished(
    figure: go.Figure,
    chart: Chart,
    height: float,
    x_title: str,
    y_title: str | None,
    legend_names: int,
    characters: int,
) -> PageFigure:
    """The axes' titles once a figure, so that panels stay large, and the style of the page."""
    figure.add_annotation(
        x=0.5, y=0, xref="paper", yref="paper", yshift=-24, yanchor="top", text=_wrapped(x_title, characters),
        showarrow=False,
    )  # fmt: skip
    top = 12
    if y_title is not None:
        _above(figure, y_title, characters)
        top = _height_above(y_title, characters)
    below = 45 + 16 * _wrapped(x_title, characters).count("<br>") + 14
    if legend_names > 1:
        below += 14 + 20 * -(-legend_names // (5 if characters == WIDE else 2))
    figure.update_layout(showlegend=legend_names > 1)
    return page_figure(figure, int(height) + below + top, chart.title, margin={"t": top, "b": below})


def _above(figure: go.Figure, text: str, characters: int) -> None:
    """What the values are, above the panels: beside them it would take their room."""
    figure.add_annotation(
        x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=6, xshift=-40,
        text=_wrapped(text, characters), showarrow=False, align="left",
    )  # fmt: skip


def _height_above(text: str, characters: int) -> int:
    return 20 + 16 * (_wrapped(text, characters).count("<br>") + 1)


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis around the values, with ticks of 1, 2 and 5."""
    low, high = min(values) / 1.15, max(values) * 1.15
    ticks = log_ticks(low, high)
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [tick_label(tick) for tick in ticks],
    }


def _axes(place: int) -> dict[str, str]:
    """What traces call the axes of a panel."""
    suffix = "" if place == 0 else str(place + 1)
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _key(letter: str, place: int) -> str:
    """What the layout calls them."""
    return f"{letter}axis" + ("" if place == 0 else str(place + 1))


def _rounded(values: Sequence[float]) -> list[float]:
    """Four significant digits: a page holds many numbers."""
    return [float(f"{value:.4g}") for value in values]


def _cell_text(cell: Cell) -> str:
    if cell.value is None:
        return "<br>".join(str(escape(word)) for word in cell.note.split(", "))
    return number(cell.value) + (f"<br>{escape(cell.note)}" if cell.note else "")


def _in_words(value: float | None, interval: tuple[float, float] | None, note: str) -> str:
    """A number with its interval for reading."""
    if value is None:
        return note
    ends = "" if interval is None else f" [{number(interval[0])}, {number(interval[1])}]"
    return f"{number(value)}{ends}" + (f", {note}" if note else "")


def _wrapped(text: str, width: int) -> str:
    return "<br>".join(str(escape(line)) for line in textwrap.wrap(text, width))

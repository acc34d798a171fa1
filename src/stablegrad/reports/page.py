"""What the pages of runs and comparisons share: their figures and tables of configurations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import escape

from stablegrad.options import flatten
from stablegrad.pages import VIRIDIS, ZERO_COLOUR, PageFigure, page_figure, transparent
from stablegrad.reports.figures import return_limits
from stablegrad.reports.series import PART_COLOURS, GradientMaps, ReturnSeries, edges
from stablegrad.text import MISSING, power

ROW_HEIGHT = 15  # pixels a layer


@dataclass(frozen=True)
class ColourScale:
    """The one colour bar of the gradient maps.

    Attributes:
        stops: colours from low to high.
        ticks: (position in percent from the left, label).
        zero: whether any cell is exactly zero.
    """

    stops: list[str]
    ticks: list[tuple[float, str]]
    zero: bool
    zero_colour: str = ZERO_COLOUR


@dataclass(frozen=True)
class OptionRow:
    """One option of a configuration: its value in every column, and whether they differ."""

    name: str
    values: list[str]
    differs: bool


def return_figure(series: Sequence[ReturnSeries], against_time: bool = False) -> PageFigure | None:
    """Learning curves: seeds thin (dotted: not finished), the mean thick, its interval as a band.

    Args:
        series: one entry a setting.
        against_time: put the wall time on the x axis, steps times the mean seconds of a step; settings whose speed is
            not known are left out.

    Returns:
        the figure; None where there is nothing to show.
    """
    shown = [entry for entry in series if entry.runs and (entry.seconds_per_step or not against_time)]
    if not shown:
        return None
    figure = go.Figure()
    for entry in shown:
        scale = (entry.seconds_per_step or 0.0) / 60 if against_time else 1.0
        unit = "minutes" if against_time else "steps"
        if entry.interval is not None:
            low, high = entry.interval
            figure.add_scatter(
                x=np.concatenate([entry.steps, entry.steps[::-1]]) * scale,
                y=np.concatenate([high, low[::-1]]),
                fill="toself",
                fillcolor=transparent(entry.colour, 0.16),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=entry.name,
                mode="lines",
            )
        for seed, finished, curve in entry.runs:
            figure.add_scatter(
                x=curve.steps * scale,
                y=curve.values,
                mode="lines",
                line={"color": entry.colour, "width": 1, "dash": "solid" if finished else "dot"},
                opacity=0.5,
                name=f"{escape(entry.name)}, seed {seed}" + ("" if finished else " (not finished)"),
                showlegend=not entry.steps.size and seed == entry.runs[0][0],
                legendgroup=entry.name,
                hovertemplate=f"%{{x:,.4~s}} {unit}: %{{y:.4~g}}<extra>{escape(entry.name)}, seed {seed}</extra>",
            )
        if entry.steps.size and len(entry.runs) > 1:
            figure.add_scatter(
                x=entry.steps * scale,
                y=entry.mean,
                mode="lines",
                line={"color": entry.colour, "width": 3},
                name=f"{escape(entry.name)}, mean",
                legendgroup=entry.name,
                hovertemplate=f"%{{x:,.4~s}} {unit}: %{{y:.4~g}}<extra>{escape(entry.name)}, mean</extra>",
            )
        elif entry.steps.size:
            figure.data[-1].update(showlegend=True, opacity=1, line={"width": 2.5})
    figure.update_layout(
        xaxis_title="wall time of a run [min]" if against_time else "environment steps",
        yaxis_title="return, mean of last 100 episodes",
        yaxis_range=list(return_limits(list(shown))),
        xaxis_rangemode="tozero",
    )
    described = " and ".join(entry.name for entry in shown)
    return page_figure(figure, 420, f"Learning curves of {described}")


def gradient_figures(maps: GradientMaps, time_unit: str = "environment steps") -> list[tuple[str, PageFigure]]:
    """One map a setting, (heading, figure), all on the colour scale of :func:`colour_scale`, all of one row height."""
    figures, short = [], time_unit.removeprefix("environment ")
    for name, found, seeds in zip(maps.names, maps.maps, maps.seeds, strict=True):
        # heatmaps of categories cannot be bordered, so layers are numbered and the axis carries their names
        rows = np.arange(len(found.layers))
        figure = go.Figure()
        figure.add_heatmap(
            x=edges(found.steps),
            y=rows,
            z=np.round(found.log10_norms, 3),
            zmin=maps.low,
            zmax=maps.high,
            colorscale=[[index / (len(VIRIDIS) - 1), colour] for index, colour in enumerate(VIRIDIS)],
            showscale=False,
            hoverongaps=False,
            text=[[str(escape(layer))] * found.steps.size for layer in found.layers],
            customdata=np.char.mod("%.2e", 10**found.log10_norms),
            hovertemplate=f"%{{text}}<br>%{{x:,.4~s}} {short}: %{{customdata}}<extra></extra>",
        )
        if found.zero.any():
            figure.add_heatmap(
                x=edges(found.steps),
                y=rows,
                z=np.where(found.zero, 1.0, np.nan),
                colorscale=[[0, ZERO_COLOUR], [1, ZERO_COLOUR]],
                showscale=False,
                hoverongaps=False,
                text=[[str(escape(layer))] * found.steps.size for layer in found.layers],
                hovertemplate=f"%{{text}}<br>%{{x:,.4~s}} {short}: exactly zero<extra></extra>",
            )
        figure.update_layout(
            xaxis_title=time_unit,
            yaxis={
                "range": [len(rows) - 0.5, -0.5],
                "tickvals": rows.tolist(),
                "ticktext": [str(escape(layer)) for layer in found.layers],
                "tickfont": {"size": 10},
                "showgrid": False,
                "zeroline": False,
                "fixedrange": True,
            },
            xaxis_showgrid=False,
        )
        height = 90 + max(8, len(found.layers)) * ROW_HEIGHT
        averaged = "1 seed" if seeds == 1 else f"geometric mean of {seeds} seeds"
        figures.append(
            (
                f"{name}: {averaged}",
                page_figure(figure, height, f"Gradient norm by layer over time, {name}", legend=False),
            )
        )
    return figures


def colour_scale(maps: GradientMaps) -> ColourScale:
    """The colour bar that belongs to :func:`gradient_figures`, with a tick a decade, or at its ends if it has none."""
    span = maps.high - maps.low
    decades = list(range(math.ceil(maps.low), math.floor(maps.high) + 1))
    if len(decades) >= 2:
        ticks = [(100 * (decade - maps.low) / span, power(decade)) for decade in decades]
    else:
        ticks = [(0.0, f"{10**maps.low:.2g}"), (100.0, f"{10**maps.high:.2g}")]
    return ColourScale(VIRIDIS, ticks, any(bool(found.zero.any()) for found in maps.maps))


def cost_figure(costs: Mapping[str, Mapping[str, Any]], unit: str = "environment steps") -> PageFigure | None:
    """Seconds per 1,000 steps, stacked by part, one bar a name.

    Args:
        costs: name -> ``seconds_per_1000_steps`` and ``parts``, as in the summary of a comparison.
        unit: what is counted.

    Returns:
        the figure; None where no cost is known.
    """
    known = {name: cost for name, cost in costs.items() if cost["seconds_per_1000_steps"] is not None}
    if not known:
        return None
    figure, short = go.Figure(), unit.removeprefix("environment ")
    for part, colour in PART_COLOURS.items():
        values = [cost["parts"].get(part) for cost in known.values()]
        if any(values):
            figure.add_bar(
                y=[str(escape(name)) for name in known],
                x=values,
                name=part,
                orientation="h",
                marker={"color": colour},
                hovertemplate=f"{part}: %{{x:.3~g}} s per 1,000 {short}<extra>%{{y}}</extra>",
            )
    figure.update_layout(
        barmode="stack",
        bargap=0.35,
        xaxis_title=f"seconds per 1,000 {unit}",
        yaxis={"autorange": "reversed", "fixedrange": True},
    )
    return page_figure(figure, 150 + 50 * len(known), "Where the time goes")


def option_rows(configs: Sequence[Mapping[str, Any]]) -> list[OptionRow]:
    """Configurations side by side: options that differ first, then the others, each in their own order."""
    columns = [flatten(config) for config in configs]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for name in names:
        values = [_option(column, name) for column in columns]
        rows.append(OptionRow(name, values, len(set(values)) > 1))
    return sorted(rows, key=lambda row: not row.differs)


def _option(column: Mapping[str, Any], name: str) -> str:
    if name not in column:
        return MISSING
    value = column[name]
    return value if isinstance(value, str) else json.dumps(value)

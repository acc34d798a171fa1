"""Pictures of a comparison (PNG): learning curves, gradient norms by layer and time, cost.

They are drawn straight on matplotlib's Agg canvas, without pyplot: no display is needed and no figure stays open.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, NullFormatter

from stablegrad.files import write_atomically
from stablegrad.pages import ZERO_COLOUR
from stablegrad.reports.fonts import tell, text_style, watched_letters
from stablegrad.reports.series import (
    PART_COLOURS,
    GradientMaps,
    ReturnSeries,
    edges,
    gradient_maps,
    records_by_setting,
    return_series,
)
from stablegrad.studies.comparison import Comparison
from stablegrad.studies.summary import summarize
from stablegrad.text import number, power

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
LABELLED_LAYERS = 64  # more than these get every second, third ... name


def write_figures(directory: Path | str) -> list[Path]:
    """Draw the figures of a comparison into its ``figures`` folder.

    Args:
        directory: a comparison folder.

    Returns:
        the files written; a figure with nothing to show is left out.
    """
    comparison = Comparison.read(directory)
    summary = summarize(directory)
    records = records_by_setting(comparison)
    maps = gradient_maps(records)
    series = return_series(records, summary)

    with watched_letters() as missing:
        pictures = {name: png(figure) for name, figure in _figures(series, maps, summary).items()}
    tell(missing)
    folder = comparison.directory / "figures"
    folder.mkdir(exist_ok=True)
    for name, content in pictures.items():
        write_atomically(folder / name, content)
    return [folder / name for name in pictures]


def _figures(series: list[ReturnSeries], maps: GradientMaps | None, summary: dict[str, Any]) -> dict[str, Figure]:
    """The pictures that there is something for, by file name."""
    figures: dict[str, Figure] = {}
    if any(entry.runs for entry in series):
        figures["learning_curves.png"] = learning_curves(series, summary)
    if maps is not None:
        figures["gradient_norms.png"] = gradient_heatmaps(maps, f"{summary['algorithm']} on {summary['environment']}")
    if any(cost["seconds_per_1000_steps"] is not None for cost in summary["cost"].values()):
        figures["cost.png"] = cost_bars(summary)
    return figures


def png(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    with styled():  # some texts, as of ticks, are made only now
        figure.savefig(buffer, format="png", dpi=dots_per_inch, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def learning_curves(series: list[ReturnSeries], summary: dict[str, Any]) -> Figure:
    """Return over environment steps: a thin line a seed (dotted: not finished), thick the mean with its interval.

    Args:
        series: one entry a setting.
        summary: of the comparison, for the title.
    """
    with styled():
        figure = new_figure(7.5, 4.2)
        axes = figure.add_subplot()
        for entry in series:
            for _, finished, curve in entry.runs:
                axes.plot(*curve, color=entry.colour, linewidth=0.7, alpha=0.55, linestyle="-" if finished else ":")
            if entry.interval is not None:
                axes.fill_between(entry.steps, *entry.interval, color=entry.colour, alpha=0.15, linewidth=0)
            count = sum(finished for _, finished, _ in entry.runs)
            axes.plot(
                entry.steps, entry.mean, color=entry.colour, linewidth=2.4, label=f"{entry.name} ({_seeds(count)})"
            )
        axes.set_xlabel("environment steps")
        axes.set_ylabel("return, mean of last 100 episodes")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_title(
            f"{summary['algorithm']} on {summary['environment']}: mean and {summary['confidence']:.0%} interval",
            loc="left",
        )
        _limit_to_curves(axes, series)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, borderaxespad=0)
    return figure


def gradient_heatmaps(maps: GradientMaps, title: str) -> Figure:
    """Gradient norm of every layer over time, one map a setting, all on one logarithmic colour scale.

    Layers stand in forward order, the first (next to the observation) on top.

    Args:
        maps: what to draw.
        title: what the runs have in common.
    """
    most = max(len(found.layers) for found in maps.maps)
    with styled():
        figure = new_figure(5.6 * len(maps.maps) + 1.2, max(3.0, 0.17 * min(most, LABELLED_LAYERS) + 1.6))
        norm = LogNorm(10**maps.low, 10**maps.high)
        panels = figure.subplots(1, len(maps.maps), squeeze=False)[0]
        for axes, name, found, seeds in zip(panels, maps.names, maps.maps, maps.seeds, strict=True):
            borders = edges(found.steps)
            rows = np.arange(len(found.layers) + 1)
            axes.grid(False)
            axes.pcolormesh(borders, rows, 10**found.log10_norms, norm=norm, cmap="viridis", rasterized=True)
            zero = np.where(found.zero, 1.0, np.nan)
            axes.pcolormesh(borders, rows, zero, cmap=ListedColormap([ZERO_COLOUR]), rasterized=True)
            axes.invert_yaxis()
            every = -(-len(found.layers) // LABELLED_LAYERS)
            axes.set_yticks(rows[:-1:every] + 0.5, found.layers[::every], fontsize=7 if most > 12 else 9)
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set_xlabel("environment steps")
            axes.set_title(f"{name}: {_geometric(seeds)}", loc="left")
        if any(found.zero.any() for found in maps.maps):
            figure.legend(handles=[Patch(color=ZERO_COLOUR, label="exactly zero")], loc="outside lower right")
        bar = figure.colorbar(
            ScalarMappable(norm, "viridis"),
            ax=list(panels),
            label="gradient norm before clipping",
            extend="min",
            aspect=30,
            format=lambda norm, _: power(round(math.log10(norm))) if norm > 0 else "0",
        )
        bar.minorformatter = NullFormatter()
        bar.outline.set_visible(False)
        figure.suptitle(f"{title}: gradient norm by layer, first layer on top", x=0.01, ha="left", fontsize=11)
    return figure


def cost_bars(summary: dict[str, Any]) -> Figure:
    """Seconds per 1,000 environment steps, stacked by where they go, one bar a setting.

    Args:
        summary: of the comparison.
    """
    with styled():
        figure = new_figure(7.5, 2.6)
        axes = figure.add_subplot()
        axes.grid(axis="y", visible=False)
        settings = summary["settings"]
        totals = [summary["cost"][name]["seconds_per_1000_steps"] or 0.0 for name in settings]
        left = np.zeros(len(settings))
        for part, colour in PART_COLOURS.items():
            widths = np.array([summary["cost"][name]["parts"][part] or 0.0 for name in settings])
            if not widths.any():
                continue
            bars = axes.barh(settings, widths, left=left, color=colour, label=part, height=0.6)
            labels = [number(width) if width > 0.07 * max(totals) else "" for width in widths]
            axes.bar_label(bars, labels, label_type="center", fontsize=8, color="black")
            left = left + widths
        for row, total in enumerate(totals):
            axes.annotate(
                f"{number(total)} s" if total else "no finished run",
                (total, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontweight="bold",
            )
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("seconds per 1,000 environment steps")
        axes.set_title(f"{summary['algorithm']} on {summary['environment']}: where the time goes", loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.3), ncols=6, borderaxespad=0, columnspacing=1.2)
    return figure


@contextmanager
def styled() -> Iterator[None]:
    """The look of all figures."""
    with mpl.rc_context({**STYLE, **text_style()}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sides in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _limit_to_curves(axes: Axes, series: list[ReturnSeries]) -> None:
    """Limits from the curves alone: the interval of two or three seeds can be many times wider than anything seen."""
    low, high = return_limits(series)
    axes.set_ylim(low, high)


def return_limits(series: list[ReturnSeries]) -> tuple[float, float]:
    """The range of all curves with a margin of a twelfth on both sides."""
    values = np.concatenate([curve.values for entry in series for _, _, curve in entry.runs])
    low, high = float(values.min()), float(values.max())
    margin = (high - low) / 12 or 1.0
    return low - margin, high + margin


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _geometric(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"geometric mean of {seeds} seeds"

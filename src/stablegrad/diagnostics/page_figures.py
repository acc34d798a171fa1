"""Figures of a diagnosis: layer x time heatmaps, and lines over time.

What can be drawn stands in two tables, ``HEATMAPS`` and ``CHARTS``; a figure is drawn where its metric was measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
from markupsafe import escape
from plotly.colors import sample_colorscale, sequential

from stablegrad.diagnostics.history import LAYER_METRICS, NETWORK, History, Series
from stablegrad.diagnostics.rules import Thresholds
from stablegrad.pages import SETTING_COLOURS, VIRIDIS, ZERO_COLOUR, PageFigure, page_figure
from stablegrad.text import power

NONFINITE_COLOUR = "#e0218a"  # in none of the scales
SHARES: list[str] = sequential.Cividis
SIGNED: list[str] = sample_colorscale("PuOr_r", np.linspace(0.05, 0.95, 11))
# Lines by depth: every colour of it can be seen on white and on dark paper.
DEPTH = ["#2f81d6", "#b04fb0", "#d9730d"]
LINES = ("#2f81d6", "#d9730d", "#009e73", "#cc79a7", "#8c6bd1", "#7f7f7f")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

DECADES = 6  # of a colour scale, on either side of the median at most: one 1e30 would flatten all other differences
MAX_LOOKS = 250  # drawn at most, about a column of pixels each on a phone; of more, evenly chosen ones
NAME_LENGTH = 28  # characters of a row's label
LABEL_HEIGHT = 12  # pixels
MAX_DECADE_TICKS = 6  # of a log axis, about
MANY_LINES = 8  # from here on lines are told apart by depth, not by a legend


@dataclass(frozen=True)
class Heatmap:
    """How a metric of sites is drawn.

    Attributes:
        metric: its name in the history.
        title: of the figure.
        unit: what a colour stands for.
        reading: how to read it, a sentence.
        scale: "log", "share" (0 to 1) or "signed" (-1 to 1).
    """

    metric: str
    title: str
    unit: str
    reading: str
    scale: str


@dataclass(frozen=True)
class Chart:
    """How metrics of the whole network are drawn, as lines in one figure.

    Attributes:
        metrics: metric -> its line's name.
        title: of the figure.
        unit: of the y axis.
        reading: how to read it, a sentence.
    """

    metrics: Mapping[str, str]
    title: str
    unit: str
    reading: str


HEATMAPS = (
    Heatmap(
        "gradient_norm",
        "Gradient norm by layer",
        "gradient norm before clipping, in loss units per parameter unit",
        "a row that goes dark over time is a layer that no longer gets a signal, a picture that brightens or flickers "
        "shows gradients that grow or jump, and a steady one of any colour is healthy.",
        "log",
    ),
    Heatmap(
        "update_ratio",
        "Update by weight, layer by layer",
        "norm of one update over the norm of the weights, no unit",
        f"a layer around 10⁻³ learns; the rules alarm where the median layer stays above {Thresholds.large_update:g} "
        f"(thrown about) or below {Thresholds.small_update:g} (stands still).",
        "log",
    ),
    Heatmap(
        "dormant",
        "Dormant units by activation",
        "share of units that pass on next to nothing, 0 to 1",
        "a row that turns yellow is an activation whose units fall silent; in residual and normalised networks believe "
        "it only where the gradient-dormant units agree.",
        "share",
    ),
    Heatmap(
        "dead",
        "Dead units by activation",
        "share of units that are exactly zero on every sample, 0 to 1",
        "dead units of a ReLU get no gradient and do not come back by themselves, so a row that turns yellow is lost.",
        "share",
    ),
    Heatmap(
        "gradient_dormant",
        "Gradient-dormant units by activation",
        "share of units that get next to no gradient, 0 to 1",
        "a row that turns yellow is an activation through which less and less is learned.",
        "share",
    ),
    Heatmap(
        "saturated",
        "Saturated values by activation",
        "share of values at the ends of the activation's range, 0 to 1",
        "at the ends of the range the slope is next to zero, so a yellow row lets no gradient through.",
        "share",
    ),
    Heatmap(
        "gradient_cosine",
        "Cosine of consecutive gradients by layer",
        "cosine between the gradients of two consecutive updates, -1 to 1",
        "orange is one direction kept, violet is back and forth, pale is chance; a lasting violet row overshoots.",
        "signed",
    ),
)

CHARTS = (
    Chart(
        {"loss": "loss"},
        "Loss",
        "loss units",
        "a loss that rises for good and does not come back is trouble; in reinforcement learning a falling loss alone "
        "proves nothing.",
    ),
    Chart({"episode_return": "return"}, "Episode return", "raw reward", "higher is better."),
    Chart(
        {
            "srank": "SRank",
            "effective_rank": "effective rank",
            "feature_rank": "feature rank",
            "feature_count": "features there are",
        },
        "Rank of the features",
        "directions",
        "the number of directions that the features before the last layer span; a fall far below the start, next to "
        "one, is a collapse.",
    ),
    Chart(
        {"churn": "one update", "churn_encoder": "its encoder's part", "churn_head": "its head's part"},
        "Policy churn",
        "share of rows, 0 to 1",
        "the share of rows whose best output changes in one single update: near 0 a steady policy, near 1 one that is "
        "made anew with every step; the parts need not add up.",
    ),
    Chart(
        {
            "action_churn": "one update",
            "action_churn_encoder": "its encoder's part",
            "action_churn_head": "its head's part",
        },
        "Change of the mean action",
        "distance of actions, which go from -1 to 1",
        "how far one single update moves the mean action of a continuous policy, as a root mean square over rows and "
        "dimensions: near 0 a steady policy; the parts need not add up.",
    ),
    Chart(
        {"error_signal": "error signal"},
        "Error signal",
        "loss units per output unit",
        "the norm of dL/d output, how much error enters at the output for the layers to learn from; where gradients "
        "fade and this does not, they get lost on the way.",
    ),
    Chart(
        {"output_size": "size (root mean square)", "output_spread": "spread over the batch"},
        "Outputs",
        "output units",
        "a size that grows without end is a divergence; a spread far below the size is a network that answers the same "
        "whatever it is given.",
    ),
    Chart(
        {"target_drift": "drift"},
        "Drift of the outputs",
        "standard deviations of the outputs",
        "how far the outputs of the same inputs moved between two probings; at 1 they have changed as much as they "
        "differ between inputs.",
    ),
    Chart(
        {"input_mean": "mean", "input_std": "standard deviation"},
        "Inputs",
        "input units",
        "a step or a slope here is data that changed, not a network that broke.",
    ),
    Chart(
        {"refit_error": "the network", "refit_error_fresh": "a fresh one", "refit_error_small": "a small one"},
        "Capacity: error in fresh targets",
        "mean squared error, 1 is that of a constant",
        "what the network can still learn beside a fresh one of its shape and a small one; the further above theirs, "
        "the more ability to learn was lost.",
    ),
    Chart(
        {"hessian_trace": "trace", "hessian_top": "largest eigenvalue"},
        "Curvature of the loss",
        "loss units / parameter units²",
        "the higher the sharper the valley; a curvature that climbs by decades makes the same learning rate too high.",
    ),
    Chart(
        {"gradient_covariance_rank": "gradients of the loss", "ntk_rank": "gradients of the outputs"},
        "Rank of the gradients of single rows",
        "directions",
        "next to one, all rows pull the weights the same way, and what is learned of one changes the answer to all.",
    ),
)
WEIGHTS = Chart(
    {"weight_norm": "weight norm"},
    "Weight norm by layer",
    "parameter units",
    "a line a layer, coloured by its depth; weights that grow without end slow learning down under a normalisation and "
    "blow up without one.",
)

#: Figures of a pre-flight, by attribute of its report.
PHASES = (
    Chart(
        {"relearning": "accuracy"},
        "What it learns anew",
        "accuracy at the end of each phase",
        "a network that keeps learning is as high in the last phase as in the first, and as its twin; bars that shrink "
        "show one that loses it.",
    ),
    Chart(
        {"speed": "accuracy"},
        "How fast it learns anew",
        "mean accuracy over the steps of each phase",
        "the sooner labels are learned the higher the bar; a network that gets slower from phase to phase, where its "
        "twin does not, is losing its ability to learn.",
    ),
)

#: Metrics that only a diagnosis writes; the training logs the others on its own account.
MEASURED = {
    *(heatmap.metric for heatmap in HEATMAPS),
    *(metric for chart in (*CHARTS, WEIGHTS) for metric in chart.metrics),
} - {"gradient_norm", "loss", "episode_return"}


@dataclass(frozen=True)
class Scale:
    """The colour bar below a figure.

    Attributes:
        stops: colours from low to high.
        ticks: (position in percent from the left, label).
        marks: (colour, what it stands for) of cells that have no place on the scale.
    """

    stops: list[str]
    ticks: list[tuple[float, str]]
    marks: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Drawn:
    """A figure with the words that belong to it."""

    title: str
    unit: str
    reading: str
    figure: PageFigure
    scale: Scale | None = None


def heatmaps(history: History) -> list[Drawn]:
    """All layer x time maps for which there are figures, the first layer on top."""
    history = _with_breaks(history)
    measured = set(history.metrics())
    return [
        _heatmap(spec, history.series(spec.metric), history.step_name) for spec in HEATMAPS if spec.metric in measured
    ]


def charts(history: History) -> list[Drawn]:
    """All lines over time for which there are figures."""
    measured, step_name = set(history.metrics()), history.step_name
    drawn = [
        _chart(chart, [history.series(metric) for metric in chart.metrics if metric in measured], step_name)
        for chart in CHARTS
        if measured.intersection(chart.metrics)
    ]
    if measured.intersection(WEIGHTS.metrics):
        drawn.append(_by_layer(history.series("weight_norm"), step_name))
    return drawn


def phase_bars(accuracies: Mapping[str, Sequence[float]], chart: Chart) -> Drawn | None:
    """Bars of an accuracy a phase of a synthetic task, the network beside its twins.

    Args:
        accuracies: "network", "twin" and "reference" -> an accuracy a phase, 0 to 1; empty or absent where there is no
            such twin.
        chart: one of ``PHASES``.

    Returns:
        the figure; None where no phase was finished.
    """
    if not accuracies.get("network"):
        return None
    figure = go.Figure()
    for key, name, shape, colour in (
        ("network", "this network", "", SETTING_COLOURS[0]),
        ("twin", "a twin of two hidden layers", "/", SETTING_COLOURS[1]),
        ("reference", "the twin with Kron", ".", ZERO_COLOUR),
    ):
        values = list(accuracies.get(key, ()))
        if values:
            figure.add_bar(
                x=[f"{phase}" for phase in range(1, len(values) + 1)],
                y=values,
                name=name,
                marker={"color": colour, "pattern": {"shape": shape}},
                showlegend=True,
                hovertemplate=f"phase %{{x}}: %{{y:.1%}}<extra>{name}</extra>",
            )
    figure.update_layout(
        barmode="group",
        xaxis={"title": "phase, each with newly shuffled labels", "type": "category"},
        yaxis={"title": "accuracy", "range": [0, 1.02], "tickformat": ".0%", "fixedrange": True},
    )
    return Drawn(chart.title, chart.unit, chart.reading, page_figure(figure, 340, f"{chart.title}, phase by phase"))


def short_name(name: str, length: int = NAME_LENGTH) -> str:
    """A module's name with less in its middle, of at most ``length`` characters.

    Words go first, as it is the numbers and the end that tell layers apart: "actor…2.blocks.3.linear".
    """
    parts = name.split(".")
    short = name
    for index, part in enumerate(parts[1:-1], start=1):
        if len(short) <= length:
            break
        if not any(character.isdigit() for character in part):
            parts[index] = "…"
            short = re.sub(r"\.(…\.)+", "…", ".".join(parts))
    if len(short) <= length:
        return short
    tail = (length - 1) * 3 // 5
    return f"{short[: length - 1 - tail]}…{short[-tail:]}"


def _with_breaks(history: History) -> History:
    """The history in which a layer's figure that is absent because it was not finite is infinite."""
    metrics = set(LAYER_METRICS).intersection(history.metrics())
    rows = []
    for step, figures in history.rows:
        sites = [key.partition("/")[2] for key, value in figures.items() if key.startswith("nonfinite/") and value]
        rows.append((step, {f"{metric}/{site}": math.inf for site in sites for metric in metrics} | figures))
    return History(rows, history.order, history.frozen, history.step_name)


def _heatmap(spec: Heatmap, series: Series, step_name: str) -> Drawn:
    chosen = _evenly(len(series.steps))
    steps, values = series.steps[chosen], series.values[chosen].T
    colours, low, high = _limits(spec.scale, values)
    broken, zero = np.isinf(values), (values == 0) & (spec.scale == "log")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        height = np.log10(values) if spec.scale == "log" else values
        place = 0.1 + 0.8 * (np.clip(height, low, high) - low) / (high - low)
        raw = values.astype(np.float32)
    # One trace holds it all: the scale lies between 0.1 and 0.9, cells that have no place on it at 0 and 1.
    place = np.where(broken, 1.0, np.where(zero, 0.0, place)).astype(np.float32)

    names = [str(escape(site)) for site in series.sites]
    row_height = max(3, min(18, 1000 // len(names)))
    every = -(-LABEL_HEIGHT // row_height)
    figure = go.Figure()
    # Labels are shortened and thinned on an axis of their own (the empty trace makes plotly draw it); the axis of the
    # cells keeps the full names, which plotly shows on hover.
    figure.add_scatter(x=[None], y=[None], showlegend=False, hoverinfo="skip")
    figure.add_heatmap(
        x=steps,
        y=names,
        z=place,
        zmin=0,
        zmax=1,
        colorscale=_colourscale(colours),
        showscale=False,
        hoverongaps=False,
        customdata=raw,
        hovertemplate=f"%{{y}}<br>%{{x:,}} {step_name}: %{{customdata:.3~g}}<extra></extra>",
        yaxis="y2",
    )
    rows = [len(names) - 0.5, -0.5]
    figure.update_layout(
        xaxis={"title": step_name, "showgrid": False, "zeroline": False, "range": _range(steps)},
        yaxis={
            "range": rows,
            "tickvals": list(range(0, len(names), every)),
            "ticktext": [str(escape(short_name(site))) for site in series.sites[::every]],
            "tickfont": {"size": 10},
            "ticks": "",
            "ticklabelstandoff": 4,
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        yaxis2={
            "range": rows,
            "type": "category",
            "overlaying": "y",
            "showticklabels": False,
            "ticks": "",
            "showgrid": False,
            "fixedrange": True,
        },
    )
    _one_tick(figure, steps)
    marks = [(ZERO_COLOUR, "exactly zero")] if zero.any() else []
    marks += [(NONFINITE_COLOUR, "not finite")] if broken.any() else []
    return Drawn(
        spec.title,
        spec.unit,
        spec.reading,
        page_figure(figure, 64 + max(70, len(names) * row_height), f"{spec.title} over time", legend=False),
        Scale(colours, _ticks(spec.scale, low, high, height), marks),
    )


def _limits(scale: str, values: np.ndarray) -> tuple[list[str], float, float]:
    """(colours, low, high) of a scale; on a log scale the ends are powers of ten."""
    if scale == "share":
        return SHARES, 0.0, 1.0
    if scale == "signed":
        return SIGNED, -1.0, 1.0
    heights = np.log10(values[(values > 0) & np.isfinite(values)])
    if not heights.size:
        return VIRIDIS, -1.0, 0.0
    middle = round(float(np.median(heights)))
    low, high = max(heights.min(), middle - DECADES), min(heights.max(), middle + DECADES)
    # Stretched to two decades at least, so that the noise of a steady network does not look like a drama.
    spare = max(0.0, 1.0 - (high - low) / 2)
    return VIRIDIS, float(low - spare), float(high + spare)


def _colourscale(colours: list[str]) -> list[list[float | str]]:
    """Plotly's form: the colours between 0.1 and 0.9, below them that of zero, above that of what is not finite."""
    last = len(colours) - 1
    below: list[list[float | str]] = [[0.0, ZERO_COLOUR], [0.05, ZERO_COLOUR], [0.05, colours[0]]]
    above: list[list[float | str]] = [[0.95, colours[-1]], [0.95, NONFINITE_COLOUR], [1.0, NONFINITE_COLOUR]]
    return below + [[0.1 + 0.8 * index / last, colour] for index, colour in enumerate(colours)] + above


def _ticks(scale: str, low: float, high: float, heights: np.ndarray) -> list[tuple[float, str]]:
    """Ticks in percent: five of a linear scale, powers of ten of a log scale (at most seven), or its two ends."""
    if scale != "log":
        return [(25.0 * index, f"{low + (high - low) * index / 4:g}") for index in range(5)]
    decades = list(range(math.ceil(low), math.floor(high) + 1))
    if len(decades) < 2:
        return [(0.0, f"{10**low:.2g}"), (100.0, f"{10**high:.2g}")]
    chosen = decades[:: -(-len(decades) // 7)]
    finite = heights[np.isfinite(heights)]
    ticks = [(100 * (decade - low) / (high - low), power(decade)) for decade in chosen]
    # Cells beyond the ends take their colours; the labels say so.
    if finite.min(initial=low) < low:
        ticks = [(0.0, f"≤ {power(round(low))}"), *(tick for tick in ticks if tick[0] > 12)]
    if finite.max(initial=high) > high:
        ticks = [*(tick for tick in ticks if tick[0] < 88), (100.0, f"≥ {power(round(high))}")]
    return ticks


def _chart(chart: Chart, several: list[Series], step_name: str) -> Drawn:
    lines = []
    for series in several:
        for site in series.sites:
            label = chart.metrics[series.metric] if site == NETWORK else f"{site}: {chart.metrics[series.metric]}"
            lines.append((label, series.steps, series.site(site)))
    styles = [{"color": LINES[n % len(LINES)], "dash": DASHES[n % len(DASHES)], "width": 2} for n in range(len(lines))]
    figure = _lines(lines, styles, step_name, chart.unit, legend=len(lines) > 1)
    return _drawn_lines(chart, figure)


def _by_layer(series: Series, step_name: str) -> Drawn:
    count = len(series.sites)
    colours = sample_colorscale(DEPTH, [index / max(count - 1, 1) for index in range(count)])
    legend = count <= MANY_LINES
    styles = [
        {"color": colour, "dash": DASHES[index % len(DASHES)] if legend else "solid", "width": 2 if legend else 1.2}
        for index, colour in enumerate(colours)
    ]
    lines = [(site, series.steps, series.site(site)) for site in series.sites]
    figure = _lines(lines, styles, step_name, WEIGHTS.unit, legend)
    scale = Scale(DEPTH, [(0.0, "first"), (100.0, "last")])
    return _drawn_lines(WEIGHTS, figure, None if legend else scale)


def _drawn_lines(chart: Chart, figure: go.Figure, scale: Scale | None = None) -> Drawn:
    drawn = page_figure(figure, 340, f"{chart.title} over time", figure.layout.showlegend)
    return Drawn(chart.title, chart.unit, chart.reading, drawn, scale)


def _lines(
    lines: Sequence[tuple[str, np.ndarray, np.ndarray]],
    styles: Sequence[Mapping[str, object]],
    step_name: str,
    unit: str,
    legend: bool,
) -> go.Figure:
    """Lines over steps, on a log scale where they are nowhere negative and span two decades.

    What an axis cannot hold, zero on a log scale and infinities, stands as a mark at its border.
    """
    finite = np.concatenate([values[np.isfinite(values)] for _, _, values in lines])
    positive = finite[finite > 0]
    logarithmic = bool(positive.size) and finite.min() >= 0 and positive.max() > 100 * positive.min()
    shown = positive if logarithmic else finite
    bottom, top = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    figure = go.Figure()
    borders: dict[str, tuple[float, str, str, list[float], list[str]]] = {
        "zero": (bottom, "circle-open", ZERO_COLOUR, [], []),
        "not finite": (top, "x", NONFINITE_COLOUR, [], []),
    }
    for (name, steps, values), style in zip(lines, styles, strict=True):
        there = np.flatnonzero(~np.isnan(values))
        there = there[_evenly(len(there))]
        x, y = steps[there], values[there]
        for kind, outside in (("not finite", np.isinf(y)), ("zero", (y == 0) & logarithmic)):
            borders[kind][3].extend(x[outside].tolist())
            borders[kind][4].extend([str(escape(name))] * int(outside.sum()))
            y = np.where(outside, np.nan, y)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers" if len(there) <= 30 else "lines",
            line=dict(style),
            marker={"size": 5},
            name=str(escape(short_name(name, 40))),
            showlegend=legend,
            hovertemplate=f"%{{x:,}} {step_name}: %{{y:.3~g}}<extra>{escape(name)}</extra>",
        )
    for kind, (y, symbol, colour, x, names) in borders.items():
        if x:
            figure.add_scatter(
                x=x,
                y=[y] * len(x),
                mode="markers",
                marker={"symbol": symbol, "color": colour, "size": 8},
                name=kind,
                showlegend=True,
                text=names,
                hovertemplate=f"%{{x:,}} {step_name}: {kind}<extra>%{{text}}</extra>",
            )
    figure.update_layout(
        showlegend=legend or len(figure.data) > len(lines),
        xaxis={"title": step_name, "rangemode": "tozero"},
        yaxis={"title": unit, "type": "log" if logarithmic else "linear", "exponentformat": "power"},
    )
    if logarithmic:
        # Plotly's own ticks within a decade stand on those of the powers.
        figure.update_yaxes(dtick=max(1, round(math.log10(top / bottom) / MAX_DECADE_TICKS)))
    elif bottom >= 0:
        figure.update_yaxes(rangemode="tozero")
    _one_tick(figure, np.unique(np.concatenate([steps for _, steps, _ in lines])))
    return figure


def _evenly(count: int) -> np.ndarray:
    """Indices of at most MAX_LOOKS of ``count`` looks, the first and the newest among them."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_LOOKS)).round().astype(int)) if count else np.arange(0)


def _range(steps: np.ndarray) -> list[float]:
    """From the first cell's left border, but not below 0, to the last one's right border."""
    if len(steps) < 2:
        return [float(steps[0]) - 0.5, float(steps[0]) + 0.5]
    first, second, *_ = steps.tolist()
    *_, before, last = steps.tolist()
    return [max(0.0, first - (second - first) / 2), last + (last - before) / 2]


def _one_tick(figure: go.Figure, steps: np.ndarray) -> None:
    """A single look has one tick, at its step, not fractions of steps around it."""
    if len(steps) == 1:
        figure.update_xaxes(tickvals=steps.tolist(), ticktext=[f"{steps[0]:,}"])

"""The one picture of the page for those who decide: scores by size, or by setting, as an SVG that needs no script.

Every run is a dot, every mean has its 95% interval, and scores of reference (random play, a human, a solved task) are
dashed lines, so that a reader sees at once what a difference is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from stablegrad.studies.statistics import mean_interval

WIDTH, HEIGHT = 380, 230  # the width of a phone, so that its letters are not scaled down there
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 44
TICKS = 4


@dataclass(frozen=True)
class ChartSeries:
    """One line: ``points`` are scores at each position, of all runs there; ``style`` is "first" or "second"."""

    name: str
    style: str
    points: Sequence[Sequence[float]]


def score_chart(
    positions: Sequence[str],
    series: Sequence[ChartSeries],
    references: Sequence[tuple[str, float]],
    description: str,
    *,
    percent: bool,
) -> Markup | None:
    """Runs as dots, lines through the means of each series, bars for the Student-t intervals of the means.

    Args:
        positions: what stands below the axis, one a place.
        series: of each as many lists of scores as there are positions.
        references: (name, score) of the dashed lines.
        description: for readers who cannot see it.
        percent: whether scores are shares of 1.

    Returns:
        the svg element; None where there is no score.
    """
    values = [value for line in series for group in line.points for value in group]
    if not values:
        return None
    means = [[_mean(group) if group else None for group in line.points] for line in series]
    ends = [end for row in means for one in row if one is not None for end in one]
    ticks, low, high = _axis([*values, *ends, *(value for _, value in references)])
    step = (WIDTH - LEFT - RIGHT) / len(positions)

    def x(place: int) -> float:
        return LEFT + step * (place + 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">']
    for value in ticks:
        label = f"{100 * value:.4g}%" if percent else f"{value:,.4g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>')
    for place, name in enumerate(positions):
        parts.append(f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(name)}</text>')
    together = any(
        sum(bool(group) for group in place) > 1 for place in zip(*(line.points for line in series), strict=True)
    )
    for index, (line, row) in enumerate(zip(series, means, strict=True)):
        shift = (index - (len(series) - 1) / 2) * 8 if together else 0  # side by side
        path = " ".join(f"{x(place) + shift:.1f},{y(one[1]):.1f}" for place, one in enumerate(row) if one is not None)
        parts.append(f'<polyline class="{line.style}" points="{path}"/>')
        for place, one in enumerate(row):
            if one is None:
                continue
            across = x(place) + shift
            bottom, middle, top = (f"{y(value):.1f}" for value in one)
            wide = f'x1="{across - 7:.1f}" x2="{across + 7:.1f}"'
            parts.append(f'<line class="{line.style} mean" {wide} y1="{middle}" y2="{middle}"/>')
            upright = f'x1="{across:.1f}" x2="{across:.1f}"'
            parts.append(f'<line class="{line.style}" {upright} y1="{bottom}" y2="{top}"/>')
            dots = line.points[place]
            parts += [f'<circle class="{line.style}" cx="{across:.1f}" cy="{y(v):.1f}" r="3.2"/>' for v in dots]
    for name, value in references:
        parts.append(
            f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(
            f'<text class="name" x="{WIDTH - RIGHT - 2}" y="{y(value) - 4:.1f}" text-anchor="end">{escape(name)}</text>'
        )
    for index, line in enumerate(series):
        across = LEFT + index * (WIDTH - LEFT - RIGHT) / len(series)
        parts.append(f'<circle class="{line.style}" cx="{across + 6:.1f}" cy="{HEIGHT - 10}" r="4"/>')
        parts.append(f'<text x="{across + 16:.1f}" y="{HEIGHT - 6}">{escape(line.name)}</text>')
    parts.append("</svg>")
    return Markup("".join(parts))


def _mean(scores: Sequence[float]) -> tuple[float, float, float]:
    """(low, mean, high) of the mean's interval, which is a point where one score says nothing of the scatter."""
    found = mean_interval(scores)
    low, high = (found.mean, found.mean) if found.interval is None else found.interval
    return float(low), float(found.mean), float(high)


def _axis(values: Sequence[float]) -> tuple[list[float], float, float]:
    """Round ticks around all values, and the ends of the axis; it has a length even where all values are the same."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    ticks = [float(tick) for tick in MaxNLocator(TICKS).tick_values(low - room, high + room)]
    return ticks, ticks[0], ticks[-1]

"""Pages as one HTML file that needs no network: the template engine and interactive figures.

plotly.js and the style lie inside the file. Text from outside (names, errors, options) is escaped by the template
engine; figures travel as JSON with every ``<`` written as ``\\u003c``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.colors import sequential
from plotly.offline import get_plotlyjs

from stablegrad import __version__
from stablegrad.files import write_atomically

VIRIDIS: list[str] = sequential.Viridis
# Blue and orange stay apart for colour-blind readers, and on white as on dark paper.
SETTING_COLOURS = ("#d9730d", "#2f81d6")
ZERO_COLOUR = "#9a9a9a"


@dataclass(frozen=True)
class PageFigure:
    """A figure of a page.

    Attributes:
        json: plotly's data and layout, safe inside a script element.
        height: in pixels.
        description: what it shows, for readers who cannot see it.
        narrow: another layout for phones, as JSON; None: the same.
        narrow_height: its height.
    """

    json: Markup
    height: int
    description: str
    narrow: Markup | None = None
    narrow_height: int = 0

    def with_narrow(self, other: PageFigure) -> PageFigure:
        """The same with the layout of ``other``, a figure of the same data, on phones."""
        layout = json.dumps(json.loads(other.json)["layout"])
        return replace(self, narrow=Markup(_script_safe(layout)), narrow_height=other.height)


def write_page(path: Path, template: str, **context: Any) -> Path:
    """Fill a template and write the page, whole or not at all.

    Args:
        path: where to.
        template: its path in the package, such as "reports/templates/run.html".
        context: what it shows.

    Returns:
        ``path``.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stablegrad", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(plotly_js=Markup(get_plotlyjs()), version=__version__, **context)
    write_atomically(path, page.encode(errors="replace"))  # a path may have bytes that are no text
    return path


def page_figure(
    figure: go.Figure,
    height: int,
    description: str,
    legend: bool = True,
    margin: Mapping[str, int] | None = None,
) -> PageFigure:
    """A figure in the style of all pages; ``margin``: pixels "t" above and "b" below, instead of what is usual."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 12, "t": 12, "b": 96 if legend else 48, **(margin or {})},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return PageFigure(Markup(_script_safe(figure.to_json())), height, description)


def _script_safe(text: str | None) -> str:
    return (text or "null").replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def transparent(colour: str, alpha: float) -> str:
    """A colour "#rrggbb" that lets the paper through; ``alpha`` from 0 to 1."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"

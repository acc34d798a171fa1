"""The picture of ``stablegrad bench optimizers``."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from stablegrad.reports.figures import new_figure, styled

COLOURS = {
    "radam": "#999999",
    "adam": "#bbbbbb",
    "kron": "#d55e00",
    "kron_block_128": "#fdd0a2",
    "kron_block_256": "#a63603",
    "kron_block_256_every_step": "#7f2704",
    "kron_bf16": "#f16913",
    "muon": "#56b4e9",
    "soap": "#009e73",
    "kron_torch": "#cc79a7",
    "heavyball": "#e6c700",
}
TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 30, 100)


def cost_figure(results: list[dict[str, Any]]) -> Figure:
    """Time of a whole training step over RAdam's, a row a network size, a mark an optimizer; log scale.

    Args:
        results: of :func:`stablegrad.studies.optimizer_cost.measure`.
    """
    with styled():
        figure = new_figure(7.5, 1.4 + 0.38 * len(results))
        axes = figure.add_subplot()
        names = [name for name in COLOURS if any("ratio_radam" in r["optimizers"].get(name, {}) for r in results)]
        highest = 1.0
        for name in names:
            points = [
                (result["optimizers"][name]["ratio_radam"], row)
                for row, result in enumerate(results)
                if "ratio_radam" in result["optimizers"].get(name, {})
            ]
            ratios, rows = zip(*points, strict=True)
            highest = max(highest, *ratios)
            axes.plot(ratios, rows, "o", color=COLOURS[name], label=name, markersize=8 if name == "kron" else 6)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if tick <= 1.5 * highest]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        labels = [f"{r['size']} ({r['parameters'] / 1e6:.1f} M)" for r in results]
        axes.set_yticks(range(len(results)), labels)
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlabel("time of forward + backward + optimizer, over the same with RAdam (left is cheaper)")
        axes.set_title("Cost of a training step by network (depth/width)", loc="left")
        if names:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure

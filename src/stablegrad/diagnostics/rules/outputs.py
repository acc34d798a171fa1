"""Features before the last layer, what comes out, and the loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import beginning_of, columns, error_left, holds_since, running_low
from stablegrad.diagnostics.rules.units import dead_units


def rank_collapse(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features that lie in ever fewer directions (Kumar et al., arXiv 2010.14498).

    In classification the rank of healthy features falls to the number of classes; only a rank next to one is alarming:
    at risk, and collapsing where it is far below its own beginning as well. One output needs one direction: while next
    to nothing of the error is left, a low rank alone is no risk.

    Tuned on ``make bench-drawn``.
    """
    series, left = history.series("effective_rank"), error_left(history, thresholds)
    for site, steps, values in columns(series):
        beginning = beginning_of(values, 1)
        low = (values < thresholds.low_rank) & (values > 0)
        fallen = holds_since(low & (values < thresholds.rank * beginning), min(thresholds.patience, 2))
        since = fallen if fallen is not None else holds_since(low, thresholds.patience)
        if since is None:
            continue
        # Features of units that are never negative begin nearly alike, and spread as they learn.
        spreads = values[-1] > thresholds.spreading * values[-thresholds.patience :][0]
        if fallen is not None or not (spreads or left < thresholds.learned):
            value = float(values[-1])
            yield Finding(
                "rank_collapse", "at risk" if fallen is None else "collapsing", site, int(steps[since]), value,
                thresholds.low_rank if fallen is None else thresholds.rank * beginning,
                f"the features before the last layer span {value:.1f} directions; at the beginning {beginning:.1f}",
            )  # fmt: skip


def alike_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features that all say the same from the beginning on: units that started alike get the same gradients.

    Tuned on ``make bench-drawn``.
    """
    layers = len(history.series("weight_norm").sites)
    outputs = columns(history.series("output_spread"), history.series("output_size"))
    # Where outputs are next to constant, features are alike as nothing comes through.
    speaks = any(spreads[0] > 0.1 * sizes[0] for _, _, spreads, sizes in outputs)
    dead = {finding.site for rule in (dead_units, constant_output) for finding in rule(history, thresholds)}
    for site, steps, values in columns(history.series("effective_rank")):
        alike = (values < thresholds.alike) & (values > 0)
        if layers > 1 and speaks and len(values) >= 2 and alike.all() and not dead:
            yield Finding(
                "alike_units", "collapsing", site, int(steps[0]), float(values[-1]), thresholds.alike,
                "all features before the last layer are one, and were from the beginning: the units are alike",
            )  # fmt: skip


def constant_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A network that answers the same whatever it is given.

    Tuned on ``make bench-drawn``.
    """
    for site, steps, spreads, sizes in columns(history.series("output_spread"), history.series("output_size")):
        # An output of zeros has no size to compare with. Beside a large mean that all answers share, a spread that
        # grows is what is being learned.
        constant = (spreads < thresholds.constant_output * sizes) | ((spreads == 0) & (sizes == 0))
        constant &= ~(spreads > 2 * beginning_of(spreads, max(thresholds.reference_looks - 1, 1)))
        since = holds_since(constant, thresholds.patience)
        if since is not None:
            value = float(spreads[-1] / sizes[-1]) if sizes[-1] else 0.0
            yield Finding(
                "constant_output", "collapsed", site, int(steps[since]), value, thresholds.constant_output,
                f"the output is the same for all inputs (its spread is {value:.1e} of its size)",
            )  # fmt: skip


def diverging_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs and their error grow together, far above the best they have been: values that chase each other up.

    Van Hasselt et al., arXiv 1812.02648. Tuned on ``make bench-drawn``.
    """
    for site, steps, sizes, errors in columns(history.series("output_size"), history.series("error_signal")):
        growth = np.minimum(sizes / running_low(sizes), errors / running_low(errors))
        # Outputs grow out of a small beginning by themselves, and an error that was next to nothing jumps easily.
        above = errors > 2 * beginning_of(errors, thresholds.reference_looks)
        since = holds_since((growth > thresholds.diverging) & above, thresholds.patience)
        if since is not None:
            value = float(growth[-1])
            yield Finding(
                "diverging_output", "collapsing", site, int(steps[since]), value, thresholds.diverging,
                f"outputs and their error are both {value:.0f} times the lowest they have been, and stay there",
            )  # fmt: skip

"""Gradients on their way back through the layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import beginning_of, columns, holds_since, is_learned, reach

#: Gradient of a layer over the strongest layer's below which its steps may be lost in rounding.
ROUNDED_AWAY = 1e-10


def no_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A layer that gets no gradient at all while others do: cut off from the loss, or behind dead units.

    Tuned on ``make bench-drawn``.
    """
    series = history.series("gradient_norm")
    if not series:
        return
    alive = np.nan_to_num(series.values).max(axis=1) > 0
    for column, site in enumerate(series.sites):
        since = holds_since((series.values[:, column] == 0) & alive, thresholds.patience)
        if since is not None and site not in history.frozen:
            yield Finding(
                "no_gradient", "collapsed", site, int(series.steps[since]), 0.0, 0.0,
                f"'{site}' gets no gradient: it is cut off from the loss or behind units that are all dead",
            )  # fmt: skip


def no_update(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A layer that gets gradients and never moves while others do: left out of the optimizer, or at a rate of zero.

    Tuned on ``make bench-drawn``.
    """
    series, gradients = history.series("update_ratio"), history.series("gradient_norm")
    strongest = dict(
        zip(gradients.steps.tolist(), np.nan_to_num(gradients.values, posinf=0.0).max(axis=1, initial=0.0), strict=True)
    )
    moving = {int(step) for step, row in zip(series.steps, series.values, strict=True) if np.nan_to_num(row).any()}
    for site, steps, updates, norms in columns(series, gradients):
        others = np.array([int(step) in moving for step in steps])
        # A gradient that vanished moves its layer by less than numbers are apart.
        felt = norms > ROUNDED_AWAY * np.array([strongest[int(step)] for step in steps])
        since = holds_since((updates == 0) & (norms > 0) & felt & others, thresholds.patience)
        if since is not None:
            yield Finding(
                "no_update", "collapsing", site, int(steps[since]), 0.0, 0.0,
                f"'{site}' gets gradients but its weights do not move: no optimizer has it, or at a learning rate of 0",
            )  # fmt: skip


def vanishing_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A gradient that fades on its way back through the layers, by its size per weight.

    The layer's gradient norm over its weight norm, against the strongest of the layers that are trained on the same
    error: the shape of the profile, which a small loss does not change. Where next to nothing is left of that error, it
    is a risk only: the layer can learn little anew.

    Bengio et al. 1994; Glorot and Bengio 2010. Tuned on ``make bench-drawn``.
    """
    relative = {
        site: (steps, gradients / weights)
        for site, steps, gradients, weights in columns(history.series("gradient_norm"), history.series("weight_norm"))
    }
    own = history.series("layer_error")
    errors = {site: own.site(site).tobytes() if site in own.sites else b"" for site in relative}
    strongest: dict[tuple[bytes, int], float] = {}
    for site, (steps, values) in relative.items():
        for step, value in zip(steps.tolist(), np.where(np.isfinite(values), values, 0.0).tolist(), strict=True):
            strongest[errors[site], step] = max(value, strongest.get((errors[site], step), 0.0))
    for site, (steps, values) in relative.items():
        profile = values / np.array([strongest[errors[site], step] for step in steps.tolist()])
        since = holds_since((profile < thresholds.vanishing) & (profile > 0), thresholds.patience)
        if since is not None:
            value = float(np.median(profile[-thresholds.patience :]))
            level = "at risk" if is_learned(history, site, thresholds) else "collapsing"
            yield Finding(
                "vanishing_gradient", level, site, int(steps[since]), value, thresholds.vanishing,
                f"the gradient of '{site}', for its weights, is {value:.1e} of the strongest layer's",
            )  # fmt: skip


def fading_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A layer that gets ever less of the error that enters at the output, against its own beginning.

    Gradient norm of the layer over norm of the error signal, so that an error that is small because the task is learned
    is not taken for a gradient that gets lost. Where next to nothing is left of that error, it is a risk only.

    Lyle et al. (arXiv 2303.01486) on networks that stop to learn anew. Tuned on ``make bench-drawn``.
    """
    for site, steps, values in columns(reach(history)):
        beginning = beginning_of(values, thresholds.reference_looks)
        since = holds_since((values < thresholds.fading * beginning) & (values > 0), thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]) / beginning)
            level = "at risk" if is_learned(history, site, thresholds) else "collapsing"
            yield Finding(
                "fading_gradient", level, site, int(steps[since]), value, thresholds.fading,
                f"'{site}' gets {value:.1e} of the part of the error signal that it got at the beginning",
            )  # fmt: skip


def exploding_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A gradient that is far above its own beginning, for the error that enters at the output, and stays there.

    Pascanu et al., arXiv 1211.5063. Tuned on ``make bench-drawn``.
    """
    for site, steps, values in columns(reach(history)):
        beginning = beginning_of(values[values > 0], thresholds.reference_looks)
        since = holds_since(values > thresholds.exploding * beginning, thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]) / beginning)
            yield Finding(
                "exploding_gradient", "collapsing", site, int(steps[since]), value, thresholds.exploding,
                f"the gradient of '{site}' is {value:.1e} times what it was at the beginning",
            )  # fmt: skip


def leftover_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Gradients of the step before that are still there when the next backward pass begins: they add up.

    Tuned on ``make bench-drawn``.
    """
    for site, steps, values in columns(history.series("leftover_gradient")):
        since = holds_since(values > 0, thresholds.patience)
        if since is not None:
            value = float(values[-1])
            yield Finding(
                "leftover_gradient", "collapsing", site, int(steps[since]), value, 0.0,
                "gradients of the last step are still there when the next ones are added: they were not set to zero",
            )  # fmt: skip

"""What was wrong before the first step: initial weights, and what goes in."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History, Series
from stablegrad.diagnostics.rules.damage import damaged_since
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.gradients import exploding_gradient, no_gradient, vanishing_gradient
from stablegrad.diagnostics.rules.numbers import nonfinite_at_once, nonfinite_input
from stablegrad.diagnostics.rules.outputs import constant_output, rank_collapse
from stablegrad.diagnostics.rules.shared import bad_looks, beginning_of, columns, holds_since, stretch, total_error
from stablegrad.diagnostics.rules.steps import small_update
from stablegrad.diagnostics.rules.units import dead_units, saturated_units


def unscaled_weights(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Layers that stretch or shrink what passes through them many times over from the first step on, and damage.

    What a layer of weights w and m outputs makes of inputs of mean square 1 has a root mean square of |w| / sqrt(m);
    every usual initialisation keeps it near 1 (Glorot and Bengio 2010; He et al., arXiv 1502.01852). Heads and ends of
    residual blocks are made small on purpose; so too small are the weights of most layers or of none. Layers that each
    stretch a little stretch much together.

    Tuned on ``make bench-drawn``.
    """
    gains = history.series("weight_gain")
    if not gains:
        return
    known = {
        site: gain for site, gain in zip(gains.sites, gains.values[0].tolist(), strict=True) if not math.isnan(gain)
    }
    large = {site: gain for site, gain in known.items() if gain > thresholds.stretching}
    small = {site: gain for site, gain in known.items() if 0 < gain < thresholds.starving}
    if len(known) < 2 or len(small) <= len(known) / 2:
        small = {}
    together = stretch(history)
    if not large and not small and not together > thresholds.compounding:
        return
    # What is out of all proportion has done whatever is wrong, whenever it shows.
    absurd = bool(small) or max(large.values(), default=0.0) > thresholds.absurd * thresholds.stretching
    blown = together > thresholds.compounding and (history.series("output_size").values[:1] > thresholds.blown).any()
    looks = history.series("weight_norm").steps[: None if absurd else thresholds.slow_looks]
    if not blown and not _sick(history, thresholds, looks):
        return
    if not large and not small:
        yield Finding(
            "unscaled_weights", "collapsing", NETWORK, int(gains.steps[0]), together, thresholds.compounding,
            f"the first weights are too large: layer by layer they multiply what passes by {together:.1e} in all, "
            "where about 1 is usual",
        )  # fmt: skip
    for found, size, threshold in ((large, "large", thresholds.stretching), (small, "small", thresholds.starving)):
        for site, gain in found.items():
            yield Finding(
                "unscaled_weights", "collapsing", site, int(gains.steps[0]), gain, threshold,
                f"the first weights of '{site}' are too {size}: it multiplies what it gets by {gain:.2g}, "
                "where about 1 is usual",
            )  # fmt: skip


def _sick(history: History, thresholds: Thresholds, looks: np.ndarray) -> bool:
    """Whether something that initial weights can do was there at some looks."""
    rules = (
        *(dead_units, saturated_units, constant_output, rank_collapse, no_gradient, vanishing_gradient),
        *(small_update, nonfinite_at_once, exploding_gradient),
    )
    return len(looks) > 0 and any(finding.since <= looks[-1] for rule in rules for finding in rule(history, thresholds))


def unscaled_input(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Inputs on a scale far above 1 from the beginning on, and damage: units at their ends, dead, or no numbers.

    LeCun et al. 1998, "Efficient BackProp". Tuned on ``make bench-drawn``.
    """
    bad = len(bad_looks(history)) > 0 and not any(nonfinite_input(history, thresholds))
    for site, steps, means, stds in columns(history.series("input_mean"), history.series("input_std")):
        size = beginning_of(np.hypot(means, stds), thresholds.reference_looks)
        if thresholds.unscaled < size < math.inf and (bad or damaged_since(history, thresholds, 0)):
            yield Finding(
                "unscaled_input", "collapsing", site, int(steps[0]), size, thresholds.unscaled,
                f"the inputs are of size {size:.0f}: weights are made for inputs of size 1",
            )  # fmt: skip


def unscaled_target(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """First errors far above what outputs are, and damage: targets or rewards on a scale far above 1.

    Van Hasselt et al., arXiv 1602.07714. Tuned on ``make bench-drawn``.
    """
    errors, sizes = total_error(history).values.ravel(), history.series("output_size")
    if not len(errors) or not sizes:
        return
    error = beginning_of(errors, thresholds.reference_looks)
    size = beginning_of(np.nanmax(sizes.values, axis=1), thresholds.reference_looks)
    if not (thresholds.unscaled_error * max(size, 1.0) < error < math.inf):
        return
    stays = len(errors) >= 2 * thresholds.slow_looks and np.median(errors[-thresholds.slow_looks :]) > 0.5 * error
    if stays or len(bad_looks(history)) or damaged_since(history, thresholds, 0):
        yield Finding(
            "unscaled_target", "collapsing", NETWORK, int(sizes.steps[0]), error, thresholds.unscaled_error,
            f"the first errors are of size {error:.0f}, where outputs are of size {size:.2g}: targets or rewards are "
            "on a scale that weights and steps are not made for",
        )  # fmt: skip


def input_shift(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Inputs that moved far from what they were at the beginning, and an error that grew with them or damage since.

    An agent sees ever new states as it gets better; while its error stays where it was, that is progress.

    Tuned on ``make bench-drawn``.
    """
    errors = history.series("error_signal")
    for site, steps, means, stds in columns(history.series("input_mean"), history.series("input_std")):
        first_mean, first_std = (beginning_of(one, thresholds.reference_looks) for one in (means, stds))
        if not first_std > 0:
            continue
        moved = np.maximum(np.abs(means - first_mean) / first_std, np.maximum(stds / first_std, first_std / stds) - 1)
        since = holds_since(moved > thresholds.input_shift, thresholds.patience)
        # An error that had not fallen yet does not grow; what broke then tells as much.
        if since is not None and (
            not _copes(errors, site, int(steps[since]), thresholds)
            or damaged_since(history, thresholds, int(steps[since]))
        ):
            value = float(moved[-1])
            yield Finding(
                "input_shift", "at risk", site, int(steps[since]), value, thresholds.input_shift,
                f"the inputs moved by {value:.1f} of their first standard deviations",
            )  # fmt: skip


def _copes(errors: Series, site: str, since: int, thresholds: Thresholds) -> bool:
    """Whether the error signal is about as low as it was before a step; False where it was not seen."""
    if site not in errors.sites:
        return False
    values = errors.site(site)
    before = values[errors.steps < since]
    if np.isnan(before).all() or np.isnan(values[-thresholds.patience :]).all():
        return False
    # The lowest of medians, as single looks are noisy.
    size = min(thresholds.patience, len(before))
    windows = np.lib.stride_tricks.sliding_window_view(before, size)
    lowest = np.nanmin(np.nanmedian(windows, axis=1))
    return bool(np.nanmedian(values[-thresholds.patience :]) < thresholds.unmoved * lowest)

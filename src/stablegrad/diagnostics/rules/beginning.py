"""What was wrong before the first step: initial weights, and what goes in."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History
from stablegrad.diagnostics.rules.damage import damaged_since
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.gradients import exploding_gradient, no_gradient, vanishing_gradient
from stablegrad.diagnostics.rules.numbers import nonfinite, nonfinite_input
from stablegrad.diagnostics.rules.outputs import constant_output, rank_collapse
from stablegrad.diagnostics.rules.shared import bad_looks, beginning_of, columns, stretch
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
        *(small_update, nonfinite, exploding_gradient),
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

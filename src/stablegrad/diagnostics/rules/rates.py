"""Learning rates over a training: schedules that starve it, and jumps that throw it back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import beginning_of, holds_since, middle, together, total_error


def starved_rate(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A learning rate that fell to next to nothing of what it was while the error is what it was: a schedule too steep.

    At the end of a schedule that suits the task the error has fallen.

    Tuned on ``make bench-drawn``.
    """
    steps, rates = learning_rates(history)
    updates, errors = history.series("update_ratio"), total_error(history)
    if not (len(rates) and updates and errors):
        return
    known = np.isin(steps, updates.steps) & np.isin(steps, errors.steps)
    steps, rates = steps[known], rates[known]
    typical = middle(updates.values[np.isin(updates.steps, steps)])
    error = errors.values[np.isin(errors.steps, steps)].ravel()
    fallen = rates < np.maximum.accumulate(rates) / thresholds.starving_rate
    idle = (typical < thresholds.small_update) & (error > 0.5 * beginning_of(error, thresholds.reference_looks))
    since = holds_since(fallen & idle, thresholds.patience)
    if since is not None:
        value = float(rates[-1] / rates.max())
        yield Finding(
            "starved_rate", "at risk", NETWORK, int(steps[since]), value, 1 / thresholds.starving_rate,
            f"the learning rate is {value:.1e} of what it was, and the error is as large as at the beginning",
        )  # fmt: skip


def learning_rates(history: History) -> tuple[np.ndarray, np.ndarray]:
    """(steps, the median layer's learning rate) at the looks that have one."""
    effective, norms = together(history.series("effective_learning_rate"), history.series("weight_norm"))
    # A layer that no optimizer holds has weights and no rate.
    sites = [site for site in effective.sites if site in norms.sites]
    if not sites:
        return np.empty(0, np.int64), np.empty(0)
    effective_rates, weights = (np.stack([one.site(site) for site in sites], axis=1) for one in (effective, norms))
    rates = effective_rates * np.square(weights)
    there = np.isfinite(rates).any(axis=1)
    return effective.steps[there], middle(np.where(np.isfinite(rates), rates, np.nan)[there])

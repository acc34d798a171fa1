"""When Kron refreshes its preconditioners: a function of a parameter's step count and of nothing else."""

from __future__ import annotations

import math


def refresh_rate(step: int, warmup: int, floor: float) -> float:
    """Refreshes a step: ``clip(exp(-(step - warmup) / (2 warmup)), floor, 1)``, with ``step`` counted from 0.

    One refresh a step for ``warmup`` steps, then ever fewer until ``floor`` is reached. kron_torch, and so arXiv
    2506.15544, has a warm-up of 500 and a floor of 0.03, which it reaches after 4000 steps.
    """
    return min(1.0, max(floor, math.exp(-max(0, step - warmup) / (2 * warmup))))


def refresh_due(step: int, since_refresh: int, warmup: int, floor: float) -> bool:
    """Whether to refresh on step ``step`` (from 0) when ``since_refresh`` steps have passed since the last, this one
    included."""
    return since_refresh >= 1.0 / refresh_rate(step, warmup, floor)

"""When Kron refreshes its preconditioners: a function of a parameter's step count and of nothing else."""

from __future__ import annotations

import math


def refreshes_before(step: int, warmup: int, floor: float) -> float:
    """Refreshes, as a real number, that are due in the steps 0 to ``step - 1``.

    The integral of the rate ``clip(exp(-(t - warmup) / (2 warmup)), floor, 1)``: one a step for ``warmup`` steps, then
    ever fewer until ``floor`` is reached after ``warmup (1 + 2 ln(1 / floor))`` steps. The rate is that of kron_torch,
    and so of arXiv 2506.15544, which has a warm-up of 500 and a floor of 0.03.
    """
    falling = 2 * warmup * math.log(1 / floor)
    past_warmup = max(0.0, step - warmup)
    decayed = 2 * warmup * (1 - math.exp(-min(past_warmup, falling) / (2 * warmup)))
    return min(step, warmup) + decayed + floor * max(0.0, past_warmup - falling)


def refresh_due(step: int, warmup: int, floor: float) -> bool:
    """Whether to refresh on step ``step``, counted from 0."""
    before, after = (math.ceil(refreshes_before(at, warmup, floor)) for at in (step, step + 1))
    return after > before

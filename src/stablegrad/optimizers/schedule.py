"""What Kron does on a step: a function of a parameter's step count and of nothing else."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from stablegrad.optimizers.partition import DEFAULT_BLOCK_SIZE

#: Kinds of step, the dearest first: the momentum goes through the preconditioners, which are then fitted; it only goes
#: through them; the last update is taken once more.
Kind = Literal["refresh", "precondition", "repeat"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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


def refreshes_done(step: int, warmup: int, floor: float) -> int:
    """Refreshes in the steps 0 to ``step - 1``."""
    return math.ceil(refreshes_before(step, warmup, floor))


def refresh_due(step: int, warmup: int, floor: float) -> bool:
    """Whether to refresh on step ``step``, counted from 0."""
    return refreshes_done(step + 1, warmup, floor) > refreshes_done(step, warmup, floor)


def kind_of_step(step: int, warmup: int, floor: float, precondition_every: int) -> Kind:
    """What to do on step ``step``, counted from 0.

    Of the steps that do not refresh, every ``precondition_every``-th preconditions.
    """
    done = refreshes_done(step, warmup, floor)
    if refreshes_done(step + 1, warmup, floor) > done:
        return "refresh"
    return "precondition" if (step - done + 1) % precondition_every == 0 else "repeat"


def default_schedule(longest_block: int, momentum: float) -> dict[str, Any]:
    """What Kron does how often where nothing else is asked for.

    The longer the blocks, the more there is to fit, and the dearer everything is: blocks of 256 cost what those of 64
    do with this (docs/optimizers.md). Longer ones are treated as such of 256. An update is not repeated for longer than
    0.4 of the 1 / (1 - momentum) steps over which the running mean forgets: without momentum a repeating step would
    lose its gradient.
    """
    block = min(longest_block, 4 * DEFAULT_BLOCK_SIZE)
    return {
        "precondition_every": max(1, min(block // DEFAULT_BLOCK_SIZE, round(0.4 / (1 - momentum)))),
        "refresh_warmup": 2 * block if block > DEFAULT_BLOCK_SIZE else 100,
        "refresh_floor": min(0.1, 12.8 / block),
    }


def long_run_shares(floor: float, precondition_every: int) -> dict[Kind, float]:
    """Share of each kind of step once the floor is reached."""
    preconditioned = (1 - floor) / precondition_every
    return {"refresh": floor, "precondition": preconditioned, "repeat": 1 - floor - preconditioned}

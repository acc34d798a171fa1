"""How much an agent explores, as pure functions of the steps taken."""

from __future__ import annotations


def linear_epsilon(start: float, end: float, fraction: float, env_steps: int, total_steps: int) -> float:
    """Fraction of random actions: linear from ``start`` to ``end``, then constant.

    Args:
        start: at the beginning of the run.
        end: after the decay.
        fraction: part of the run that the decay takes.
        env_steps: environment steps taken so far.
        total_steps: environment steps of the whole run.
    """
    duration = fraction * total_steps
    progress = min(env_steps / duration, 1.0) if duration > 0 else 1.0
    return start + progress * (end - start)

"""Which seeds a number, or a list of numbers, asks for."""

from __future__ import annotations

from typing import Any

from stablegrad.errors import UsageError

MAX_SEEDS = 1000
MAX_SEED = 2**63 - 1  # what torch takes


def seed_list(value: Any, how_to_name_one: str) -> tuple[int, ...]:
    """The seeds 1 to n for one number n; a list holds the seeds themselves.

    Args:
        value: the number or the list.
        how_to_name_one: how a seed of a high number is asked for, said to who gives one where a count is expected.

    Raises:
        UsageError: no seeds, too many, or not distinct integers from 0.
    """
    if type(value) is int and value > MAX_SEEDS:
        raise UsageError(f"seeds = {value} asks for seeds 1 to {value}, at most {MAX_SEEDS}; {how_to_name_one}")
    asked = range(1, value + 1) if type(value) is int else value
    seeds = tuple(asked) if isinstance(asked, list | tuple | range) else ()
    if (
        not seeds
        or not all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise UsageError(
            f"seeds should be a number of at least 1, or a list of distinct ones from 0 to {MAX_SEED}; got {value!r}"
        )
    if len(seeds) > MAX_SEEDS:
        raise UsageError(f"{len(seeds):,} seeds are too many; at most {MAX_SEEDS:,}")
    return seeds

"""Seeds of sub-environments: explicit, one each, derived from the run and the segment.

An engine that is given one number seeds environment i with ``seed + i``, so that runs 1 and 2 share all but one of
their streams. Here each environment gets a number of its own out of ``numpy.random.SeedSequence``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stablegrad.errors import UsageError

SEED_LIMIT = 2**31
"""Seeds lie below this: engines take them as 32-bit signed integers, and gymnasium refuses negative ones."""


def environment_seeds(run_seed: int, segment: int, num_envs: int) -> list[int]:
    """Derive one seed for each sub-environment of one segment of a run.

    Args:
        run_seed: the run's seed, 0 or more.
        segment: number of the segment (a run starts fresh environments at each checkpoint), 0 or more.
        num_envs: how many seeds.

    Returns:
        ``num_envs`` different numbers in [0, 2**31), the same ones for the same arguments on every platform.

    Raises:
        UsageError: an argument is negative, or ``num_envs`` is not positive.
    """
    if run_seed < 0 or segment < 0:
        raise UsageError(f"a run seed and a segment are 0 or more, got run seed {run_seed} and segment {segment}")
    if num_envs < 1:
        raise UsageError(f"num_envs must be at least 1, got {num_envs}")
    sequence = np.random.SeedSequence((run_seed, segment))
    count = num_envs
    while True:
        # The words of a SeedSequence do not depend on how many are asked for, so a longer draw extends a shorter one.
        words = sequence.generate_state(count, np.uint32) >> np.uint32(1)
        seeds = list(dict.fromkeys(words.tolist()))
        if len(seeds) >= num_envs:
            return seeds[:num_envs]
        count += num_envs


def check_seeds(seeds: Sequence[int], num_envs: int) -> list[int]:
    """Return ``seeds`` as a list of Python integers, or say what is wrong with them.

    Raises:
        UsageError: not one seed an environment, a seed out of range, or one seed twice.
    """
    if num_envs < 1:
        raise UsageError(f"num_envs must be at least 1, got {num_envs}")
    checked = [int(seed) for seed in seeds]
    if len(checked) != num_envs:
        raise UsageError(f"expected one seed an environment, got {len(checked)} seeds for {num_envs} environments")
    outside = next((seed for seed in checked if not 0 <= seed < SEED_LIMIT), None)
    if outside is not None:
        raise UsageError(f"a seed must be in 0 .. {SEED_LIMIT - 1}, got {outside}")
    if len(set(checked)) != len(checked):
        twice = next(seed for seed in checked if checked.count(seed) > 1)
        raise UsageError(f"seed {twice} is given twice: two environments would run the same stream")
    return checked

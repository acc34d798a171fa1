"""Random streams of one run: each named, each a function of the run's seed alone."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are drawn for."""

    WEIGHTS = 0
    LABELS = 1
    BATCHES = 2
    DROPOUT = 3


def seed_sequence(seed: int, stream: Stream, number: int = 0) -> np.random.SeedSequence:
    """The entropy of one stream; ``number`` is the phase or the epoch."""
    return np.random.SeedSequence(seed, spawn_key=(stream, number))


def torch_seed(seed: int, stream: Stream, number: int = 0) -> int:
    """The same as one number from 0 to 2^63 - 1, for torch's generators."""
    return int(seed_sequence(seed, stream, number).generate_state(1, np.uint64)[0] >> np.uint64(1))

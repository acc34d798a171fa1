"""Labels that change: when they are reshuffled, to what, and how fast they are learned again.

A run is a chain of *phases*. In phase 0 every image has its own label. Before every later phase the labels are
reshuffled over all training images, so that there is nothing to learn but each image's label by heart, and nothing that
holds for images outside the training set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.errors import UsageError
from stablegrad.supervised.seeds import Stream, seed_sequence

MAX_RESHUFFLES = 100_000


def reshuffle_epochs(epochs: int, every: int, at: Sequence[int] | None = None) -> list[int]:
    """After how many epochs labels are reshuffled, ascending.

    Args:
        epochs: epochs of the run.
        every: epochs of a phase; 0: never.
        at: the epochs themselves, instead of ``every``.

    Raises:
        UsageError: a reshuffle that never comes, or epochs that do not ascend.
    """
    if at is None:
        if every >= epochs:
            raise UsageError(
                f"reshuffle-every {every} never comes in {epochs} epochs; choose less, or 0 for labels that stay"
            )
        if every and epochs // every > MAX_RESHUFFLES:
            raise UsageError(
                f"{epochs // every:,} reshuffles are too many, at most {MAX_RESHUFFLES:,}: epochs {epochs}"
            )
        return list(range(every, epochs, every)) if every else []
    if list(at) != sorted(set(at)) or not all(0 < epoch < epochs for epoch in at):
        raise UsageError(f"reshuffle-at must ascend from 1 to {epochs - 1}, one less than epochs; got {list(at)}")
    return list(at)


def phase_of(epoch: int, reshuffles: Sequence[int]) -> int:
    """The phase to which an epoch, counted from 0, belongs."""
    return bisect_right(reshuffles, epoch)


def phase_labels(labels: Tensor, seed: int, phase: int) -> Tensor:
    """The training labels of one phase: the same in number, in phase 0 also in place.

    Args:
        labels: [N] the true labels, on any device.
        seed: the run's seed.
        phase: 0, or the number of reshuffles so far. Each draws a permutation of the *true* labels, which follows from
            (seed, phase) alone.
    """
    if phase == 0:
        return labels
    permutation = np.random.default_rng(seed_sequence(seed, Stream.LABELS, phase)).permutation(len(labels))
    return labels[torch.from_numpy(permutation).to(labels.device)]


def epochs_to_learn(accuracy: Sequence[float], threshold: float) -> int | None:
    """The first epoch of a phase, counted from 1, with an accuracy of at least ``threshold``; None: there is none."""
    return next((epoch for epoch, value in enumerate(accuracy, start=1) if value >= threshold), None)


def summarize_phases(
    train_accuracy: Sequence[float],
    test_accuracy: Sequence[float | None],
    reshuffles: Sequence[int],
    epochs: int,
    threshold: float,
) -> list[dict[str, Any]]:
    """What each phase that is over came to.

    Args:
        train_accuracy: one number an epoch so far.
        test_accuracy: the same; None where labels have no meaning.
        reshuffles: see :func:`reshuffle_epochs`.
        epochs: epochs of the whole run.
        threshold: accuracy at which labels count as learned.
    """
    phases = []
    for phase, (first, end) in enumerate(zip([0, *reshuffles], [*reshuffles, epochs], strict=True)):
        if end > len(train_accuracy):
            break
        phases.append(
            {
                "phase": phase,
                "labels": "reshuffled" if phase else "true",
                "epochs": end - first,
                "train_accuracy": train_accuracy[end - 1],
                "test_accuracy": test_accuracy[end - 1],
                "epochs_to_learn": epochs_to_learn(train_accuracy[first:end], threshold),
            }
        )
    return phases


def summarize_relearning(phases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All reshuffled phases in one: how many, how many were learned again, and the means.

    ``mean_epochs`` is None unless *every* phase was learned: a mean over the successes alone would make a network look
    the faster the more often it fails.
    """
    reshuffled = [phase for phase in phases if phase["phase"] > 0]
    needed = [phase["epochs_to_learn"] for phase in reshuffled]
    learned = [epochs for epochs in needed if epochs is not None]
    return {
        "reshuffles": len(reshuffled),
        "relearned": len(learned),
        "mean_final_accuracy": fmean(phase["train_accuracy"] for phase in reshuffled) if reshuffled else None,
        "mean_epochs": fmean(learned) if learned and len(learned) == len(needed) else None,
    }

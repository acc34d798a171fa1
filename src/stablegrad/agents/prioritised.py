"""A replay buffer that samples by how much there is to learn (Schaul et al. 2016, arXiv 1511.05952)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.agents.replay import Batch, Replay, ring_shape
from stablegrad.agents.sum_tree import SumTree
from stablegrad.errors import UsageError

#: Added to every priority, so that nothing is never sampled again.
LEAST_PRIORITY = 1e-6


@dataclass(frozen=True, slots=True)
class PrioritisedBatch(Batch):
    """Transitions that were drawn by priority."""

    weight: Tensor
    """float32 [batch]: importance weights, of which the largest of the batch is 1, on the replay's device."""
    place: np.ndarray
    """int64 [batch]: where their priorities are, for ``PrioritisedReplay.prioritise``."""


class PrioritisedReplay(Replay):
    r"""A ``Replay`` that also samples in proportion to priorities, :math:`P(i) = p_i^\alpha / \sum_k p_k^\alpha`.

    A transition has its place in a sum tree from when it can be sampled until it is overwritten, so that nothing else
    is drawn. It starts with the largest priority so far (1 to begin with), so that it is soon seen once. ``sample``
    stays uniform.

    Args:
        *arguments: of ``Replay``.
        exponent: alpha, from 0 (uniform) to 1.
        **options: of ``Replay``.
    """

    def __init__(self, *arguments: Any, exponent: float, **options: Any):
        super().__init__(*arguments, **options)
        if not 0.0 <= exponent <= 1.0:
            raise UsageError(f"exponent must be from 0 to 1, got {exponent}")
        self._exponent = exponent
        self._tree = SumTree(self._kind.size)
        self._largest = 1.0

    def sample_prioritised(
        self, batch_size: int, importance_exponent: float, generator: torch.Generator
    ) -> PrioritisedBatch:
        r"""Draw transitions by priority, one out of each of ``batch_size`` equal parts of their sum.

        Their weights :math:`(N P(i))^{-\beta}`, divided by the batch's largest, correct for the drawing.

        Args:
            batch_size: how many.
            importance_exponent: beta, from 0 (no correction) to 1 (all of it).
            generator: a generator of the CPU, the only source of randomness.

        Raises:
            UsageError: there is no transition to sample yet.
        """
        if not len(self):
            raise UsageError("the replay holds no transition yet; sample_prioritised() needs at least one")
        parts = torch.rand(batch_size, generator=generator, dtype=torch.float64).numpy() + np.arange(batch_size)
        place = self._tree.find(parts * (self._tree.total / batch_size))
        # N and the sum of all priorities are the same for the whole batch.
        priority = self._tree.weights[place].astype(np.float64)
        weight = (priority / priority.min()) ** -importance_exponent
        env, row = np.divmod(place, self._rows)
        batch = self._batch(env, row, self._steps(env, row))
        return PrioritisedBatch(
            batch.observation,
            batch.action,
            batch.reward,
            batch.next_observation,
            batch.discount,
            weight=torch.from_numpy(weight.astype(np.float32)).to(self._device),
            place=place,
        )

    def prioritise(self, place: np.ndarray, priority: Tensor) -> None:
        """Give transitions that were sampled since the last ``add`` new priorities.

        Args:
            place: int64 [batch], of a ``PrioritisedBatch``.
            priority: [batch], at least 0, such as absolute TD errors. Waits for the device.
        """
        raised = (priority.cpu().numpy().astype(np.float64) + LEAST_PRIORITY) ** self._exponent
        self._largest = max(self._largest, float(raised.max()))
        self._tree.set(place, raised)

    def priorities(self) -> dict[str, Any]:
        """State of the priorities, which change everywhere and so are no part of ``arrays``: 4 bytes a transition."""
        return {"weights": torch.from_numpy(self._tree.weights), "largest": self._largest}

    def load_priorities(self, state: dict[str, Any]) -> None:
        """Take over ``priorities()`` of a replay of the same shape.

        Raises:
            ValueError: they are of a replay of another size.
        """
        weights = state["weights"].numpy()
        if weights.shape != self._tree.weights.shape:
            raise ValueError(f"priorities of {len(weights)} rows, and the replay has {self._tree.weights.size}")
        self._tree.load(weights)
        self._largest = state["largest"]

    def _append(self, envs: np.ndarray, *row: Any) -> tuple[np.ndarray, np.ndarray]:
        # The row overwrites the oldest frame of one transition's stack.
        lost = (self._totals[envs] + self._frame_stack - 1) % self._rows
        self._tree.set(envs * self._rows + lost, 0.0)
        env, gained = super()._append(envs, *row)
        self._tree.set(env * self._rows + gained, self._largest)
        return env, gained


def priority_bytes(capacity: int, num_envs: int, *, n_step: int, frame_stack: int, **others: Any) -> int:
    """Bytes of the priorities of such a replay, without allocating them. Arguments as of ``Replay``."""
    return SumTree.bytes_needed(math.prod(ring_shape(capacity, num_envs, n_step, frame_stack)))

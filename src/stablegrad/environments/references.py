"""What a score means: that of random play, and the one at which a task counts as solved or that a human reaches.

Human and random scores of Atari games are those of :mod:`stablegrad.environments.atari_scores`. "Solved" is the
``reward_threshold`` of gymnasium's registry. Random play of other tasks is measured:
``random_returns.json``, written by ``benchmarks/random_returns.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

import gymnasium

from stablegrad.environments.atari_scores import REFERENCE_SCORES

#: Scores in the units of the environment's rewards; those of the second kind are normalised by random play and humans.
RAW = ("final_return", "evaluation.mean_return", "train/return")
HUMAN_NORMALIZED = ("human_normalized_return", "evaluation.human_normalized_score")


@dataclass(frozen=True)
class References:
    """Scores to hold a score against.

    Attributes:
        random: of uniformly random play; None where it has not been measured.
        target: of a human tester, or at which the task counts as solved; None where there is none.
        kind: what ``target`` is: "human" or "solved".
    """

    random: float | None
    target: float | None
    kind: str

    def solved(self, score: float | None) -> bool | None:
        """Whether a score counts as solved; None where no such score is known."""
        return None if score is None or self.target is None or self.kind != "solved" else score >= self.target


def references(score: str, env_ids: set[str]) -> References | None:
    """The references of a score on one task, or, where it is normalised, on any.

    Args:
        score: name of the figure, as in ``evidence.SCORES``.
        env_ids: the environments.

    Returns:
        None where none is known.
    """
    if score in HUMAN_NORMALIZED:
        return References(0.0, 1.0, "human")
    if score not in RAW or len(env_ids) != 1:
        return None
    (env_id,) = env_ids
    name = env_id.removeprefix("envpool:").removeprefix("gymnasium:")
    game = name.removesuffix("-v5")
    if game in REFERENCE_SCORES:
        scores = REFERENCE_SCORES[game]
        return References(scores.random, scores.human, "human")
    measured = _RANDOM_RETURNS.get(name)
    spec = gymnasium.registry.get(name)
    solved = None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)
    if measured is None and solved is None:
        return None
    return References(None if measured is None else measured["mean"], solved, "solved")


_RANDOM_RETURNS: dict[str, dict[str, float]] = json.loads(
    resources.files("stablegrad.environments").joinpath("random_returns.json").read_text(encoding="utf-8")
)

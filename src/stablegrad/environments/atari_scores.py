"""Human and random scores of Atari games, and scores normalised by them.

Mean scores of a professional human tester and of a uniformly random agent, from games that start after up to 30 no-ops
and last at most 30 minutes. The table of Wang et al. 2016 ("Dueling network architectures for deep reinforcement
learning", arXiv 1511.06581), as used since (Badia et al. 2020, "Agent57", arXiv 2003.13350); compared number by number
with the copy in DeepMind's ``dqn_zoo``.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stablegrad.errors import unknown_name


class ReferenceScores(NamedTuple):
    """Mean scores of a game, raw and undiscounted."""

    random: float
    human: float


def _load() -> dict[str, ReferenceScores]:
    text = resources.files("stablegrad.environments").joinpath("atari_scores.json").read_text(encoding="utf-8")
    return {game: ReferenceScores(**scores) for game, scores in json.loads(text).items()}


REFERENCE_SCORES: dict[str, ReferenceScores] = _load()
"""Game ("Breakout", as in the environment id "Breakout-v5") -> its scores."""

ALE_57: tuple[str, ...] = tuple(REFERENCE_SCORES)
"""The 57 games that results are reported on, in alphabetical order."""

ATARI_10: tuple[str, ...] = (
    "Amidar",
    "BattleZone",
    "Bowling",
    "DoubleDunk",
    "Frostbite",
    "KungFuMaster",
    "NameThisGame",
    "Phoenix",
    "Qbert",
    "Riverraid",
)
"""The 10 games of arXiv 2506.15544's ablations."""


def human_normalized_score(game: str, score: ArrayLike) -> np.ndarray:
    """Normalise raw scores: 0 is the random agent, 1 the human tester.

    Args:
        game: name of the game, "Breakout" or "Breakout-v5".
        score: raw scores, of any shape.

    Returns:
        float64, of the same shape: (score - random) / (human - random).

    Raises:
        UsageError: the game is none of ``ALE_57``.
    """
    name = game.removesuffix("-v5")
    if name not in REFERENCE_SCORES:
        raise unknown_name("Atari game with reference scores", game, ALE_57)
    random, human = REFERENCE_SCORES[name]
    return np.asarray((np.asarray(score, dtype=np.float64) - random) / (human - random))

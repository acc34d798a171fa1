import envpool
import numpy as np
import pytest

from stablegrad.environments.atari_scores import ALE_57, ATARI_10, REFERENCE_SCORES, human_normalized_score
from stablegrad.errors import UsageError


def test_all_games_exist_in_the_engine():
    assert len(ALE_57) == 57 and len(set(ALE_57)) == 57
    assert set(ATARI_10) <= set(ALE_57) and len(ATARI_10) == 10
    ids = set(envpool.list_all_envs())
    assert [game for game in ALE_57 if f"{game}-v5" not in ids] == []


@pytest.mark.parametrize(
    ("game", "random", "human"),
    [
        ("Breakout", 1.7, 30.5),
        ("Pong", -20.7, 14.6),
        ("Skiing", -17098.1, -4336.9),
        ("VideoPinball", 16256.9, 17667.9),
        ("YarsRevenge", 3092.9, 54576.9),
        ("DoubleDunk", -18.6, -16.4),
    ],
)
def test_known_values(game, random, human):
    assert REFERENCE_SCORES[game] == (random, human)


def test_totals_guard_every_number():
    """Sums over the table of DeepMind's dqn_zoo: no single number can change unnoticed."""
    assert sum(s.random for s in REFERENCE_SCORES.values()) == pytest.approx(RANDOM_TOTAL)
    assert sum(s.human for s in REFERENCE_SCORES.values()) == pytest.approx(HUMAN_TOTAL)


RANDOM_TOTAL = 50864.9
HUMAN_TOTAL = 606494.2


@pytest.mark.parametrize("game", ALE_57)
def test_random_is_zero_and_human_is_one(game):
    random, human = REFERENCE_SCORES[game]
    np.testing.assert_allclose(human_normalized_score(game, [random, human, 2 * human - random]), [0, 1, 2])


def test_any_shape_and_the_environments_id():
    scores = np.array([[1.7, 30.5, 384.9]])
    normalized = human_normalized_score("Breakout-v5", scores)
    assert normalized.shape == (1, 3)
    assert normalized[0, 2] == pytest.approx(13.3056, abs=1e-4)
    assert float(human_normalized_score("Pong", 0.0)) == pytest.approx(0.5864, abs=1e-4)


def test_a_game_without_scores_is_named():
    with pytest.raises(UsageError, match="did you mean 'Breakout'"):
        human_normalized_score("Brakout", 1.0)

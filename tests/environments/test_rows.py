"""The row keeper against a slow loop over one environment at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.environments.rows import RowKeeper
from stablegrad.errors import EnvironmentFault

ENDINGS = ("none", "life", "death", "limit", "death at limit")
rows = st.lists(
    st.lists(st.tuples(st.sampled_from(ENDINGS), st.floats(-100, 100, width=32)), min_size=3, max_size=3),
    min_size=1,
    max_size=30,
)


@given(rows)
def test_masks_and_statistics_equal_a_loop_over_single_environments(script):
    keeper = RowKeeper("scripted", 3)
    games = [{"resetting": False, "return": 0.0, "length": 0} for _ in range(3)]
    for row in script:
        ending = [what for what, _ in row]
        raw = np.array([reward for _, reward in row])
        terminated = np.array([what in ("life", "death", "death at limit") for what in ending])
        truncated = np.array([what in ("limit", "death at limit") for what in ending])
        resetting = keeper.resetting
        game_over = np.array([what not in ("none", "life") for what in ending]) & ~resetting
        result = keeper.row(np.zeros((3, 2), np.float32), np.sign(raw), raw, terminated, truncated, game_over)
        for i, game in enumerate(games):
            if game["resetting"]:
                expected = {"valid": False, "reward": 0.0, "terminated": False, "truncated": False, "finished": False}
            else:
                game["return"] += raw[i]
                game["length"] += 1
                expected = {
                    "valid": True,
                    "reward": float(np.sign(raw[i])),
                    "terminated": ending[i] in ("life", "death", "death at limit"),
                    "truncated": ending[i] == "limit",
                    "finished": ending[i] in ("death", "limit", "death at limit"),
                }
            seen = {name: getattr(result, name)[i] for name in ("valid", "reward", "terminated", "truncated")}
            seen["finished"] = result.episode.finished[i]
            assert seen == expected
            assert result.episode.returns[i] == pytest.approx(game["return"], abs=1e-9)
            assert result.episode.lengths[i] == game["length"]
            if expected["finished"]:
                game["return"], game["length"] = 0.0, 0
            # The engine decides on its own flags whether the next row is a reset, also on a reset row.
            game["resetting"] = ending[i] != "none"
        assert not (result.terminated & result.truncated).any()


def _quiet(keeper, *, observation=None, reward=None):
    n = 2
    no = np.zeros(n, dtype=bool)
    reward = np.zeros(n) if reward is None else reward
    return keeper.row(np.zeros((n, 3), np.float32) if observation is None else observation, reward, reward, no, no, no)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(value):
    keeper = RowKeeper("Broken-v0", 2)
    _quiet(keeper)
    observation = np.zeros((2, 3), np.float32)
    observation[1, 2] = value
    with pytest.raises(EnvironmentFault, match=rf"'Broken-v0'.*observation \({value}\) in sub-environment 1 at step 2"):
        _quiet(keeper, observation=observation)
    keeper = RowKeeper("Broken-v0", 2)
    with pytest.raises(EnvironmentFault, match=rf"non-finite reward \({value}\) in sub-environment 0 at step 1"):
        _quiet(keeper, reward=np.array([value, 0.0]))
    with pytest.raises(EnvironmentFault, match="step 0"):
        RowKeeper("Broken-v0", 2).first(observation)


def test_a_reward_too_large_for_float32_is_not_finite():
    with pytest.raises(EnvironmentFault, match="non-finite reward"):
        _quiet(RowKeeper("Huge-v0", 2), reward=np.array([0.0, 1e300]))


def test_the_reward_of_a_reset_row_is_not_looked_at():
    keeper = RowKeeper("Odd-v0", 2)
    yes, no = np.array([True, False]), np.array([False, False])
    keeper.row(np.zeros((2, 1), np.float32), np.zeros(2), np.zeros(2), yes, no, yes)
    result = _quiet(keeper, reward=np.array([np.nan, 1.0]))
    assert result.reward.tolist() == [0.0, 1.0]
    assert result.valid.tolist() == [False, True]

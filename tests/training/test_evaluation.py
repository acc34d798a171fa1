"""Greedy games: whole ones, games that never end, and what a person sees meanwhile."""

import re
import sys
import types

import gymnasium
import numpy as np
import pytest

from stablegrad.environments import AtariOptions, environment_seeds
from stablegrad.errors import UsageError
from stablegrad.training import evaluation
from stablegrad.training.evaluation import EVALUATION_SEGMENT, evaluate


class Endless(gymnasium.Env):
    """Pays 1 a step; ends after ``length`` steps, or never."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    made: list[int] = []  # noqa: RUF012

    def __init__(self, seed, length=None):
        self.length = length
        Endless.made.append(seed)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.zeros(2, np.float32), 1.0, self.count == self.length, False, {}


@pytest.fixture
def endless(monkeypatch):
    """The environments ``endless_env:never`` and ``endless_env:sometimes``, in which every other game ends."""
    module = types.ModuleType("endless_env")
    module.never = lambda seed: Endless(seed)
    module.sometimes = lambda seed: Endless(seed, 30 if len(Endless.made) % 2 else None)
    monkeypatch.setitem(sys.modules, "endless_env", module)
    monkeypatch.setattr(Endless, "made", [])


def act(observation):
    return np.zeros(len(observation), np.int64)


def test_games_that_never_end_are_cut_and_said_to_be(endless):
    result = evaluate(act, "endless_env:never", episodes=3, seed=1, max_episode_steps=50)
    assert result["returns"] == [50.0] * 3
    assert result["mean_length"] == 50
    assert (result["max_episode_steps"], result["cut_episodes"]) == (50, 3)


def test_an_agent_that_never_presses_fire_still_plays_whole_games():
    # The agent waits; the engine starts every ball after a lost life, as it does in training.
    result = evaluate(act, "Breakout-v5", episodes=2, seed=1, atari=AtariOptions(), max_episode_steps=3000)
    assert result["cut_episodes"] == 0
    assert result["mean_length"] > 100


def test_without_a_time_limit_it_is_thirty_minutes_of_atari(endless, monkeypatch):
    monkeypatch.setattr(evaluation, "EPISODE_LIMIT", 40)
    assert evaluate(act, "endless_env:never", episodes=1, seed=1)["returns"] == [40.0]


def test_what_is_left_to_play_after_a_cut_is_played_in_fresh_environments(endless, monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_ENVS", 2)
    # One of two environments ends its games: it plays its 3; the other is cut in each of 3 rounds.
    result = evaluate(act, "endless_env:sometimes", episodes=6, seed=1, max_episode_steps=100)
    assert sorted(result["returns"]) == [30.0] * 3 + [100.0] * 3
    assert result["cut_episodes"] == 3
    rounds = [environment_seeds(1, EVALUATION_SEGMENT + n, 2) for n in range(3)]
    assert Endless.made == [0, *(seed for seeds in rounds for seed in seeds)]


def test_an_environments_own_time_limit_cuts_nothing():
    result = evaluate(act, "gymnasium:MountainCar-v0", episodes=2, seed=1)
    assert result["returns"] == [-200.0] * 2
    assert (result["max_episode_steps"], result["cut_episodes"]) == (200, 0)


def test_plain_progress_is_a_line_now_and_then_and_one_at_the_end(endless, monkeypatch, capsys):
    evaluate(act, "endless_env:never", episodes=2, seed=1, max_episode_steps=5, quiet=False)
    assert re.fullmatch(r"evaluation: 2/2 episodes  mean return 5\.0  \d+ s elapsed\n", capsys.readouterr().err)
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: next(clock))
    evaluate(act, "endless_env:never", episodes=2, seed=1, max_episode_steps=5, quiet=False)
    assert capsys.readouterr().err.splitlines() == [
        "evaluation: 0/2 episodes  mean return -  12 s elapsed",
        "evaluation: 2/2 episodes  mean return 5.0  20 s elapsed",
    ]
    evaluate(act, "endless_env:never", episodes=2, seed=1, max_episode_steps=5)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(endless, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    evaluate(act, "endless_env:never", episodes=2, seed=1, max_episode_steps=5, quiet=False)
    shown = capsys.readouterr().err
    assert "2/2 episodes" in shown
    assert "mean return 5.0" in shown


@pytest.mark.parametrize(("option", "name"), [("episodes", "episodes"), ("max_episode_steps", "max-episode-steps")])
def test_numbers_below_1_are_refused(option, name):
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got 0"):
        evaluate(act, "CartPole-v1", **{"episodes": 1, "seed": 1, option: 0})

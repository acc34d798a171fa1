"""The replay against a slow loop that keeps every observation whole. Each transition's action is its unique number."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.replay import Replay
from stablegrad.environments import AtariOptions, EpisodeStatistics, StepResult, environment_seeds, make_vector_env
from stablegrad.errors import UsageError


class Witness:
    """All that ``num_envs`` environments ever returned, and by loops which transitions a replay should hold of it."""

    def __init__(self, num_envs, rows, frame_stack, n_step, discount):
        self.num_envs, self.rows, self.frame_stack = num_envs, rows, frame_stack
        self.n_step, self.discount = n_step, discount
        self.episodes = [[] for _ in range(num_envs)]  # lists of observations with the steps between them
        self.totals = [0] * num_envs

    def _start(self, env, observation):
        follows = False
        if self.episodes[env]:
            self.episodes[env][-1]["closed"] = True
            frames = observation.reshape(self.frame_stack, -1)
            before = self.episodes[env][-1]["observations"][-1].reshape(self.frame_stack, -1)
            follows = np.array_equal(frames[:-1], before[1:])
        self.totals[env] += 1 if follows else self.frame_stack
        start = {"observations": [observation.copy()], "rows": [self.totals[env] - 1], "steps": [], "closed": False}
        self.episodes[env].append(start)

    def begin(self, observation):
        for env in range(self.num_envs):
            self._start(env, observation[env])

    def add(self, number, result):
        for env in range(self.num_envs):
            if not result.valid[env]:
                self._start(env, result.observation[env])
                continue
            episode = self.episodes[env][-1]
            self.totals[env] += 1
            episode["rows"].append(self.totals[env] - 1)
            episode["observations"].append(result.observation[env].copy())
            episode["steps"].append((int(number[env]), float(result.reward[env]), bool(result.terminated[env])))
            episode["closed"] = bool(result.terminated[env] or result.truncated[env])

    def transitions(self):
        """Number of the first action -> (observation, next observation, reward, discount)."""
        found = {}
        for env in range(self.num_envs):
            oldest = max(self.totals[env] - self.rows, 0)
            for episode in self.episodes[env]:
                length = len(episode["steps"])
                for t in range(length):
                    if t + self.n_step > length and not episode["closed"]:
                        continue  # not known yet
                    if episode["rows"][t] - (self.frame_stack - 1) < oldest:
                        continue  # overwritten
                    steps = episode["steps"][t : t + self.n_step]
                    reward = sum(self.discount**k * reward for k, (_, reward, _) in enumerate(steps))
                    discount = 0.0 if steps[-1][2] else self.discount ** len(steps)
                    observations = episode["observations"]
                    found[steps[0][0]] = (observations[t], observations[t + len(steps)], reward, discount)
        return found


def check(replay, witness):
    """The replay holds the witness's transitions and no others, bit for bit."""
    expected = witness.transitions()
    assert len(replay) == len(expected)
    assert replay.totals == witness.totals
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(math.ceil(16 * len(expected) / 128)):  # misses one of them with probability e^-16
        batch = replay.sample(128, generator)
        assert batch.reward.dtype == batch.discount.dtype == torch.float32
        for place, number in enumerate(batch.action.tolist()):
            if number not in seen:
                observation, following, reward, discount = expected[number]
                np.testing.assert_array_equal(batch.observation[place].numpy(), observation)
                np.testing.assert_array_equal(batch.next_observation[place].numpy(), following)
                assert float(batch.reward[place]) == pytest.approx(reward, rel=1e-5, abs=1e-6)
                assert float(batch.discount[place]) == pytest.approx(discount, rel=1e-6)
                seen.add(number)
    assert seen == expected.keys()


def step_result(observation, reward, terminated, truncated, valid):
    n = len(reward)
    nothing = EpisodeStatistics(np.zeros(n, bool), np.zeros(n), np.zeros(n, np.int64))
    return StepResult(observation, np.asarray(reward, np.float32), terminated, truncated, valid, nothing)


class Scripted:
    """Environments that end when they are told to; every frame is a number of its own."""

    def __init__(self, num_envs, frame_stack):
        self.num_envs = num_envs
        self.stacks = np.zeros((num_envs, frame_stack), np.float32)
        self.resetting = np.zeros(num_envs, bool)
        self.frames = 0

    def _frame(self):
        self.frames += 1
        return self.frames

    def _first(self, env, start):
        if start == "repeated":
            self.stacks[env] = self._frame()
        elif start == "zeros":
            self.stacks[env] = [0.0] * (self.stacks.shape[1] - 1) + [self._frame()]
        elif start == "other":
            self.stacks[env] = [self._frame() for _ in self.stacks[env]]
        else:
            self._advance(env)

    def _advance(self, env):
        self.stacks[env] = [*self.stacks[env, 1:], self._frame()]

    def reset(self, start):
        for env in range(self.num_envs):
            self._first(env, start)
        self.resetting[:] = False
        return self.stacks.copy()

    def step(self, events):
        valid = ~self.resetting
        for env, (_, start) in enumerate(events):
            if valid[env]:
                self._advance(env)
            else:
                self._first(env, start)
        terminated = valid & np.array([what == "terminated" for what, _ in events])
        truncated = valid & np.array([what == "truncated" for what, _ in events])
        self.resetting = terminated | truncated
        reward = np.where(valid, [(self.frames * 7 + env) % 5 - 2 for env in range(self.num_envs)], 0)
        return step_result(self.stacks.copy(), reward, terminated, truncated, valid)


STARTS = ("repeated", "continued", "zeros", "other")


@st.composite
def scripts(draw):
    """(num_envs, capacity an environment, n_step, frame_stack, events): a list of steps, or a start of all."""
    num_envs = draw(st.integers(1, 3))
    event = st.tuples(st.sampled_from(["step", "step", "step", "terminated", "truncated"]), st.sampled_from(STARTS))
    step = st.lists(event, min_size=num_envs, max_size=num_envs)
    begin = st.sampled_from(STARTS)
    events = draw(st.lists(st.one_of(step, step, step, step, step, begin), max_size=40))
    return num_envs, draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 4)), events


def play_script(replay, witness, env, events, number=0):
    for event in events:
        if isinstance(event, str):
            observation = env.reset(event)
            replay.begin(observation)
            witness.begin(observation)
        else:
            result = env.step(event)
            numbers = number + np.arange(env.num_envs)
            number += env.num_envs
            replay.add(numbers, result)
            witness.add(numbers, result)
        yield number


def make_pair(num_envs, capacity, n_step, frame_stack, discount=0.9):
    replay = Replay(
        num_envs * capacity,
        num_envs,
        (frame_stack,),
        torch.float32,
        discount=discount,
        n_step=n_step,
        frame_stack=frame_stack,
        device="cpu",
    )
    rows = capacity + frame_stack - 1 + n_step
    return replay, Witness(num_envs, rows, frame_stack, n_step, discount), Scripted(num_envs, frame_stack)


@given(scripts())
def test_transitions_equal_a_loop_over_whole_episodes(script):
    num_envs, capacity, n_step, frame_stack, events = script
    replay, witness, env = make_pair(num_envs, capacity, n_step, frame_stack)
    for _ in play_script(replay, witness, env, ["repeated", *events]):
        assert len(replay) == len(witness.transitions())
    check(replay, witness)


@settings(max_examples=20)
@given(scripts())
def test_sampling_is_right_after_every_step(script):
    num_envs, capacity, n_step, frame_stack, events = script
    replay, witness, env = make_pair(num_envs, capacity, n_step, frame_stack)
    for _ in play_script(replay, witness, env, ["other", *events]):
        check(replay, witness)


@pytest.mark.parametrize(
    ("num_envs", "n_step", "options"),
    [
        (3, 1, AtariOptions()),
        (2, 3, AtariOptions(max_episode_steps=60)),
        (2, 5, AtariOptions(life_loss_terminal=False, frame_stack=2)),
        (1, 2, AtariOptions(grayscale=False)),
    ],
)
def test_breakouts_stacks_come_back_as_they_were_given(num_envs, n_step, options):
    """Over lost lives, ends of games, time limits, fresh environments and the seam of the ring."""
    channels = options.frame_stack * (1 if options.grayscale else 3)
    capacity, discount = 50, 0.99
    replay = Replay(
        num_envs * capacity,
        num_envs,
        (channels, 84, 84),
        torch.uint8,
        discount=discount,
        n_step=n_step,
        frame_stack=options.frame_stack,
        device="cpu",
    )
    witness = Witness(num_envs, capacity + options.frame_stack - 1 + n_step, options.frame_stack, n_step, discount)
    random = np.random.default_rng(0)
    number, ends, games = 0, 0, 0
    for segment, steps in enumerate((40, 200)):
        env = make_vector_env("Breakout-v5", num_envs, seeds=environment_seeds(0, segment, num_envs), atari=options)
        first = env.reset()
        replay.begin(first)
        witness.begin(first)
        for t in range(steps):
            result = env.step(random.integers(0, 4, num_envs))
            numbers = number + np.arange(num_envs)
            number += num_envs
            replay.add(numbers, result)
            witness.add(numbers, result)
            ends += int((result.terminated | result.truncated).sum())
            games += int(result.episode.finished.sum())
            if t % 39 == 38:
                check(replay, witness)
        env.close()
    assert games >= 1 and (ends > games or not options.life_loss_terminal)
    check(replay, witness)


def test_samples_are_uniform():
    """Chi-square over all transitions of three environments with ends of every kind, the rings more than full."""
    replay, witness, env = make_pair(3, 10, 3, 2)
    random = np.random.default_rng(1)
    events = [
        [(random.choice(["step", "step", "step", "terminated", "truncated"]), random.choice(STARTS)) for _ in range(3)]
        for _ in range(60)
    ]
    for _ in play_script(replay, witness, env, ["zeros", *events]):
        pass
    draws = 40_000
    numbers = replay.sample(draws, torch.Generator().manual_seed(3)).action.numpy()
    counts = np.unique(numbers, return_counts=True)[1]
    assert len(counts) == len(replay) > 10
    expected = draws / len(replay)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = len(replay) - 1
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)


def test_the_generator_alone_decides_the_batch():
    replay, witness, env = make_pair(2, 8, 2, 3)
    for _ in play_script(replay, witness, env, ["other", *[[("step", "other")] * 2] * 12]):
        pass
    first = replay.sample(16, torch.Generator().manual_seed(5)).action.clone()
    torch.manual_seed(1)
    assert torch.equal(replay.sample(16, torch.Generator().manual_seed(5)).action, first)
    assert not torch.equal(replay.sample(16, torch.Generator().manual_seed(6)).action, first)


def test_a_batch_stays_as_it_is_when_another_is_sampled_and_is_split_in_order():
    replay, witness, env = make_pair(2, 8, 2, 3)
    for _ in play_script(replay, witness, env, ["other", *[[("step", "other")] * 2] * 12]):
        pass
    batch = replay.sample(10, torch.Generator().manual_seed(5))
    observation, following = batch.observation.clone(), batch.next_observation.clone()
    replay.sample(10, torch.Generator().manual_seed(6))
    assert torch.equal(batch.observation, observation) and torch.equal(batch.next_observation, following)
    parts = list(batch.split(4))
    assert [len(part.action) for part in parts] == [4, 4, 2]
    for name in ("observation", "action", "reward", "next_observation", "discount"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_continuous_actions_and_another_batch_size():
    replay = Replay(
        10, 2, (3,), torch.float32, action_shape=(2,), action_dtype=torch.float32, discount=1.0, device="cpu"
    )
    no = np.zeros(2, bool)
    replay.begin(np.zeros((2, 3), np.float32))
    for t in range(4):
        observation = np.full((2, 3), t + 1, np.float32)
        action = np.float32([[t, 0.5], [t, -0.5]])
        replay.add(action, step_result(observation, [t, t], no, no, ~no))
    for size in (4, 9):
        batch = replay.sample(size, torch.Generator().manual_seed(0))
        assert batch.action.shape == (size, 2) and batch.action.dtype == torch.float32
        assert batch.observation.shape == batch.next_observation.shape == (size, 3)
        assert torch.equal(batch.action[:, 0], batch.reward)
        assert torch.equal(batch.observation[:, 0], batch.reward)
        assert torch.equal(batch.next_observation[:, 0], batch.reward + 1)


@pytest.mark.parametrize(("frame_stack", "n_step", "num_envs"), [(4, 1, 1), (4, 3, 8), (1, 5, 3)])
def test_bytes_needed_are_those_of_the_arrays(frame_stack, n_step, num_envs):
    shape, kinds = (4, 84, 84), {"n_step": n_step, "frame_stack": frame_stack, "action_shape": (2,)}
    replay = Replay(1000, num_envs, shape, torch.uint8, discount=0.9, device="cpu", **kinds)
    needed = Replay.bytes_needed(1000, num_envs, shape, torch.uint8, **kinds)
    assert needed == sum(array.nbytes for array in replay.arrays().values())


def test_a_million_atari_frames_take_little_more_than_their_pixels():
    needed = Replay.bytes_needed(1_000_000, 8, (4, 84, 84), torch.uint8, frame_stack=4)
    assert 7.05e9 < needed < 7.1e9


def test_wrong_use_is_refused_in_a_line():
    def make(capacity=8, num_envs=2, shape=(4, 3), discount=0.9, **options):
        return Replay(capacity, num_envs, shape, torch.uint8, discount=discount, device="cpu", **options)

    for options, message in [
        ({"capacity": 1}, "capacity must be at least num_envs"),
        ({"n_step": 0}, "n_step must be at least 1, got 0"),
        ({"shape": (6, 2), "frame_stack": 4}, r"frame_stack 4 must divide the first axis .* got shape \[6, 2\]"),
        ({"discount": 1.5}, "discount must be from 0 to 1, got 1.5"),
    ]:
        with pytest.raises(UsageError, match=message):
            make(**options)
    replay = make(frame_stack=4)
    no = np.zeros(2, bool)
    first = np.zeros((2, 4, 3), np.uint8)
    with pytest.raises(UsageError, match="no transition yet"):
        replay.sample(1, torch.Generator())
    with pytest.raises(UsageError, match="call begin"):
        replay.add(np.zeros(2), step_result(first, [0, 0], no, no, ~no))
    replay.begin(first)
    with pytest.raises(UsageError, match="frame_stack 4 does not fit this environment"):
        replay.add(np.zeros(2), step_result(first + 1, [0, 0], no, no, ~no))
    assert len(replay) == 0

"""Prioritised replay beside the uniform one, which is tested against a loop over whole episodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.prioritised import LEAST_PRIORITY, PrioritisedReplay, priority_bytes
from stablegrad.environments import EpisodeStatistics, StepResult
from stablegrad.errors import UsageError


def make_replay(num_envs=2, capacity=20, n_step=3, frame_stack=1, exponent=0.5):
    return PrioritisedReplay(
        num_envs * capacity,
        num_envs,
        (frame_stack,),
        torch.float32,
        discount=0.9,
        n_step=n_step,
        frame_stack=frame_stack,
        device="cpu",
        exponent=exponent,
    )


class Player:
    """Plays into a replay: random ends, starts and stacks. Actions number the transitions."""

    def __init__(self, replay, num_envs, frame_stack, seed=0):
        self.replay, self.random = replay, np.random.default_rng(seed)
        self.stack = np.zeros((num_envs, frame_stack), np.float32)
        self.resetting = np.zeros(num_envs, bool)
        self.frames = self.actions = 0

    def _advance(self, fresh):
        for env in range(len(self.stack)):
            self.frames += 1
            repeated = fresh[env] and self.random.random() < 0.7
            self.stack[env] = self.frames if repeated else [*self.stack[env, 1:], self.frames]
        return self.stack.copy()

    def begin(self):
        self.resetting[:] = False
        self.replay.begin(self._advance(np.ones(len(self.stack), bool)))

    def step(self):
        n, valid = len(self.stack), ~self.resetting
        observation = self._advance(self.resetting)
        terminated = valid & (self.random.random(n) < 0.15)
        truncated = valid & ~terminated & (self.random.random(n) < 0.15)
        self.resetting = terminated | truncated
        numbers = self.actions + np.arange(n)
        self.actions += n
        nothing = EpisodeStatistics(np.zeros(n, bool), np.zeros(n), np.zeros(n, np.int64))
        reward = np.where(valid, numbers % 5, 0).astype(np.float32)
        self.replay.add(numbers, StepResult(observation, reward, terminated, truncated, valid, nothing))

    def play(self, steps):
        for _ in range(steps):
            self.begin() if self.random.random() < 0.05 or not self.frames else self.step()


def filled(steps=60, seed=0, **options):
    replay = make_replay(**options)
    Player(replay, options.get("num_envs", 2), options.get("frame_stack", 1), seed).play(steps)
    return replay


def rows_of(replay):
    """(env, row) of all places."""
    return np.divmod(np.arange(replay._kind.size), replay._kind.shape[1])


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    num_envs=st.integers(1, 3),
    capacity=st.integers(1, 12),
    n_step=st.integers(1, 4),
    frame_stack=st.integers(1, 4),
)
def test_after_every_step_the_places_with_a_priority_are_those_that_can_be_sampled(
    seed, num_envs, capacity, n_step, frame_stack
):
    """No reset, no n-step sum that is not known yet, nothing overwritten."""
    replay = make_replay(num_envs, capacity, n_step, frame_stack)
    player = Player(replay, num_envs, frame_stack, seed)
    player.begin()
    env, row = rows_of(replay)
    for _ in range(40):
        player.play(1)
        filled = row < replay._totals[env]
        can_be_sampled = filled & (replay._steps(env, row) > 0)
        np.testing.assert_array_equal(replay._tree.weights > 0, can_be_sampled)
        assert len(replay) == can_be_sampled.sum()


def test_transitions_are_those_of_uniform_sampling():
    replay = filled(frame_stack=3)
    uniform = replay.sample(2000, torch.Generator().manual_seed(0))
    whole = {int(number): place for place, number in enumerate(uniform.action)}
    batch = replay.sample_prioritised(500, 0.4, torch.Generator().manual_seed(1))
    assert set(batch.action.tolist()) == set(whole)
    places = [whole[int(number)] for number in batch.action]
    for name in ("observation", "reward", "next_observation", "discount"):
        assert torch.equal(getattr(batch, name), getattr(uniform, name)[places])


def test_new_transitions_have_the_largest_priority_so_far_and_updates_count_at_once():
    replay, generator = make_replay(num_envs=1, capacity=50, n_step=1, exponent=0.5), torch.Generator().manual_seed(0)
    player = Player(replay, 1, 1)
    player.begin()
    while len(replay) < 5:
        player.step()
    assert set(replay._tree.weights[replay._tree.weights > 0]) == {1.0}
    batch = replay.sample_prioritised(64, 0.4, generator)
    places = np.unique(batch.place)
    assert len(places) == 5
    priorities = torch.tensor([0.0, 4.0, 9.0, 0.25, 1.0])
    replay.prioritise(places, priorities)
    expected = np.sqrt(priorities.numpy() + LEAST_PRIORITY)
    np.testing.assert_allclose(replay._tree.weights[places], expected, rtol=1e-6)
    before = set(np.flatnonzero(replay._tree.weights))
    while len(replay) < 7:
        player.step()
    new = sorted(set(np.flatnonzero(replay._tree.weights)) - before)
    np.testing.assert_allclose(replay._tree.weights[new], 3.0, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_places_are_drawn_in_proportion_to_their_powers(exponent):
    """Chi-square; exponent 0 is uniform whatever the priorities are."""
    replay = filled(exponent=exponent)
    places = np.flatnonzero(replay._tree.weights)
    priorities = np.random.default_rng(1).exponential(size=len(places)) + 0.05
    replay.prioritise(places, torch.from_numpy(priorities))
    draws = 400
    generator = torch.Generator().manual_seed(0)
    drawn = np.concatenate([replay.sample_prioritised(64, 0.4, generator).place for _ in range(draws)])
    counts = np.array([(drawn == place).sum() for place in places])
    powers = (priorities + LEAST_PRIORITY) ** exponent
    expected = 64 * draws * powers / powers.sum()
    degrees = len(places) - 1
    # One draw from each part of the sum scatters less than independent draws.
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 4 * np.sqrt(2 * degrees)


def test_every_equal_part_of_the_sum_gives_one():
    replay = filled()
    places = np.flatnonzero(replay._tree.weights)
    replay.prioritise(places, torch.ones(len(places)))
    for seed in range(10):
        drawn = np.sort(replay.sample_prioritised(len(places), 0.4, torch.Generator().manual_seed(seed)).place)
        assert np.abs(np.searchsorted(places, drawn) - np.arange(len(places))).max() <= 1


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_are_the_published_ones_over_the_batchs_largest(beta):
    replay = filled()
    places = np.flatnonzero(replay._tree.weights)
    replay.prioritise(places, torch.rand(len(places), generator=torch.Generator().manual_seed(1)))
    batch = replay.sample_prioritised(32, beta, torch.Generator().manual_seed(2))
    probabilities = {place: replay._tree.weights[place] / replay._tree.weights.sum() for place in places}
    weights = [(len(replay) * probabilities[place]) ** -beta for place in batch.place]
    np.testing.assert_allclose(batch.weight.numpy(), np.array(weights) / max(weights), rtol=1e-5)
    assert batch.weight.dtype == torch.float32 and float(batch.weight.max()) == 1.0


def test_the_generator_alone_decides_the_batch():
    replay = filled()
    first = replay.sample_prioritised(16, 0.4, torch.Generator().manual_seed(5)).place
    torch.manual_seed(1)
    np.testing.assert_array_equal(replay.sample_prioritised(16, 0.4, torch.Generator().manual_seed(5)).place, first)
    other = replay.sample_prioritised(16, 0.4, torch.Generator().manual_seed(6)).place
    assert not np.array_equal(other, first)


def test_saved_priorities_go_on_bit_for_bit():
    replay, other = filled(), filled()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        batch = replay.sample_prioritised(8, 0.4, generator)
        replay.prioritise(batch.place, 5 * torch.rand(8, generator=generator))
    state = {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in replay.priorities().items()
    }
    other.load_priorities(state)
    for one in (replay, other):
        Player(one, 2, 1, seed=3).play(30)
    one, another = (r.sample_prioritised(64, 0.4, torch.Generator().manual_seed(1)) for r in (replay, other))
    np.testing.assert_array_equal(one.place, another.place)
    assert torch.equal(one.weight, another.weight)
    with pytest.raises(ValueError, match=r"priorities of \d+ rows, and the replay has"):
        make_replay(capacity=5).load_priorities(state)


def test_memory_of_the_priorities_is_known_beforehand():
    replay = make_replay(num_envs=3, capacity=100, frame_stack=4)
    needed = priority_bytes(capacity=300, num_envs=3, n_step=3, frame_stack=4, observation_shape=(4,))
    assert needed == sum(level.nbytes for level in replay._tree._levels)


def test_wrong_use_is_refused_in_a_line():
    replay = make_replay()
    with pytest.raises(UsageError, match="sample_prioritised\\(\\) needs at least one"):
        replay.sample_prioritised(4, 0.4, torch.Generator())
    with pytest.raises(UsageError, match=r"exponent must be from 0 to 1, got 1\.5"):
        make_replay(exponent=1.5)

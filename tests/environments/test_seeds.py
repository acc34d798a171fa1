import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.environments import environment_seeds, make_vector_env
from stablegrad.errors import UsageError


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(1, 300))
def test_seeds_are_distinct_valid_and_repeatable(run_seed, segment, num_envs):
    seeds = environment_seeds(run_seed, segment, num_envs)
    assert len(seeds) == len(set(seeds)) == num_envs
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    assert seeds == environment_seeds(run_seed, segment, num_envs)
    fewer = (num_envs + 1) // 2
    assert environment_seeds(run_seed, segment, fewer) == seeds[:fewer]


def test_runs_and_segments_share_no_seed():
    drawn = [environment_seeds(run, segment, 16) for run, segment in itertools.product(range(25), range(15))]
    together = list(itertools.chain.from_iterable(drawn))
    assert len(set(together)) == len(together)


def test_many_seeds_stay_distinct():
    """Among 100,000 draws of 31 bits about two coincide, so this needs the second draw."""
    words = np.random.SeedSequence((0, 0)).generate_state(100_000) >> 1
    assert len(np.unique(words)) < len(words)
    seeds = environment_seeds(0, 0, 100_000)
    assert len(set(seeds)) == 100_000


@pytest.mark.parametrize(("run_seed", "segment", "num_envs"), [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_negative_numbers_are_refused(run_seed, segment, num_envs):
    with pytest.raises(UsageError, match="got"):
        environment_seeds(run_seed, segment, num_envs)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([1, 2], "2 seeds for 3 environments"),
        ([1, 2, 1], "seed 1 is given twice"),
        ([1, 2, -3], "got -3"),
        ([1, 2, 2**31], "got 2147483648"),
    ],
)
def test_bad_seed_lists_are_refused(seeds, message):
    with pytest.raises(UsageError, match=message):
        make_vector_env("CartPole-v1", 3, seeds=seeds)


def _trajectory(env_id, seeds, steps=80, **options):
    env = make_vector_env(env_id, len(seeds), seeds=seeds, **options)
    rng = np.random.default_rng(0)
    observations = [env.reset()]
    for _ in range(steps):
        observations.append(env.step(rng.integers(0, env.spec.action_space.n, len(seeds))).observation)
    env.close()
    return np.stack(observations)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "LunarLander-v3", "gymnasium:CartPole-v1", "Breakout-v5"])
def test_equal_seeds_give_equal_trajectories_and_others_do_not(env_id):
    seeds = environment_seeds(3, 1, 4)
    first = _trajectory(env_id, seeds)
    np.testing.assert_array_equal(first, _trajectory(env_id, seeds))
    other = _trajectory(env_id, environment_seeds(4, 1, 4))
    assert all((first[:, i] != other[:, i]).any() for i in range(4))
    # Seeds belong to environments one by one: the second of these is the first of those.
    moved = _trajectory(env_id, [seeds[1], seeds[0], seeds[3], seeds[2]])
    np.testing.assert_array_equal(moved[0, 0], first[0, 1])


def test_the_number_of_threads_changes_nothing():
    seeds = environment_seeds(0, 0, 6)
    np.testing.assert_array_equal(
        _trajectory("LunarLander-v3", seeds, num_threads=1), _trajectory("LunarLander-v3", seeds, num_threads=3)
    )

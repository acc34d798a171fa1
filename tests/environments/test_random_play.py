import numpy as np
import pytest

from stablegrad.environments import make_vector_env
from stablegrad.environments.random_play import random_play
from stablegrad.errors import UsageError


def test_observations_of_episodes_in_their_order():
    observations, ended = random_play("CartPole-v1", 2, steps=40, rows=8)
    assert observations.shape == (2, 40, 8, 4) and ended.shape == (2, 40, 8)
    assert ended[:, -1].all() and ended[:, :-1].any()
    positions, speeds = observations[..., 0], observations[..., 1]
    # The cart moves by its speed for a fiftieth of a second, except into a new episode.
    expected = positions[:, :-1] + 0.02 * speeds[:, :-1]
    goes_on = ~ended[:, :-1]
    np.testing.assert_allclose(positions[:, 1:][goes_on], expected[goes_on], atol=1e-5)
    assert (np.abs(positions[:, 1:][~goes_on]) <= 0.05).all()


def test_the_same_seed_is_the_same_play():
    first, second, other = (random_play("CartPole-v1", 1, steps=20, rows=4, seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_policies_prefer_actions():
    observations, _ = random_play("MountainCar-v0", 3, steps=64, rows=16)
    uniform = make_vector_env("MountainCar-v0", 16, seeds=range(16))
    uniform.reset()
    even = [uniform.step(np.random.default_rng(step).integers(3, size=16)).observation for step in range(64)]
    uniform.close()
    assert np.ptp(observations[0][..., 0]) > np.ptp(np.stack(even)[..., 0])


def test_continuous_actions():
    observations, _ = random_play("Pendulum-v1", 2, steps=10, rows=4)
    assert np.isfinite(observations).all() and observations.shape == (2, 10, 4, 3)


def test_an_unknown_environment_is_refused_in_a_line():
    with pytest.raises(UsageError, match="did you mean 'CartPole-v1'"):
        random_play("Cartpole-v1", 1)

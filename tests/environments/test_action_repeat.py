"""Action repeat against slow loops over one environment and one engine step at a time."""

import dataclasses
import sys
import types

import envpool
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.environments import AtariOptions, environment_seeds, environment_spec, make_vector_env
from stablegrad.errors import EnvironmentFault, UsageError


class Scripted(gymnasium.Env):
    """Episodes of told lengths and ends; observes (episode, step, last action); no two rewards are equal."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Discrete(5)

    def __init__(self, script, reward=None):
        self.script, self.reward = script, reward
        self.episode = -1

    def _observe(self, action=-1):
        return np.float32([self.episode, self.count, action])

    def reset(self, *, seed=None, options=None):
        self.episode, self.count = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action):
        length, end = self.script[self.episode % len(self.script)]
        assert self.count < length, "stepped after its end"
        self.count += 1
        reward = self.reward or 0.1 * self.count + 7 * self.episode + int(action)
        over = self.count == length
        return self._observe(action), reward, over and end != "limit", over and end != "death", {}


@pytest.fixture(autouse=True, scope="module")
def _clean_modules():
    yield
    sys.modules.pop("scripted", None)


def scripted_env(scripts, action_repeat, **options):
    """A vector environment of one ``Scripted`` for each script."""
    module = sys.modules["scripted"] = types.ModuleType("scripted")
    module.make = lambda seed: Scripted(scripts[seed], **options)
    return make_vector_env("scripted:make", len(scripts), seeds=range(len(scripts)), action_repeat=action_repeat)


SCRIPT = st.lists(st.tuples(st.integers(1, 7), st.sampled_from(["death", "limit", "both"])), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(SCRIPT, min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 100))
def test_rows_equal_a_slow_loop_over_single_environments(scripts, action_repeat, seed):
    env = scripted_env(scripts, action_repeat)
    actions = np.random.default_rng(seed).integers(0, 5, (25, len(scripts)))
    first = env.reset()
    results = [env.step(action) for action in actions]
    assert env.num_envs == len(scripts) and env.spec.observation_shape == (3,)
    env.close()
    for i, script in enumerate(scripts):
        single = Scripted(script)
        np.testing.assert_array_equal(first[i], single.reset()[0])
        over, total, decisions = False, 0.0, 0
        for action, row in zip(actions[:, i], results, strict=True):
            reward, terminated, truncated, valid = 0.0, False, False, not over
            if over:
                observation, over, total, decisions = single.reset()[0], False, 0.0, 0
            else:
                decisions += 1
                for _ in range(action_repeat):
                    observation, one, terminated, truncated, _ = single.step(action)
                    reward, total = reward + np.float64(np.float32(one)), total + one
                    over = terminated or truncated
                    if over:
                        break
            np.testing.assert_array_equal(row.observation[i], observation)
            assert (row.valid[i], row.reward[i]) == (valid, np.float32(reward))
            assert (row.terminated[i], row.truncated[i]) == (terminated, truncated and not terminated)
            episode = row.episode
            assert (episode.finished[i], episode.returns[i], episode.lengths[i]) == (over, total, decisions)


def test_rows_have_the_contracts_dtypes_and_may_be_kept():
    env = scripted_env([[(3, "death")], [(4, "limit")]], 2)
    env.reset()
    kept = [env.step(np.array([1, 2])) for _ in range(12)]
    copies = [row.observation.copy() for row in kept]
    row = kept[0]
    assert row.observation.dtype == row.reward.dtype == np.float32
    assert row.terminated.dtype == row.truncated.dtype == row.valid.dtype == row.episode.finished.dtype == bool
    assert row.episode.returns.dtype == np.float64 and row.episode.lengths.dtype == np.int64
    assert all((row.observation == copy).all() for row, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize(
    ("env_id", "action_repeat", "decisions"),
    [("CheetahRun-v1", 2, 503), ("CartpoleSwingup-v1", 3, 336), ("Hopper-v5", 2, 60), ("Pendulum-v1", 3, 70)],
)
def test_engines_rows_equal_a_slow_loop(env_id, action_repeat, decisions):
    """The witness steps the engine itself, one pool an environment; it ends an episode where the engine says done."""
    seeds = environment_seeds(0, 0, 2)
    spec = environment_spec(env_id, action_repeat=action_repeat)
    unrepeated = environment_spec(env_id)
    assert spec.max_episode_steps == -(-unrepeated.max_episode_steps // action_repeat)
    assert spec == dataclasses.replace(unrepeated, max_episode_steps=spec.max_episode_steps)
    env = make_vector_env(env_id, 2, seeds=seeds, action_repeat=action_repeat)
    assert env.spec == spec
    actions = np.random.default_rng(0).uniform(-1, 1, (decisions, 2, spec.action_space.size))
    first = env.reset()
    rows = [env.step(action) for action in actions]
    env.close()

    def flat(observation):
        if not isinstance(observation, dict):
            return np.float32(observation[0])
        return np.concatenate([np.float32(observation[key]).reshape(-1) for key in sorted(observation)])

    ends = 0
    for i, seed in enumerate(seeds):
        pool = envpool.make(env_id, env_type="gymnasium", num_envs=1, seed=[seed])
        np.testing.assert_array_equal(first[i], flat(pool.reset()[0]))
        over, total, length = False, 0.0, 0
        for action, row in zip(actions[:, i : i + 1] * spec.action_space.high[0], rows, strict=True):
            if over:
                observation = pool.step(action)[0]
                expected, over, total, length = (False, 0.0, False, False), False, 0.0, 0
            else:
                rewards, length = [], length + 1
                for _ in range(action_repeat):
                    observation, reward, terminated, truncated, _ = pool.step(action)
                    rewards.append(float(np.float32(reward[0])))
                    total += float(reward[0])
                    if terminated[0] or truncated[0]:
                        over = True
                        break
                expected = (True, np.float32(sum(rewards)), terminated[0], truncated[0])
            np.testing.assert_array_equal(row.observation[i], flat(observation))
            assert (row.valid[i], row.reward[i], row.terminated[i], row.truncated[i]) == expected
            assert row.episode.finished[i] == over
            assert (row.episode.returns[i], row.episode.lengths[i]) == (total, length)
            assert not row.truncated[i] or length == spec.max_episode_steps
            ends += over
        pool.close()
    assert ends >= 2


@pytest.mark.parametrize("env_id", ["Hopper-v5", "gymnasium:CartPole-v1"])
def test_a_repeat_of_two_is_every_second_row(env_id):
    """Alone, sub-environments do what they do together: their seeds, and so their streams, are the same."""
    seeds = environment_seeds(3, 0, 3)
    one, two = (make_vector_env(env_id, 3, seeds=seeds, action_repeat=repeat) for repeat in (1, 2))
    np.testing.assert_array_equal(one.reset(), two.reset())
    for t in range(4):
        action = np.array([t % 2] * 3) if env_id.endswith("CartPole-v1") else np.full((3, 3), 0.1 * t)
        one.step(action)
        np.testing.assert_array_equal(one.step(action).observation, two.step(action).observation)


def test_what_cannot_be_repeated_is_told_in_one_line():
    for ask in (environment_spec, lambda name, **options: make_vector_env(name, 1, seeds=[1], **options)):
        for value in (0, -1, 1.5, "2"):
            with pytest.raises(UsageError, match=f"action_repeat must be a whole number of at least 1, got {value!r}"):
                ask("Pendulum-v1", action_repeat=value)
        for atari in (None, AtariOptions()):
            with pytest.raises(UsageError, match=r"not for Atari games such as 'Pong-v5'; use .* frame_skip"):
                ask("Pong-v5", atari=atari, action_repeat=2)
    assert environment_spec("Pong-v5", action_repeat=1).max_episode_steps == 27000
    assert environment_spec("Blackjack-v1", action_repeat=2).max_episode_steps is None


def test_wrong_actions_step_no_environment():
    env = scripted_env([[(3, "death")]] * 2, 2)
    with pytest.raises(UsageError, match=r"call reset\(\) once before"):
        env.step(np.array([0, 0]))
    env.reset()
    for action in (np.array([0]), np.array([0, 0, 0]), np.array([0, 5])):
        with pytest.raises(UsageError):
            env.step(action)
    assert env.step(np.array([0, 0])).observation[:, 1].tolist() == [2, 2]
    env.close()
    env.close()
    with pytest.raises(UsageError, match="closed"):
        env.step(np.array([0, 0]))


def test_faults_name_the_sub_environment():
    env = scripted_env([[(3, "death")]] * 3, 2)
    env._parts[2]._vector.envs[0].unwrapped.reward = np.nan
    env.reset()
    with pytest.raises(EnvironmentFault, match=r"non-finite reward \(nan\) in sub-environment 2 at step 1"):
        env.step(np.array([0, 0, 0]))


def test_a_sum_too_large_for_float32_is_told():
    env = scripted_env([[(3, "death")]], 2, reward=3e38)
    env.reset()
    with pytest.raises(EnvironmentFault, match="rewards of 2 steps of 'scripted:make' overflow float32"):
        env.step(np.array([0]))


def test_a_factory_that_returns_one_environment_for_all_is_refused():
    module = sys.modules["scripted"] = types.ModuleType("scripted")
    the_one = Scripted([(3, "death")])
    module.make = lambda: the_one
    with pytest.raises(UsageError, match="returned the same environment twice"):
        make_vector_env("scripted:make", 3, seeds=[1, 2, 3], action_repeat=2)


def test_a_factory_of_vector_environments():
    module = sys.modules["scripted"] = types.ModuleType("scripted")
    module.make = lambda num_envs: gymnasium.vector.SyncVectorEnv([lambda: Scripted([(3, "limit")])] * num_envs)
    env = make_vector_env("scripted:make", 2, seeds=[1, 2], action_repeat=2)
    env.reset()
    rows = [env.step(np.array([0, 1])) for _ in range(3)]
    assert [row.truncated.tolist() for row in rows] == [[False] * 2, [True] * 2, [False] * 2]
    assert rows[2].valid.tolist() == [False] * 2 and rows[1].episode.lengths.tolist() == [2, 2]


def test_pictures_are_of_the_first():
    env = make_vector_env("CartPole-v1", 2, seeds=[1, 2], action_repeat=2, render=True)
    env.reset()
    assert env.render().ndim == 3
    env.close()

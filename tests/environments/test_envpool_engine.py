"""Real envpool environments against slow witnesses, one environment and one row at a time."""

import contextlib
import dataclasses
import math

import envpool
import numpy as np
import pytest
from gymnasium import spaces

from stablegrad.environments import AtariOptions, Box, Discrete, environment_seeds, environment_spec, make_vector_env
from stablegrad.environments.envpool_engine import EnvpoolVectorEnv
from stablegrad.errors import EnvironmentFault, UsageError

pytestmark = pytest.mark.filterwarnings("error::UserWarning", "ignore:.*precision lowered by casting.*")


def play(env, actions):
    """All rows of an environment under given actions, stacked over time: name -> [T, N, ...]."""
    rows = {"first": env.reset()}
    results = [env.step(action) for action in actions]
    for name in ("observation", "reward", "terminated", "truncated", "valid"):
        rows[name] = np.stack([getattr(result, name) for result in results])
    for name in ("finished", "returns", "lengths"):
        rows[name] = np.stack([getattr(result.episode, name) for result in results])
    env.close()
    return rows


def play_raw(env_id, seeds, actions, **options):
    """The same rows from the engine itself."""
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=len(seeds), seed=seeds, **options)
    rows = {"first": pool.reset()[0]}
    results = [pool.step(action) for action in actions]
    for position, name in enumerate(("observation", "reward", "terminated", "truncated")):
        parts = [result[position] for result in results]
        rows[name] = np.stack(parts) if isinstance(parts[0], np.ndarray) else parts
    for name in results[0][4]:
        if name not in ("env_id", "players"):
            rows["info_" + name] = np.stack([result[4][name] for result in results])
    return rows


def random_actions(env_id, steps, num_envs, atari=None, seed=0):
    space, rng = environment_spec(env_id, atari=atari).action_space, np.random.default_rng(seed)
    if isinstance(space, Box):
        return rng.uniform(-1, 1, (steps, num_envs, space.size))
    return rng.integers(0, space.n, (steps, num_envs))


def flat(observation):
    """A batch of observations of a flat dict, as one float32 vector each in the sorted order of their keys."""
    parts = [np.asarray(observation[key]).reshape(len(observation[key]), -1) for key in sorted(observation)]
    return np.concatenate(parts, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("env_id", "largest_action", "steps"),
    [
        ("CartPole-v1", None, 600),
        ("MountainCar-v0", None, 600),
        ("Acrobot-v1", None, 600),
        ("LunarLander-v3", None, 600),
        ("Pendulum-v1", 2.0, 450),
        ("LunarLanderContinuous-v3", 1.0, 600),
        ("CartpoleSwingup-v1", 1.0, 1010),  # DeepMind Control: dicts, and no end but the time limit
        ("Hopper-v4", 1.0, 300),  # MuJoCo
        ("Humanoid-v5", 0.4, 200),
        ("Pusher-v4", 2.0, 250),
        ("PandaPickCube-v1", 1.0, 160),  # MuJoCo Playground
        ("Go1JoystickFlatTerrain-v1", 1.0, 300),
    ],
)
def test_rows_equal_a_loop_that_reads_the_engines_step_counter(env_id, largest_action, steps):
    """The witness never looks at the flags to find resets: a row is a reset when the engine counts 0 steps."""
    seeds = environment_seeds(0, 0, 5)
    actions = random_actions(env_id, steps, len(seeds))
    raw = play_raw(env_id, seeds, actions if largest_action is None else actions * largest_action)
    rows = play(make_vector_env(env_id, len(seeds), seeds=seeds), actions)
    if isinstance(raw["first"], dict):
        raw["first"] = flat(raw["first"])
        raw["observation"] = np.stack([flat(observation) for observation in raw["observation"]])
    np.testing.assert_array_equal(rows["first"], raw["first"].astype(np.float32))
    np.testing.assert_array_equal(rows["observation"], raw["observation"].astype(np.float32))
    limit = environment_spec(env_id).max_episode_steps
    episodes = 0
    for i in range(len(seeds)):
        total, length = 0.0, 0
        for t in range(steps):
            if raw["info_elapsed_step"][t, i] == 0:
                total, length = 0.0, 0
                assert not rows["valid"][t, i] and rows["reward"][t, i] == 0
                assert not (rows["terminated"][t, i] or rows["truncated"][t, i] or rows["finished"][t, i])
            else:
                total, length = total + float(raw["reward"][t, i]), length + 1
                assert rows["valid"][t, i] and rows["reward"][t, i] == np.float32(raw["reward"][t, i])
                assert rows["lengths"][t, i] == length == raw["info_elapsed_step"][t, i]
                assert rows["returns"][t, i] == pytest.approx(total, abs=1e-4)
                assert rows["truncated"][t, i] == (length == limit)
            if t + 1 < steps:
                ends = raw["info_elapsed_step"][t + 1, i] == 0
                assert rows["finished"][t, i] == ends == (rows["terminated"][t, i] or rows["truncated"][t, i])
                episodes += ends
    assert episodes >= 5


def test_the_truncated_row_has_the_true_last_observation():
    """MountainCar's own equations lead from the row before to the row of the time limit."""
    seeds = [1, 2, 3]
    actions = random_actions("MountainCar-v0", 200, 3)
    rows = play(make_vector_env("MountainCar-v0", 3, seeds=seeds), actions)
    assert rows["truncated"][199].all() and not rows["truncated"][:199].any() and not rows["terminated"].any()
    for i in range(3):
        position, velocity = rows["observation"][198, i].astype(float)
        velocity += (actions[199, i] - 1) * 0.001 - 0.0025 * math.cos(3 * position)
        np.testing.assert_allclose(rows["observation"][199, i], [position + velocity, velocity], atol=1e-6)


def test_the_row_after_the_time_limit_repeats_no_reward_in_dm_control():
    seeds = [5, 7]
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (1003, 2, 6))
    raw = play_raw("WalkerWalk-v1", seeds, actions)
    rows = play(make_vector_env("WalkerWalk-v1", 2, seeds=seeds), actions)
    assert (raw["info_elapsed_step"][1000] == 0).all()
    assert (raw["reward"][1000] == raw["reward"][999]).all() and (raw["reward"][1000] > 0).all()
    assert rows["truncated"][999].all() and rows["finished"][999].all()
    assert (rows["reward"][1000] == 0).all() and not rows["valid"][1000].any()
    np.testing.assert_allclose(rows["returns"][999], raw["reward"][:1000].astype(float).sum(0))
    np.testing.assert_allclose(rows["returns"][1002], raw["reward"][1001:1003].astype(float).sum(0))
    assert (rows["lengths"][999] == 1000).all() and (rows["lengths"][1002] == 2).all()


SHORT = AtariOptions(max_episode_steps=120)


@pytest.fixture(scope="module")
def breakout():
    """Breakout with lives that end episodes and a time limit of 120 steps, ours and the engine's own rows."""
    seeds = [5, 7, 9, 11]
    actions = random_actions("Breakout-v5", 500, 4, atari=SHORT)
    raw = play_raw(
        "Breakout-v5", seeds, actions, episodic_life=True, reward_clip=True, max_episode_steps=120, num_threads=1
    )
    rows = play(make_vector_env("Breakout-v5", 4, seeds=seeds, atari=SHORT), actions)
    return raw, rows


def test_atari_games_equal_a_loop_that_reads_the_emulator(breakout):
    """The witness: the step counter goes on over lost lives, stands still on their resets and is 0 for a new game."""
    raw, rows = breakout
    np.testing.assert_array_equal(rows["observation"], raw["observation"])
    seen = {"life": 0, "death": 0, "limit": 0, "death at limit": 0, "life at limit": 0}
    steps, num_envs = raw["reward"].shape
    for i in range(num_envs):
        total, counter, lives = 0.0, 0, 5
        for t in range(steps):
            before, counter = counter, raw["info_elapsed_step"][t, i]
            valid = counter == before + 1
            assert rows["valid"][t, i] == valid
            if counter == 0:
                total = 0.0
            if not valid:
                lives = raw["info_lives"][t, i]
                assert rows["reward"][t, i] == 0 and not rows["terminated"][t, i] and not rows["truncated"][t, i]
                continue
            total += raw["info_reward"][t, i]
            lost, lives = raw["info_lives"][t, i] < lives, raw["info_lives"][t, i]
            dead, limit = bool(raw["info_terminated"][t, i]), counter == 120
            assert dead == (lives == 0)
            assert rows["terminated"][t, i] == (lost or dead)
            assert rows["truncated"][t, i] == (limit and not lost and not dead)
            assert rows["finished"][t, i] == (dead or limit)
            assert rows["returns"][t, i] == total
            assert rows["lengths"][t, i] == counter
            assert rows["reward"][t, i] == np.sign(raw["info_reward"][t, i])
            if lost or dead or limit:
                seen[" at ".join(["death" if dead else "life"] * bool(lost or dead) + ["limit"] * bool(limit))] += 1
    assert seen["life"] >= 15 and seen["limit"] >= 5
    assert seen["death at limit"] + seen["death"] >= 1


def test_a_death_on_the_row_of_the_time_limit_is_a_death(breakout):
    """The engine calls it a truncation."""
    raw, rows = breakout
    deaths = raw["truncated"] & (raw["info_terminated"] == 1)
    assert deaths.any() and not raw["terminated"][deaths].any()
    assert rows["terminated"][deaths].all() and not rows["truncated"][deaths].any() and rows["finished"][deaths].all()


def test_a_truncated_game_does_not_leak_into_the_next(breakout):
    _, rows = breakout
    assert rows["returns"][rows["truncated"]].sum() > 0
    for t, i in np.argwhere(rows["truncated"][:-2]):
        assert rows["lengths"][t + 2, i] == 1
        assert rows["returns"][t + 2, i] == rows["reward"][t + 2, i]


def test_lives_are_no_endings_and_rewards_are_raw_in_evaluation():
    options = dataclasses.replace(AtariOptions(), life_loss_terminal=False, clip_rewards=False, noop_max=1)
    seeds = [3, 4, 5]
    actions = random_actions("SpaceInvaders-v5", 700, 3)
    raw = play_raw("SpaceInvaders-v5", seeds, actions, noop_max=1)
    rows = play(make_vector_env("SpaceInvaders-v5", 3, seeds=seeds, atari=options), actions)
    lost = np.diff(raw["info_lives"], axis=0) < 0
    assert lost.any()
    assert (rows["terminated"] == ((raw["info_terminated"] == 1) & rows["valid"])).all()
    assert (rows["terminated"] == rows["finished"]).all() and rows["terminated"].any()
    np.testing.assert_array_equal(rows["reward"], np.where(rows["valid"], raw["info_reward"], 0))
    assert rows["reward"].max() > 1


def test_learning_rewards_are_clipped_and_returns_are_not():
    actions = random_actions("SpaceInvaders-v5", 400, 3)
    rows = play(make_vector_env("SpaceInvaders-v5", 3, seeds=[3, 4, 5]), actions)
    assert set(np.unique(rows["reward"])) == {0.0, 1.0}
    assert rows["returns"].max() >= 50


def test_a_game_that_ends_unseen_inside_a_reset_is_reported_there():
    """With thousands of no-ops after a lost life, the invaders finish the game before the agent acts again."""
    options = AtariOptions(noop_max=4000)
    seeds = [1, 2, 3]
    actions = random_actions("SpaceInvaders-v5", 150, 3)
    raw = play_raw("SpaceInvaders-v5", seeds, actions, episodic_life=True, reward_clip=True, noop_max=4000)
    rows = play(make_vector_env("SpaceInvaders-v5", 3, seeds=seeds, atari=options), actions)
    unseen = np.zeros_like(rows["valid"])
    for t in range(1, len(actions)):
        for i in range(3):
            after_a_life = raw["terminated"][t - 1, i] and raw["info_terminated"][t - 1, i] == 0
            unseen[t, i] = after_a_life and raw["info_lives"][t, i] > raw["info_lives"][t - 1, i]
    assert unseen.any()
    np.testing.assert_array_equal(rows["finished"] & ~rows["valid"], unseen)
    for t, i in np.argwhere(unseen[:-1]):
        assert rows["returns"][t, i] == rows["returns"][t - 1, i]
        assert rows["lengths"][t + 1, i] == 1


def test_a_lost_life_on_the_row_of_the_time_limit_is_terminal_and_ends_the_game():
    env = make_vector_env("Breakout-v5", 3, seeds=[1, 2, 3])
    assert isinstance(env, EnvpoolVectorEnv)
    env.reset()
    env._lives = np.array([3, 3, 1])
    truncated, alive = np.array([True, True, True]), np.array([False, False, True])
    terminated, game_over = env._atari_endings(~truncated, truncated, np.array([2, 3, 0]), alive)
    assert terminated.tolist() == [True, False, True] and game_over.all()
    env.close()


def test_pong_has_no_lives_and_still_ends_only_when_it_is_over():
    actions = random_actions("Pong-v5", 300, 2)
    rows = play(make_vector_env("Pong-v5", 2, seeds=[1, 2], atari=AtariOptions(max_episode_steps=100)), actions)
    assert np.flatnonzero(rows["truncated"][:, 0]).tolist() == [99, 200]
    assert not rows["terminated"].any()


def _flat(space, observation):
    """One observation of nested dicts, flattened by hand in the sorted order of its keys."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([_flat(space[key], observation[key]) for key in sorted(space.spaces)])
    return spaces.flatten(space, observation).reshape(-1)


def _pick(observation, i):
    return {k: _pick(v, i) for k, v in observation.items()} if isinstance(observation, dict) else observation[i]


@pytest.mark.parametrize("env_id", ["MiniGrid-Empty-5x5-v0", "WalkerWalk-v1", "Maze-v0", "Taxi-v3", "Highway-v0"])
def test_vectors_equal_a_flattening_by_hand(env_id):
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=3, seed=[1, 2, 3])
    first = pool.reset()[0]
    env = make_vector_env(env_id, 3, seeds=[1, 2, 3])
    ours = env.reset()
    assert ours.dtype == np.float32 and ours.shape == (3, *env.spec.observation_shape)
    for i in range(3):
        np.testing.assert_allclose(ours[i], _flat(pool.observation_space, _pick(first, i)).astype(np.float32))
    env.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Breakout-v5", "MiniGrid-Empty-5x5-v0"])
def test_results_may_be_kept(env_id):
    env = make_vector_env(env_id, 2, seeds=[1, 2])
    kept = [env.reset()]
    actions = random_actions(env_id, 30, 2)
    copies = [kept[0].copy()]
    for action in actions:
        result = env.step(action)
        kept += [result.observation, result.reward, result.episode.returns]
        copies += [array.copy() for array in kept[-3:]]
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_dtypes_and_the_final_observation():
    env = make_vector_env("CartPole-v1", 2, seeds=[1, 2])
    env.reset()
    result = env.step(np.array([0, 1]))
    assert result.observation.dtype == result.reward.dtype == np.float32
    assert result.terminated.dtype == result.truncated.dtype == result.valid.dtype == bool
    assert result.episode.returns.dtype == np.float64 and result.episode.lengths.dtype == np.int64
    assert result.final_observation is result.observation


def test_specs_say_what_the_environments_are():
    spec = environment_spec("Breakout-v5")
    assert (spec.observation_shape, spec.observation_dtype, spec.action_space) == ((4, 84, 84), "uint8", Discrete(4))
    assert spec.is_image and spec.max_episode_steps == 27000 and spec.atari_game == "Breakout"
    colour = AtariOptions(frame_stack=2, grayscale=False, image_size=64, full_action_set=True, max_episode_steps=50)
    spec = environment_spec("Breakout-v5", atari=colour)
    assert (spec.observation_shape, spec.action_space, spec.max_episode_steps) == ((6, 64, 64), Discrete(18), 50)
    env = make_vector_env("Breakout-v5", 2, seeds=[1, 2], atari=colour)
    assert env.spec == spec and env.reset().shape == (2, 6, 64, 64)
    env.close()
    spec = environment_spec("HalfCheetah-v4")
    assert (
        spec.action_space == Box((-1.0,) * 6, (1.0,) * 6)
        and spec.observation_dtype == "float32"
        and spec.atari_game is None
    )
    assert environment_spec("Blackjack-v1").max_episode_steps is None
    assert environment_spec("CarRacing-v3").observation_shape == (3, 96, 96)


def _pictures(atari, steps=60):
    """What the agent sees when it only ever presses RIGHT: [steps, H, W]."""
    env = make_vector_env("Breakout-v5", 1, seeds=[1], atari=atari)
    env.reset()
    pictures = np.stack([env.step(np.array([2])).observation[0, -1] for _ in range(steps)])
    env.close()
    return pictures


@pytest.mark.parametrize(
    "change", [{"frame_skip": 2}, {"sticky_actions": 0.5}, {"noop_max": 5}, {"fire_reset": False}], ids=str
)
def test_every_option_reaches_the_emulator(change):
    assert (_pictures(AtariOptions()) == _pictures(AtariOptions())).all()
    assert (_pictures(AtariOptions()) != _pictures(AtariOptions(**change))).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_stack": 0},
        {"frame_skip": 0},
        {"noop_max": 0},
        {"image_size": -1},
        {"max_episode_steps": 0},
        {"frame_stack": 2.5},
        {"sticky_actions": 1.0},
        {"sticky_actions": -0.1},
        {"sticky_actions": float("nan")},
    ],
    ids=str,
)
def test_atari_options_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        AtariOptions(**wrong)


def test_wrong_calls_are_refused():
    env = make_vector_env("CartPole-v1", 2, seeds=[1, 2])
    with pytest.raises(UsageError, match=r"reset\(\) once before"):
        env.step(np.array([0, 1]))
    env.reset()
    with pytest.raises(UsageError, match="fresh episodes"):
        env.reset()
    for action, message in [
        (np.array([0, 2]), "actions 0 .. 1, got 0 .. 2"),
        (np.array([-1, 1]), "got -1 .. 1"),
        (np.array([0.0, 1.0]), "integers"),
        (np.array([0]), r"shape \(2,\), got \(1,\)"),
    ]:
        with pytest.raises(UsageError, match=message):
            env.step(action)
    with pytest.raises(UsageError, match="render=True"):
        env.render()
    env.close()
    env.close()
    with pytest.raises(UsageError, match="closed"):
        env.step(np.array([0, 1]))


@pytest.mark.parametrize(
    ("env_id", "shape"), [("CartPole-v1", (400, 600, 3)), ("Pong-v5", (210, 160, 3)), ("LunarLander-v3", (400, 600, 3))]
)
def test_pictures(env_id, shape):
    env = make_vector_env(env_id, 2, seeds=[1, 2], render=True)
    env.reset()
    first = env.render()
    assert first.shape == shape and first.dtype == np.uint8 and first.std() > 0
    for action in random_actions(env_id, 30, 2):
        env.step(action)
    assert (env.render() != first).any()
    env.close()


def test_an_environment_without_pictures_says_so():
    env = make_vector_env("FrozenLake-v1", 1, seeds=[1], render=True)
    env.reset()
    with pytest.raises(EnvironmentFault, match="being rendered: render not implemented"):
        env.render()


def test_mujoco_without_opengl_is_an_error_and_not_the_end_of_the_process():
    try:
        env = make_vector_env("HalfCheetah-v4", 1, seeds=[1], render=True)
    except EnvironmentFault as error:
        assert "cannot be rendered on this machine" in str(error) and "\n" not in str(error)
    else:
        env.reset()
        assert env.render().shape[2] == 3


def test_what_the_engine_raises_is_named(monkeypatch):
    env = make_vector_env("CartPole-v1", 1, seeds=[1])
    env.reset()

    def broken(action):
        raise RuntimeError("the physics\nexploded")

    monkeypatch.setattr(env, "_pool", type("Pool", (), {"step": staticmethod(broken)})())
    with pytest.raises(EnvironmentFault) as caught:
        env.step(np.array([0]))
    assert str(caught.value) == (
        "environment 'CartPole-v1' raised RuntimeError while being stepped (step 1): the physics exploded"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_trial_of_opengl_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(EnvironmentFault):
        make_vector_env("HalfCheetah-v4", 1, seeds=[1], render=True).close()
    assert list(tmp_path.iterdir()) == []

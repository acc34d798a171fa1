"""The gymnasium engine and users' own factories."""

import itertools
import sys
import textwrap
import types

import gymnasium
import numpy as np
import pytest

from stablegrad.environments import environment_seeds, environment_spec, make_vector_env
from stablegrad.errors import EnvironmentFault, UsageError


@pytest.mark.parametrize("env_id", ["gymnasium:CartPole-v1", "gymnasium:MountainCar-v0", "gymnasium:Pendulum-v1"])
def test_rows_equal_a_loop_over_single_environments(env_id):
    seeds, steps = environment_seeds(0, 0, 3), 450
    env = make_vector_env(env_id, 3, seeds=seeds)
    rng, pendulum = np.random.default_rng(0), env_id.endswith("Pendulum-v1")
    actions = rng.uniform(-1, 1, (steps, 3, 1)).astype(np.float32) if pendulum else rng.integers(0, 2, (steps, 3))
    first = env.reset()
    results = [env.step(action) for action in actions]
    finished = 0
    for i, seed in enumerate(seeds):
        single = gymnasium.make(env_id.removeprefix("gymnasium:"))
        observation, _ = single.reset(seed=seed)
        np.testing.assert_array_equal(first[i], observation)
        over, total, length = False, 0.0, 0
        for action, result in zip(actions[:, i], results, strict=True):
            if over:
                observation, _ = single.reset()
                expected = (False, 0.0, False, False, False)
                total, length = 0.0, 0
                over = False
            else:
                observation, reward, terminated, truncated, _ = single.step(2 * action if pendulum else action)
                over = terminated or truncated
                total, length = total + reward, length + 1
                expected = (True, np.float32(reward), terminated, truncated and not terminated, over)
                finished += over
            np.testing.assert_array_equal(result.observation[i], np.asarray(observation, np.float32))
            row = (result.valid, result.reward, result.terminated, result.truncated, result.episode.finished)
            assert tuple(array[i] for array in row) == expected
            if result.valid[i]:
                assert (result.episode.returns[i], result.episode.lengths[i]) == (total, length)
        single.close()
    assert finished >= 6
    env.close()


MODULE = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Counter(gymnasium.Env):
    """Observes its own step number; ends as told."""

    observation_space = spaces.Dict({"step": spaces.Box(-np.inf, np.inf, ()), "place": spaces.Discrete(3, start=2)})
    action_space = spaces.Discrete(3, start=5)

    def __init__(self, terminate=4, truncate=99, bad=None, render_mode=None):
        self.terminate, self.truncate, self.bad, self.render_mode = terminate, truncate, bad, render_mode

    def _observe(self):
        return {"step": np.float32(self.count), "place": 2 + self.count % 3}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action):
        assert 5 <= action < 8, action
        self.count += 1
        observation, reward = self._observe(), float(action)
        if self.bad == "reward" and self.count == 3:
            reward = float("nan")
        if self.bad == "observation" and self.count == 3:
            observation["step"] = np.float32(np.inf)
        if self.bad == "raise" and self.count == 3:
            raise ValueError("a wheel\\ncame off")
        return observation, reward, self.count == self.terminate, self.count == self.truncate, {}

    def render(self):
        return np.full((8, 6, 3), self.count, np.uint8)


def make_env():
    return Counter()

def both_ends(render_mode=None):
    return Counter(truncate=4, render_mode=render_mode)

def truncated():
    return Counter(terminate=99, truncate=3)

def bad_reward():
    return Counter(bad="reward")

def bad_observation():
    return Counter(bad="observation")

def bad_step():
    return Counter(bad="raise")

def raises():
    raise KeyError("no track")

seen_seeds = []

def seeded(seed):
    seen_seeds.append(seed)
    return Counter()

def keywords(**options):
    assert not options
    return Counter()

the_one = Counter()

def shared():
    return the_one

def nothing():
    return None

def vector(num_envs, seed=None):
    seen_seeds.append(seed)
    return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="sync", vector_kwargs={
        "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP})

def native_vector(num_envs):
    return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")

def same_step(num_envs):
    return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="sync", vector_kwargs={
        "autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP})

def too_few(num_envs):
    return vector(num_envs - 1)

def vector_without_num_envs():
    return vector(2)

def single_with_num_envs(num_envs):
    return Counter()

not_callable = 3

gymnasium.register("OnlyMine-v0", entry_point=Counter, max_episode_steps=7)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A directory with a user's modules, made the current one; the modules are new for every test."""
    (tmp_path / "my_envs.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import no_such_dependency\n")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "racing.py").write_text("from my_envs import make_env\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]
    gymnasium.registry.pop("OnlyMine-v0", None)


def test_a_factory_of_ones_own(mine):
    spec = environment_spec("my_envs:make_env")
    assert (spec.env_id, spec.engine, spec.observation_shape) == ("my_envs:make_env", "factory", (4,))
    assert spec.action_space.n == 3 and spec.max_episode_steps is None and not spec.is_image
    env = make_vector_env("my_envs:make_env", 2, seeds=[1, 2])
    assert env.spec == spec
    # sorted keys: "place" (one-hot of 2, 3, 4) before "step"
    assert env.reset().tolist() == [[1, 0, 0, 0]] * 2
    expected = [[0, 1, 0, 1], [0, 0, 1, 2], [1, 0, 0, 3], [0, 1, 0, 4], [1, 0, 0, 0], [0, 1, 0, 1]]
    results = [env.step(np.array([0, 2])) for _ in expected]
    assert [result.observation[0].tolist() for result in results] == expected
    assert [result.terminated[1] for result in results] == [False, False, False, True, False, False]
    assert [result.valid[1] for result in results] == [True, True, True, True, False, True]
    assert results[3].episode.returns.tolist() == [20.0, 28.0] and results[3].episode.lengths.tolist() == [4, 4]
    env.close()


def test_what_a_factory_makes_is_found_out_once_and_again_for_another_one(mine):
    made = []

    def make_env():
        made.append(gymnasium.make("CartPole-v1"))
        return made[-1]

    module = sys.modules["my_envs"] = types.ModuleType("my_envs")
    module.make_env = make_env
    first = environment_spec("my_envs:make_env")
    assert environment_spec("my_envs:make_env") is first
    assert len(made) == 1
    module.make_env = lambda: gymnasium.make("MountainCar-v0")
    assert environment_spec("my_envs:make_env").action_space.n == 3


def test_both_flags_mean_termination(mine):
    env = make_vector_env("my_envs:both_ends", 1, seeds=[1])
    env.reset()
    results = [env.step(np.array([0])) for _ in range(4)]
    assert results[3].terminated[0] and not results[3].truncated[0] and results[3].episode.finished[0]


def test_truncation_shows_the_last_observation(mine):
    env = make_vector_env("my_envs:truncated", 1, seeds=[1])
    env.reset()
    results = [env.step(np.array([0])) for _ in range(4)]
    assert results[2].truncated[0] and not results[2].terminated[0]
    assert results[2].final_observation[0, 3] == 3 and results[3].observation[0, 3] == 0


def test_factories_get_the_arguments_that_they_name(mine):
    make_vector_env("my_envs:seeded", 3, seeds=[4, 5, 6]).close()
    assert sys.modules["my_envs"].seen_seeds == [4, 5, 6]
    make_vector_env("my_envs:keywords", 1, seeds=[4]).close()
    make_vector_env("my_envs:vector", 2, seeds=[7, 8]).close()
    assert sys.modules["my_envs"].seen_seeds[-1] == 7


@pytest.mark.parametrize("name", ["vector", "native_vector"])
def test_vector_environments(mine, name):
    seeds = environment_seeds(1, 0, 4)
    env = make_vector_env(f"my_envs:{name}", 4, seeds=seeds)
    first = env.reset()
    assert first.shape == (4, 4) and env.spec.action_space.n == 2
    kept = [env.step(np.ones(4, dtype=np.int64)) for _ in range(40)]
    copies = [result.observation.copy() for result in kept]
    assert sum(result.episode.finished.sum() for result in kept) >= 8
    assert all((~after.valid == before.episode.finished).all() for before, after in itertools.pairwise(kept))
    for _ in range(3):
        env.step(np.ones(4, dtype=np.int64))
    assert all((result.observation == copy).all() for result, copy in zip(kept, copies, strict=True))
    other = make_vector_env(f"my_envs:{name}", 4, seeds=environment_seeds(2, 0, 4)).reset()
    assert (other != first).any()
    again = make_vector_env(f"my_envs:{name}", 4, seeds=seeds).reset()
    np.testing.assert_array_equal(again, first)


def test_a_module_that_registers_an_id(mine):
    env = make_vector_env("gymnasium:my_envs:OnlyMine-v0", 1, seeds=[1])
    assert env.spec.engine == "gymnasium" and env.spec.max_episode_steps == 7
    assert environment_spec("OnlyMine-v0").action_space.n == 3  # registered now


def test_pictures(mine):
    env = make_vector_env("my_envs:both_ends", 2, seeds=[1, 2], render=True)
    env.reset()
    env.step(np.array([0, 0]))
    picture = env.render()
    assert picture.shape == (8, 6, 3) and (picture == 1).all()
    with pytest.raises(UsageError, match="takes no argument render_mode"):
        make_vector_env("my_envs:make_env", 1, seeds=[1], render=True)


@pytest.mark.parametrize(
    ("env_id", "error", "message"),
    [
        ("gymnasium:my_evns:OnlyMine-v0", UsageError, "unknown module 'my_evns'; did you mean 'my_envs'?"),
        ("gymnasium:my_envs:OnlyMin-v0", UsageError, "did you mean 'OnlyMine-v0'?"),
        ("my_envs:make_evn", UsageError, "did you mean 'my_envs:make_env'?"),
        ("my_evns:make_env", UsageError, "unknown module 'my_evns'; did you mean 'my_envs'?"),
        (
            "my_package.racin:make_env",
            UsageError,
            "unknown module 'my_package.racin'; did you mean 'my_package.racing'?",
        ),
        ("my_envs:", UsageError, "did you mean 'my_envs:make_env'?"),
        (":make_env", UsageError, "expected package.module:make_env"),
        ("my envs:make_env", UsageError, "expected package.module:make_env"),
        ("my_envs:not_callable", UsageError, "names a value of type int; expected a function"),
        ("my_broken:make_env", EnvironmentFault, "ModuleNotFoundError while its module was imported: No module named"),
        ("my_envs:raises", EnvironmentFault, "'my_envs:raises' raised KeyError while being made: 'no track'"),
        ("my_envs:nothing", UsageError, "returned None; expected a gymnasium.Env"),
        ("my_envs:shared", UsageError, "returned the same environment twice"),
        ("my_envs:same_step", UsageError, "declares metadata['autoreset_mode'] SAME_STEP; expected AutoresetMode.NEXT"),
        ("my_envs:too_few", UsageError, "returned 1 environments; expected 2"),
        ("my_envs:vector_without_num_envs", UsageError, "expected it to take num_envs"),
        ("my_envs:single_with_num_envs", UsageError, "expected a gymnasium VectorEnv"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said_in_one_line(mine, env_id, error, message):
    with pytest.raises(error) as caught:
        make_vector_env(env_id, 2, seeds=[1, 2])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_factory_in_a_package(mine):
    assert environment_spec("my_package.racing:make_env").action_space.n == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad_reward", "'my_envs:bad_reward' returned a non-finite reward (nan) in sub-environment 0 at step 3"),
        ("bad_observation", "returned a non-finite observation (inf) in sub-environment 0 at step 3"),
        ("bad_step", "raised ValueError while being stepped (step 3): a wheel came off"),
    ],
)
def test_faults_at_run_time_are_named(mine, name, message):
    env = make_vector_env(f"my_envs:{name}", 2, seeds=[1, 2])
    env.reset()
    for _ in range(2):
        env.step(np.array([1, 1]))
    with pytest.raises(EnvironmentFault) as caught:
        env.step(np.array([1, 1]))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_calls_are_refused():
    env = make_vector_env("gymnasium:CartPole-v1", 2, seeds=[1, 2])
    with pytest.raises(UsageError, match=r"reset\(\) once before"):
        env.step(np.array([0, 1]))
    env.reset()
    with pytest.raises(UsageError, match="fresh episodes"):
        env.reset()
    with pytest.raises(UsageError, match=r"actions 0 \.\. 1, got 0 \.\. 2"):
        env.step(np.array([0, 2]))
    env.close()
    env.close()
    with pytest.raises(UsageError, match="closed"):
        env.step(np.array([0, 1]))


def test_spaces_that_have_no_fixed_size_are_refused(mine):
    (mine / "my_text.py").write_text(
        textwrap.dedent("""
        import gymnasium
        class Talker(gymnasium.Env):
            observation_space = gymnasium.spaces.Text(5)
            action_space = gymnasium.spaces.Discrete(2)
        """)
    )
    with pytest.raises(UsageError, match="of kind Text"):
        environment_spec("my_text:Talker")

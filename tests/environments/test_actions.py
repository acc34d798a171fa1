"""Action spaces that are taken and refused, and actions on their way to the engine."""

import sys
import types

import envpool
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction, TransformAction
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.environments import Box, Discrete, environment_spec, make_vector_env
from stablegrad.environments.actions import ActionAdapter
from stablegrad.errors import UsageError

BOUND = st.floats(-1e6, 1e6, width=32)
UNIT = st.floats(-1, 1)


class Echo(gymnasium.Env):
    """Observes its last action; a test sets the action space."""

    observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float64)

    def reset(self, *, seed=None, options=None):
        return np.zeros(6), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action)), action
        return np.pad(np.asarray(action, np.float64).reshape(-1), (0, 6))[:6], 0.0, False, False, {}


@pytest.fixture
def echo(monkeypatch):
    """A function that names an ``Echo`` with an action space."""

    def name(space, wrap=lambda env: env):
        module = types.ModuleType("echoing")
        module.make = lambda: wrap(type("Changed", (Echo,), {"action_space": space})())
        monkeypatch.setitem(sys.modules, "echoing", module)
        return "echoing:make"

    return name


@given(st.lists(st.tuples(BOUND, BOUND, UNIT), min_size=1, max_size=5), st.sampled_from([np.float32, np.float64]))
def test_scaling_equals_gymnasiums_and_stays_within_the_bounds(numbers, dtype):
    # gymnasium's gradient overflows where the bounds nearly touch.
    numbers = [one for one in numbers if abs(one[0] - one[1]) > 1e-30]
    bounds = [(min(a, b), max(a, b)) for a, b, _ in numbers]
    if not bounds:
        return
    unit = np.array([u for _, _, u in numbers])
    low, high = np.array(bounds, dtype).T
    space = spaces.Box(low, high, dtype=dtype)
    env = type("Changed", (Echo,), {"action_space": space})()
    expected = RescaleAction(env, -np.ones(len(low), dtype), np.ones(len(low), dtype)).action(unit.astype(dtype))
    adapter = ActionAdapter("Echo", space, 1)
    got = adapter(unit[None])
    assert got.dtype == dtype and space.contains(got[0])
    error = 10 * np.finfo(dtype).eps * np.maximum(np.abs(low), np.abs(high))
    assert (np.abs(got[0].astype(np.float64) - expected.astype(np.float64)) <= error).all()
    assert adapter.space == Box(tuple(low.tolist()), tuple(high.tolist())) and adapter.space.size == len(low)


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
def test_unit_bounds_pass_actions_through_bit_for_bit(unit):
    space = spaces.Box(-1, 1, (3,), np.float64)
    np.testing.assert_array_equal(ActionAdapter("Echo", space, 1)(np.float32([unit]))[0], unit)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ends_and_shapes_reach_the_engine(echo, shape, dtype):
    size = int(np.prod(shape))
    low = (-np.arange(1, size + 1)).reshape(shape).astype(dtype)
    high = (np.arange(1, size + 1) * 3).reshape(shape).astype(dtype)
    env_id = echo(spaces.Box(low, high, shape, dtype))
    space = environment_spec(env_id).action_space
    assert space == Box(tuple(-1.0 * i for i in range(1, size + 1)), tuple(3.0 * i for i in range(1, size + 1)))
    env = make_vector_env(env_id, 3, seeds=[1, 2, 3])
    env.reset()
    action = np.stack([-np.ones(size), np.zeros(size), np.ones(size) + 1e-7])
    seen = env.step(action).observation[:, :size]
    np.testing.assert_array_equal(seen, [low.reshape(-1), (low + high).reshape(-1) / 2, high.reshape(-1)])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(2), r"shape \(2, 1\), got \(2,\)"),
        (np.zeros((2, 2)), r"shape \(2, 1\), got \(2, 2\)"),
        (np.zeros((2, 1), np.int64), "floats as actions, got int64"),
        (np.array([[0.5], [np.nan]]), r"in \[-1, 1\], got nan"),
        (np.array([[-np.inf], [0.5]]), r"in \[-1, 1\], got -inf"),
        (np.array([[0.5], [1.00001]]), r"in \[-1, 1\], got 1.00001"),
    ],
)
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "gymnasium:Pendulum-v1"])
@pytest.mark.parametrize("action_repeat", [1, 2])
def test_wrong_actions_are_told_in_one_line(env_id, action, message, action_repeat):
    env = make_vector_env(env_id, 2, seeds=[1, 2], action_repeat=action_repeat)
    env.reset()
    with pytest.raises(UsageError, match=f"^environment '{env_id}' takes .*{message}$"):
        env.step(action)
    env.close()


REFUSED = [
    (spaces.Box(-np.inf, np.inf, (2,)), "number 0 goes from -inf to inf, which is unbounded; expected finite bounds"),
    (spaces.Box(np.float32([-1, -1]), np.float32([1, np.inf])), "number 1 goes from -1 to inf, which is unbounded"),
    (spaces.Box(-1e10, 1e10, (1,), np.float64), "from -1e[+]10 to 1e[+]10, which is unbounded"),
    (spaces.Box(np.float32([0, 1]), np.float32([1, 1])), "number 1 goes from 1 to 1; expected low < high"),
    (spaces.Box(-1, 1, (0,)), r"shape \(0,\); expected at least one number"),
    (spaces.Box(0, 5, (2,), np.int32), "kind Box of int32; expected Discrete, or a Box of floats"),
    (spaces.Box(0, 255, (2,), np.uint8), "kind Box of uint8"),
    (spaces.MultiDiscrete([2, 3]), "kind MultiDiscrete; expected Discrete, or a Box of floats"),
    (spaces.MultiBinary(4), "kind MultiBinary; expected"),
    (spaces.Dict(a=spaces.Discrete(2)), "kind Dict; expected"),
    (spaces.Tuple([spaces.Discrete(2)]), "kind Tuple; expected"),
]


@pytest.mark.parametrize(("space", "message"), REFUSED)
def test_spaces_that_no_agent_can_act_in(echo, space, message):
    env_id = echo(space)
    for ask in (environment_spec, lambda name: make_vector_env(name, 2, seeds=[1, 2])):
        with pytest.raises(UsageError, match=f"^environment 'echoing:make' has actions .*{message}") as caught:
            ask(env_id)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "message"), [("LqrLqr21-v1", "unbounded"), ("D1Basic-v1", "unbounded"), ("BinPack-v2", "Box of int32")]
)
def test_envpools_spaces_without_bounds_or_of_integers_are_refused(env_id, message):
    for ask in (environment_spec, lambda name: make_vector_env(name, 1, seeds=[1])):
        with pytest.raises(UsageError, match=f"^environment '{env_id}' has actions .*{message}"):
            ask(env_id)


def test_the_advice_on_unbounded_actions_helps(echo):
    def bounded(env):
        return TransformAction(env, lambda action: 10 * action, spaces.Box(-1, 1, (2,)))

    env_id = echo(spaces.Box(-np.inf, np.inf, (2,)), wrap=bounded)
    assert environment_spec(env_id).action_space == Box((-1.0, -1.0), (1.0, 1.0))
    env = make_vector_env(env_id, 1, seeds=[1])
    env.reset()
    assert env.step(np.array([[0.5, -1.0]])).observation[0, :2].tolist() == [5.0, -10.0]


def test_a_spec_can_be_a_key():
    specs = {environment_spec(name): name for name in ("Pendulum-v1", "CartPole-v1")}
    assert specs[environment_spec("Pendulum-v1")] == "Pendulum-v1"
    assert environment_spec("Pendulum-v1").action_space == Box((-2.0,), (2.0,))
    assert environment_spec("CartPole-v1").action_space == Discrete(2)


@pytest.mark.parametrize(
    ("env_id", "weight", "cost"),
    [
        ("HalfCheetah-v4", 0.1, "reward_ctrl"),
        ("Humanoid-v4", 0.1, "reward_quadctrl"),
        ("Pusher-v4", 1.0, "reward_ctrl"),
    ],
)
def test_bounds_are_in_the_units_that_mujoco_counts(env_id, weight, cost):
    """The engine's control cost, the weight times the sum of squares, tells which action it took."""
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=1)
    pool.reset()
    adapter = ActionAdapter(env_id, pool.action_space, 1)
    info = pool.step(adapter(np.full((1, adapter.space.size), 0.5)))[4]
    expected = -weight * sum((0.5 * high) ** 2 for high in adapter.space.high)
    assert info[cost][0] == pytest.approx(expected, rel=1e-6)
    pool.close()

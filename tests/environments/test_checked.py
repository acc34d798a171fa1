"""What may be wrong with an environment of one's own, each told in one line that names the environment."""

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from stablegrad.environments import environment_spec, make_vector_env
from stablegrad.errors import EnvironmentFault, UsageError

BOX = spaces.Box(-1, 1, (3,))


class Walk(gymnasium.Env):
    """Ends after five steps; a test replaces what is to be wrong."""

    observation_space = BOX
    action_space = spaces.Discrete(2)
    observation = np.zeros(3, dtype=np.float32)
    first = later = None

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.first() if self.first else (self.observation, {})

    def step(self, action):
        self.steps += 1
        if self.later and self.steps == 2:
            return self.later()
        return self.observation, 1.0, self.steps == 5, False, {}


@pytest.fixture
def made(monkeypatch):
    """A function that makes a ``Walk`` with other attributes and plays three steps; its observations."""

    def play(**changed):
        module = type(sys)("walking")
        methods = {
            name: staticmethod(value) if callable(value) and not isinstance(value, type) else value
            for name, value in changed.items()
        }
        module.make = type("Changed", (Walk,), methods)
        monkeypatch.setitem(sys.modules, "walking", module)
        environment_spec("walking:make")
        env = make_vector_env("walking:make", 2, seeds=[1, 2])
        rows = [env.reset()]
        rows += [env.step(np.zeros(2, dtype=np.int64)).observation for _ in range(3)]
        env.close()
        return rows

    return play


def step_with(**changed):
    """A ``step`` that returns all as it should be but for what is named."""
    result = {"observation": Walk.observation, "reward": 0.0, "terminated": False, "truncated": False, "info": {}}
    return lambda: tuple((result | changed).values())


@property
def too_early(self):
    raise RuntimeError("the simulator is not connected")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observation_space": None}, "no observation_space; expected a space of gymnasium.spaces"),
        ({"action_space": None}, "no action_space; expected"),
        ({"observation_space": (3,)}, "a tuple of 1 value as its observation_space"),
        ({"action_space": 2}, "2 as its action_space"),
        ({"observation_space": spaces.Box}, "the class Box as its observation_space"),
        ({"observation_space": spaces.Box(-1, 1, (0, 2))}, r"observations of shape \(0,\); expected at least one"),
        ({"observation_space": spaces.Dict()}, r"observations of shape \(0,\)"),
        ({"observation_space": spaces.Box(0, 255, (8, 0, 3), np.uint8)}, r"observations of shape \(3, 8, 0\)"),
        ({"observation_space": spaces.Dict(a=spaces.Dict(b=spaces.Text(9)))}, "a part 'a.b' of kind Text"),
        ({"observation_space": spaces.Sequence(BOX)}, "of kind Sequence"),
        ({"observation_space": spaces.Graph(BOX, None)}, "of kind Graph"),
    ],
)
def test_spaces_that_cannot_be_trained_on(made, changed, message):
    with pytest.raises(UsageError, match=f"^environment 'walking:make' has .*{message}"):
        made(**changed)


def test_a_space_that_cannot_be_asked_for(made):
    with pytest.raises(EnvironmentFault, match="RuntimeError while asked for its action_space: the simulator is not"):
        made(action_space=too_early)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"first": lambda: Walk.observation},
            r"reset\(\) returned an array of float32 of shape \(3,\); exp",
        ),
        ({"first": lambda: None}, r"reset\(\) returned None; expected \(observation, info\)"),
        ({"first": lambda: (Walk.observation, None)}, r"reset\(\) returned None as info; expected a dict"),
        ({"observation": np.zeros(4)}, r"array of shape \(4,\) as observation; expected shape \(3,\)"),
        ({"observation": ["a", "b", "c"]}, "a list of 3 values as observation; expected numbers"),
        ({"observation": [[1.0], [1.0, 2.0]]}, "a list of 2 values as observation; expected numbers"),
        ({"observation": np.zeros(3, complex)}, "an array of complex128 .* as observation; expected numbers"),
        ({"observation": None}, "None as observation; expected numbers"),
        (
            {"later": lambda: (Walk.observation, 1.0, True, {})},
            r"step\(\) returned a tuple of 4 values; exp",
        ),
        ({"later": lambda: None}, r"step\(\) returned None; expected"),
        ({"later": step_with(observation=np.zeros(2))}, r"shape \(2,\) as observation; expected shape \(3,\)"),
        ({"later": step_with(reward=None)}, "None as the reward; expected a number"),
        ({"later": step_with(reward=np.zeros(2))}, r"shape \(2,\) as the reward"),
        ({"later": step_with(reward="1")}, "a str as the reward"),
        ({"later": step_with(terminated=None)}, "None as terminated; expected True or False"),
        ({"later": step_with(truncated="no")}, "a str as truncated"),
        ({"later": step_with(info=[])}, "a list of 0 values as info"),
        (
            {"observation_space": spaces.Dict(a=BOX, b=spaces.Discrete(2)), "observation": {"a": np.zeros(3)}},
            "the keys a as observation; expected the keys a, b",
        ),
        (
            {"observation_space": spaces.Dict(a=spaces.Tuple([BOX])), "observation": {"a": (np.zeros(4),)}},
            r"array of shape \(4,\) as observation\['a'\]\[0\]",
        ),
        (
            {"observation_space": spaces.Tuple([BOX]), "observation": np.zeros(3)},
            "expected a tuple of 1",
        ),
    ],
)
def test_what_an_environment_returns_is_told_by_its_form(made, changed, message):
    with pytest.raises(EnvironmentFault, match=f"^environment 'walking:make': .*{message}"):
        made(**changed)


def test_a_script_that_ends_itself_does_not_end_the_training_in_silence(made):
    with pytest.raises(EnvironmentFault, match=r"raised SystemExit while being stepped \(step 2\): 3"):
        made(later=lambda: sys.exit(3))


@pytest.mark.parametrize("number", [True, 2, 0.5, np.float64(2), np.int8(1), np.array(1.5), torch.tensor(0.5)])
def test_every_kind_of_number_is_a_reward(made, number):
    assert len(made(later=step_with(reward=number, terminated=np.bool_(False)))) == 4


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_observations_need_not_be_of_the_spaces_type(made, kind):
    for row in made(observation=kind([0.5, 0.0, 1.0])):
        np.testing.assert_array_equal(row, np.float32([[0.5, 0, 1]] * 2))


def test_keys_of_several_types_keep_their_order(made):
    space = spaces.Dict({"b": BOX, 7: spaces.Discrete(2)})
    for row in made(observation_space=space, observation={7: 1, "b": [1.0, 2.0, 3.0]}):
        np.testing.assert_array_equal(row, [[1.0, 2.0, 3.0, 0.0, 1.0]] * 2)
        np.testing.assert_array_equal(row[0], spaces.flatten(space, {7: 1, "b": np.array([1.0, 2.0, 3.0])}))

"""What a user's environment declares and returns, checked: one line says what is wrong, and what gymnasium expects.

gymnasium's vector environments take an environment's word for it, and fail somewhere inside with an error that names
neither the environment nor the mistake.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from stablegrad.environments.faults import faults_of
from stablegrad.errors import EnvironmentFault, UsageError

NUMBERS = "biuf"  # kinds of NumPy types: booleans, integers and floating-point numbers


def declared_spaces(env_id: str, env: gymnasium.Env | gymnasium.vector.VectorEnv) -> tuple[spaces.Space, spaces.Space]:
    """The observation space and the action space of one environment.

    Raises:
        UsageError: one is missing, is no gymnasium space, or holds nothing.
        EnvironmentFault: asking for it raised.
    """
    prefix = "single_" if isinstance(env, gymnasium.vector.VectorEnv) else ""
    names = f"{prefix}observation_space", f"{prefix}action_space"
    found = []
    for name in names:
        with faults_of(env_id, f"asked for its {name}"):
            space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            has = f"no {name}" if space is None else f"{shown(space)} as its {name}"
            raise UsageError(f"environment {env_id!r} has {has}; expected a space of gymnasium.spaces, set in __init__")
        found.append(space)
    return found[0], found[1]


class CheckedEnv(gymnasium.Wrapper):
    """Checks the form of everything that an environment returns.

    Args:
        env_id: the environment's name, for messages.
        env: the environment.

    Raises:
        EnvironmentFault: from ``reset`` and ``step``, where the environment returns something else than gymnasium's
            interface says.
    """

    def __init__(self, env_id: str, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._env_id = env_id
        self._space = env.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; see ``gymnasium.Env.reset``."""
        result = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._fault("reset()", shown(result), "(observation, info)")
        observation, info = result
        self._check(observation, info, "reset()")
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; see ``gymnasium.Env.step``."""
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._fault("step()", shown(result), "(observation, reward, terminated, truncated, info)")
        observation, reward, terminated, truncated, info = result
        self._check(observation, info, "step()")
        if not _is_number(reward):
            raise self._fault("step()", f"{shown(reward)} as the reward", "a number")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not _is_number(flag):
                raise self._fault("step()", f"{shown(flag)} as {name}", "True or False")
        return observation, reward, terminated, truncated, info

    def _check(self, observation: Any, info: Any, method: str) -> None:
        problem = _mismatch(self._space, observation, "observation")
        if problem is not None:
            raise self._fault(method, *problem)
        if not isinstance(info, dict):
            raise self._fault(method, f"{shown(info)} as info", "a dict")

    def _fault(self, method: str, returned: str, expected: str) -> EnvironmentFault:
        return EnvironmentFault(f"environment {self._env_id!r}: {method} returned {returned}; expected {expected}")


def shown(value: Any) -> str:
    """What a value is, in a few words, for a message."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} value{'s' * (len(value) != 1)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace(" builtins.", " ")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return True
    array = _array(value)
    return array is not None and array.shape == () and array.dtype.kind in NUMBERS


def _mismatch(space: spaces.Space, value: Any, name: str) -> tuple[str, str] | None:
    """(what ``value`` is, what its space expects) where they differ in form; None where they do not."""
    if isinstance(space, spaces.Dict):
        keys = set(value) if isinstance(value, dict) else None
        if keys is None or not keys >= set(space.spaces):
            has = shown(value) if keys is None else f"the keys {', '.join(sorted(map(str, keys)))}"
            return f"{has} as {name}", f"the keys {', '.join(map(str, space.spaces))} of its space"
        parts = [(space[key], value[key], f"{name}[{key!r}]") for key in space.spaces]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return f"{shown(value)} as {name}", f"a tuple of {len(space.spaces)}, as its space says"
        parts = [(part, value[index], f"{name}[{index}]") for index, part in enumerate(space.spaces)]
    else:
        array = _array(value)
        if array is None or array.dtype.kind not in NUMBERS:
            return f"{shown(value)} as {name}", "numbers"
        if array.shape != space.shape:
            return f"an array of shape {array.shape} as {name}", f"shape {space.shape}, as its space says"
        return None
    return next((found for part in parts if (found := _mismatch(*part)) is not None), None)


def _array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # a ragged list; a tensor on another device
        return None

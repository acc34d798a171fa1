"""A user's own environments, named ``package.module:make_env``.

The factory is called without arguments, except for those of ``seed``, ``render_mode`` and ``num_envs`` that its
signature names. With ``num_envs`` it makes a whole gymnasium ``VectorEnv``; otherwise one ``gymnasium.Env`` a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from stablegrad.environments.checked import shown
from stablegrad.environments.contract import EnvironmentSpec
from stablegrad.environments.faults import faults_of
from stablegrad.environments.gymnasium_engine import (
    GymnasiumVectorEnv,
    gymnasium_spec,
    in_sequence,
    require_next_step_autoreset,
)
from stablegrad.errors import UsageError, unknown_name
from stablegrad.targets import import_module, nearest_target


def load_factory(env_id: str) -> Callable[..., Any]:
    """Import the factory that ``package.module:make_env`` names. The current directory is searched first.

    Raises:
        UsageError: not of that form, or there is no such module or attribute, or it cannot be called.
        EnvironmentFault: the module raised while it was imported.
    """
    module_name, _, attribute = env_id.partition(":")
    if (meant := nearest_target(env_id, "make_env")) not in (None, env_id):
        raise UsageError(f"unknown environment {env_id!r}; did you mean {meant!r}?")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UsageError(f"malformed environment factory {env_id!r}; expected package.module:make_env")
    with faults_of(env_id, "its module was imported"):
        module = import_module(module_name, "package.module:make_env")
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        if not public:
            raise UsageError(f"module {module_name!r} has no function {attribute!r}, nor any other")
        raise unknown_name("environment factory", env_id, [f"{module_name}:{name}" for name in public])
    factory = getattr(module, attribute)
    if not callable(factory):
        kind = type(factory).__name__
        raise UsageError(f"{env_id!r} names a value of type {kind}; expected a function that makes an environment")
    return factory


def make_factory_env(env_id: str, seeds: Sequence[int], render: bool) -> GymnasiumVectorEnv:
    """Make ``len(seeds)`` environments with a user's factory.

    Raises:
        UsageError: the factory does not return what it should.
        EnvironmentFault: the factory raised.
    """
    factory = load_factory(env_id)
    num_envs = len(seeds)
    accepted = _accepted(factory)
    if render and "render_mode" not in accepted:
        raise UsageError(f"factory {env_id!r} cannot be rendered: it takes no argument render_mode")
    render_options = {"render_mode": "rgb_array"} if render else {}
    if "num_envs" in accepted:
        # By gymnasium's interface, a vector environment is seeded by one number.
        options = {"num_envs": num_envs, **render_options, **({"seed": seeds[0]} if "seed" in accepted else {})}
        with faults_of(env_id, "being made"):
            vector = factory(**options)
        if not isinstance(vector, gymnasium.vector.VectorEnv):
            raise UsageError(
                f"factory {env_id!r} takes num_envs but returned {shown(vector)}; expected a gymnasium VectorEnv"
            )
    else:
        envs = []
        for seed in seeds:
            with faults_of(env_id, "being made"):
                env = factory(**render_options, **({"seed": seed} if "seed" in accepted else {}))
            if isinstance(env, gymnasium.vector.VectorEnv):
                raise UsageError(f"factory {env_id!r} returned a VectorEnv; expected it to take num_envs")
            if not isinstance(env, gymnasium.Env):
                raise UsageError(f"factory {env_id!r} returned {shown(env)}; expected a gymnasium.Env")
            envs.append(env)
        single_spec = gymnasium_spec(env_id, "factory", envs[0])
        return GymnasiumVectorEnv(single_spec, in_sequence(env_id, envs), seeds, render)
    if vector.num_envs != num_envs:
        raise UsageError(f"factory {env_id!r} returned {vector.num_envs} environments; expected {num_envs}")
    require_next_step_autoreset(env_id, vector)
    return GymnasiumVectorEnv(gymnasium_spec(env_id, "factory", vector), vector, seeds, render)


def factory_spec(env_id: str) -> EnvironmentSpec:
    """Describe what a factory makes: makes one environment and closes it.

    Raises:
        UsageError: the factory does not return what it should.
        EnvironmentFault: the factory raised.
    """
    env = make_factory_env(env_id, [0], render=False)
    env.close()
    return env.spec


def _accepted(factory: Callable[..., Any]) -> set[str]:
    """Names of the arguments that the signature names; ``**kwargs`` promises nothing."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # a callable without a signature, as some built in C
        return set()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

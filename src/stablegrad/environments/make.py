"""An environment's name -> the environment, or its description."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import gymnasium

from stablegrad.environments.action_repeat import ActionRepeat, repeated_spec
from stablegrad.environments.atari import AtariOptions
from stablegrad.environments.catalogue import list_environments
from stablegrad.environments.contract import EnvironmentSpec, VectorEnv
from stablegrad.environments.envpool_engine import EnvpoolVectorEnv, envpool_ids, envpool_spec
from stablegrad.environments.factories import factory_spec, import_module, load_factory, make_factory_env
from stablegrad.environments.gymnasium_engine import GymnasiumVectorEnv, gymnasium_spec, in_sequence, make_single
from stablegrad.environments.seeds import check_seeds
from stablegrad.errors import UsageError, unknown_name
from stablegrad.targets import nearest_target


class _Resolved(NamedTuple):
    engine: Literal["envpool", "gymnasium", "factory"]
    name: str


def make_vector_env(
    env_id: str,
    num_envs: int,
    *,
    seeds: Sequence[int],
    atari: AtariOptions | None = None,
    num_threads: int = 0,
    render: bool = False,
    action_repeat: int = 1,
) -> VectorEnv:
    """Make ``num_envs`` copies of an environment, stepped together.

    Args:
        env_id: one of

            * an id of envpool ("Breakout-v5", "LunarLander-v3"), which is preferred where both have it;
            * an id that is registered in gymnasium;
            * ``package.module:make_env``, a factory of your own (see ``stablegrad.environments.factories``);
            * ``envpool:ID`` or ``gymnasium:ID`` to choose the engine; ``gymnasium:module:ID`` imports the module that
              registers the id first.
        num_envs: number of sub-environments.
        seeds: one seed for each of them, all different; see ``environment_seeds``.
        atari: Atari preprocessing, for envpool's Atari games only; None for its defaults.
        num_threads: threads of envpool; 0 means as many as environments, but no more than processors. The other
            engines run in one thread.
        render: whether ``render()`` will be called.
        action_repeat: how often each action is taken; rewards are summed, and a repeat stops where the episode ends.
            Above 1, all sub-environments are stepped one after the other. Not for Atari, which has ``frame_skip``.

    Raises:
        UsageError: the environment is unknown (names the nearest one), or an argument does not fit it.
        EnvironmentFault: the environment could not be made.
    """
    checked_seeds = check_seeds(seeds, num_envs)
    if num_threads < 0:
        raise UsageError(f"num_threads must be 0 (choose) or more, got {num_threads}")
    resolved = _resolve(env_id)
    engine = resolved.engine
    if engine != "envpool":
        _refuse_atari(env_id, engine, atari)
        if num_threads > 1:
            raise UsageError(f"num_threads {num_threads} is for envpool; {env_id!r} runs in one thread under {engine}")
    if action_repeat == 1:
        return _make(env_id, resolved, checked_seeds, atari, num_threads, render)
    environment_spec(env_id, atari=atari, action_repeat=action_repeat)  # refuses before anything is made
    if engine == "factory" and num_envs > 1:
        _make(env_id, resolved, checked_seeds[:2], atari, 1, False).close()  # only side by side can two be the same one
    parts = [_make(env_id, resolved, [seed], atari, 1, render and i == 0) for i, seed in enumerate(checked_seeds)]
    return ActionRepeat(parts, action_repeat)


def _make(
    env_id: str, resolved: _Resolved, seeds: list[int], atari: AtariOptions | None, num_threads: int, render: bool
) -> VectorEnv:
    engine, name = resolved
    if engine == "envpool":
        return EnvpoolVectorEnv(env_id, name, seeds=seeds, atari=atari, num_threads=num_threads, render=render)
    if engine == "factory":
        return make_factory_env(env_id, seeds, render)
    envs = [make_single(env_id, name, render) for _ in seeds]
    return GymnasiumVectorEnv(gymnasium_spec(env_id, engine, envs[0]), in_sequence(env_id, envs), seeds, render)


def environment_spec(env_id: str, *, atari: AtariOptions | None = None, action_repeat: int = 1) -> EnvironmentSpec:
    """Describe an environment without keeping one.

    envpool is only asked; gymnasium and factories make one environment, which is closed again. That is done once a
    process for each id of gymnasium's registry and each factory, as making one may take long.

    Args:
        env_id: as for ``make_vector_env``.
        atari: as for ``make_vector_env``.
        action_repeat: as for ``make_vector_env``.

    Raises:
        UsageError: the environment is unknown (names the nearest one), or the options do not fit it.
        EnvironmentFault: the environment could not be made.
    """
    engine, name = _resolve(env_id)
    if engine == "envpool":
        return repeated_spec(envpool_spec(env_id, name, atari), action_repeat)
    _refuse_atari(env_id, engine, atari)
    maker = load_factory(env_id) if engine == "factory" else gymnasium.registry[name]
    known = _described.get(env_id)
    if known is None or known[0] is not maker:
        known = _described[env_id] = (maker, _describe(env_id, engine, name))
    return repeated_spec(known[1], action_repeat)


_described: dict[str, tuple[object, EnvironmentSpec]] = {}
"""What ``environment_spec`` has found out, and what made the environment: where that is another one, it asks again."""


def _describe(env_id: str, engine: str, name: str) -> EnvironmentSpec:
    if engine == "factory":
        return factory_spec(env_id)
    env = make_single(env_id, name, render=False)
    spec = gymnasium_spec(env_id, engine, env)
    env.close()
    return spec


def _resolve(env_id: str) -> _Resolved:
    prefix, separator, rest = env_id.partition(":")
    if separator and prefix == "envpool":
        if rest not in envpool_ids():
            raise unknown_name("envpool environment", rest, envpool_ids())
        return _Resolved("envpool", rest)
    if separator and prefix == "gymnasium":
        module, separator, name = rest.rpartition(":")
        if separator:
            import_module(env_id, module)
        if name not in gymnasium.registry:
            raise unknown_name("gymnasium environment", name, gymnasium.registry)
        return _Resolved("gymnasium", name)
    if separator and not rest.isidentifier() and nearest_target(env_id, "make_env") is None:
        raise _unknown(rest)
    if separator:
        return _Resolved("factory", env_id)
    if env_id in envpool_ids():
        return _Resolved("envpool", env_id)
    if env_id in gymnasium.registry:
        return _Resolved("gymnasium", env_id)
    raise _unknown(env_id)


def _unknown(env_id: str) -> UsageError:
    """The error for a name of nothing, with the name that was meant: of one's own file, or under other spellings."""
    known = [info.env_id for info in list_environments()]
    meant = nearest_target(env_id, "make_env")
    if meant is None:
        # The same name in another spelling or version, such as ids of gymnasium's ALE ("PongNoFrameskip-v4").
        meant = max((one for one in known if _bare(one) == _bare(env_id)), key=_most_usual, default=None)
    if meant is not None:
        return UsageError(f"unknown environment {env_id!r}; did you mean {meant!r}?")
    if env_id.endswith(".py") or "/" in env_id or "." in env_id:
        return UsageError(f"unknown environment {env_id!r}; one of your own is named package.module:make_env")
    return unknown_name("environment", env_id, known)


def _bare(env_id: str) -> str:
    """An id without its namespace, its version and what only says how Atari is set up."""
    name = re.sub(r"-v\d+$", "", env_id.rpartition("/")[2]).lower()
    return re.sub(r"(noframeskip|deterministic|-ram|-ramdeterministic|-ramnoframeskip)$", "", name).replace("_", "")


def _most_usual(env_id: str) -> tuple[bool, int]:
    """Sorts ids of one name: those without a namespace last, and by their versions."""
    version = re.search(r"-v(\d+)$", env_id)
    return "/" not in env_id, int(version[1]) if version else 0


def _refuse_atari(env_id: str, engine: str, atari: AtariOptions | None) -> None:
    if atari is not None:
        raise UsageError(f"Atari options are for envpool's Atari games; {env_id!r} runs under {engine}")

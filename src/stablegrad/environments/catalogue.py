"""What can be trained on: a list, made without making any environment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import gymnasium

from stablegrad.environments.envpool_engine import action_kind, envpool_ids, import_path
from stablegrad.packages import is_installed

_FAMILIES: dict[str, tuple[str, Literal["discrete", "continuous"] | None]] = {
    "envpool.atari": ("Atari", "discrete"),
    "envpool.box2d": ("Box2D", None),
    "envpool.classic_control": ("classic control", None),
    "envpool.gfootball": ("Google Research Football", "discrete"),
    "envpool.highway": ("Highway", None),
    "envpool.jumanji": ("Jumanji", None),
    "envpool.minigrid": ("MiniGrid", "discrete"),
    "envpool.mujoco.dmc": ("DeepMind Control", None),
    "envpool.mujoco.gym": ("MuJoCo", "continuous"),
    "envpool.mujoco.metaworld": ("Meta-World", "continuous"),
    "envpool.mujoco.myosuite": ("MyoSuite", "continuous"),
    "envpool.mujoco.playground": ("MuJoCo Playground", "continuous"),
    "envpool.mujoco.robotics": ("Gymnasium-Robotics", "continuous"),
    "envpool.pgx": ("Pgx", None),
    "envpool.procgen": ("Procgen", "discrete"),
    "envpool.toy_text": ("toy text", "discrete"),
    "envpool.vizdoom": ("VizDoom", None),
}
"""envpool's modules: the family's name, and its kind of action where all its members agree and can be trained on.
(Asking envpool for every kind takes ten seconds, most of them for MyoSuite and Atari, which agree.)"""

_NOT_ALONE = {"VizdoomCustom-v1"}
"""Cannot be made by name: it needs a scenario file."""

_GYMNASIUM_NEEDS = {
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.box2d": "Box2D",
    "gymnasium.envs.phys2d": "jax",
    "gymnasium.envs.tabular": "jax",
}
"""Modules of gymnasium, and the package without which their environments cannot be made."""


@dataclass(frozen=True)
class EnvironmentInfo:
    """A line of the list."""

    env_id: str
    """The name to ask for it by."""
    engine: Literal["envpool", "gymnasium"]
    """What runs it."""
    family: str
    """Where it comes from, as people call it: "Atari", "Box2D", "MiniGrid"."""
    actions: Literal["discrete", "continuous"] | None
    """None where only making the environment would tell."""


def list_environments(search: str | None = None) -> list[EnvironmentInfo]:
    """List what can be trained on: envpool's environments, then those that only gymnasium has.

    Left out are environments for several players, those whose actions no agent can take (see
    ``stablegrad.environments.actions``), and those of gymnasium that need a package which is not installed.

    Args:
        search: keep only those with all of these words in their id, family or kind of action, in any letter case;
            None for all.

    Returns:
        Sorted by engine, family and id.
    """
    words = (search or "").lower().split()
    return [info for info in _all_environments() if all(word in _searchable(info) for word in words)]


def gymnasium_ids() -> list[str]:
    """Ids of gymnasium's registry that can be made with what is installed."""
    return [env_id for env_id in gymnasium.registry if _can_be_made(env_id)]


def _searchable(info: EnvironmentInfo) -> str:
    return f"{info.env_id} {info.family} {info.engine} {info.actions or ''}".lower()


def _all_environments() -> list[EnvironmentInfo]:
    from_envpool = list(_envpool_environments())
    known = {info.env_id for info in from_envpool}
    from_gymnasium = [
        EnvironmentInfo(env_id, "gymnasium", _gymnasium_family(env_id), None)
        for env_id in gymnasium_ids()
        if env_id not in known
    ]
    return from_envpool + sorted(from_gymnasium, key=lambda info: (info.family.lower(), info.env_id))


@cache
def _envpool_environments() -> tuple[EnvironmentInfo, ...]:
    found = []
    for env_id in envpool_ids():
        if env_id in _NOT_ALONE:
            continue
        path = import_path(env_id)
        family, known = _FAMILIES.get(path, (path.removeprefix("envpool."), None))
        actions = known or action_kind(env_id)
        if actions is not None:
            found.append(EnvironmentInfo(env_id, "envpool", family, actions))
    return tuple(sorted(found, key=lambda info: (info.family.lower(), info.env_id)))


def _gymnasium_module(env_id: str) -> str:
    entry_point = gymnasium.registry[env_id].entry_point
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")


def _gymnasium_family(env_id: str) -> str:
    return re.sub(r"^gymnasium\.envs\.(\w+).*", r"gymnasium \1", _gymnasium_module(env_id)).replace("_", " ")


def _can_be_made(env_id: str) -> bool:
    module = _gymnasium_module(env_id)
    if module == "gymnasium.envs.registration" or re.match(r"gymnasium\.envs\.?$", module):
        return False  # places of environments that gymnasium has given up; making one only says so
    needed = next((package for prefix, package in _GYMNASIUM_NEEDS.items() if module.startswith(prefix)), None)
    return needed is None or is_installed(needed)

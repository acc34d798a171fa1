"""Algorithms by name: one line each, imported when asked for; a user's own are named ``package.module:ALGORITHM``."""

from __future__ import annotations

import importlib
from functools import cache

from stablegrad.agents.contract import Algorithm
from stablegrad.environments import EnvironmentSpec
from stablegrad.errors import StablegradError, UsageError, unknown_name
from stablegrad.targets import import_module, nearest_target

#: Module of each algorithm, which has its ``ALGORITHM``.
MODULES = {
    "pqn": "stablegrad.agents.pqn",
    "dqn": "stablegrad.agents.dqn",
    "sac": "stablegrad.agents.sac",
    "ppo": "stablegrad.agents.ppo",
    "rainbow": "stablegrad.agents.rainbow",
    "td3": "stablegrad.agents.td3",
    "ddpg": "stablegrad.agents.ddpg",
}
ALGORITHMS = tuple(MODULES)
#: What runs without a word about the algorithm train.
DEFAULT_ALGORITHM = "pqn"
ATTRIBUTE = "ALGORITHM"


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of a name.

    Args:
        name: one of ``ALGORITHMS``, or ``package.module:ALGORITHM`` of one's own; the current directory is searched
            first.

    Raises:
        UsageError: there is none of that name; names the nearest one.
        StablegradError: the module of one's own raised while it was imported.
    """
    if name in MODULES:
        return _known(name)
    if (meant := nearest_target(name, ATTRIBUTE)) not in (None, name):
        raise UsageError(f"unknown algorithm {name!r}; did you mean {meant!r}?")
    module_name, separator, attribute = name.partition(":")
    if not separator or not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise unknown_name("algorithm", name, MODULES)
    try:
        module = import_module(module_name, f"package.module:{ATTRIBUTE}")
    except StablegradError:
        raise
    except (Exception, SystemExit) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StablegradError(f"algorithm {name!r}: its module raised {type(error).__name__}: {reason}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Algorithm):
        there = [f"{module_name}:{key}" for key, value in vars(module).items() if isinstance(value, Algorithm)]
        if there:
            raise unknown_name("algorithm", name, there)
        raise UsageError(f"{name!r} names no Algorithm; expected {module_name}:{ATTRIBUTE} = Algorithm(...)")
    return found


@cache
def _known(name: str) -> Algorithm:
    algorithm: Algorithm = importlib.import_module(MODULES[name]).ALGORITHM
    return algorithm


def check_suits(name: str, spec: EnvironmentSpec) -> None:
    """Raise UsageError where an algorithm cannot be used in an environment; names one that can."""
    algorithm = find_algorithm(name)
    reason = algorithm.supports(spec)
    if reason is None:
        return
    others = [other for other in ALGORITHMS if find_algorithm(other).supports(spec) is None]
    advice = f"; algorithms for it: {', '.join(others)}" if others else ""
    raise UsageError(f"{algorithm.title} {reason}{advice}")

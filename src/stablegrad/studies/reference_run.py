"""A run that another is judged beside: what tells their settings apart, and those settings as a change to try."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.rules import Finding
from stablegrad.errors import StablegradError
from stablegrad.options import flatten
from stablegrad.studies.search_space import train_command
from stablegrad.training.config import RunConfig

NAME = "reference_settings"
#: Options that are told before others: what makes a network large, then what it is made of and trained with.
FIRST = ("algorithm", "torso.depth", "torso.width", "torso.kind", "optimizer.name", "optimizer.adam_learning_rate")
MOST_TOLD = 6
#: Parameters over those of the other network up to which both are of one size.
SAME_SIZE = 1.1


def differing_options(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options of the agent in which two runs differ, as (own, other's), the most telling first.

    Args:
        own: content of a run's config.json.
        other: that of the run beside it.
    """
    sides = [{"algorithm": one.get("algorithm"), **flatten(one.get("agent") or {})} for one in (own, other)]
    names = sorted({*sides[0], *sides[1]}, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def differences_in_words(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Such as "torso.depth small instead of large, optimizer.name kron instead of radam"; "" for none."""
    told = [f"{name} {_shown(other)} instead of {_shown(own)}" for name, (own, other) in differences.items()]
    more = len(told) - MOST_TOLD
    return ", ".join(told[:MOST_TOLD]) + (f" and {more} more option{'s' if more > 1 else ''}" if more > 0 else "")


def is_smaller(own: int | None, other: int | None) -> bool:
    """Whether the other network has clearly fewer parameters, or it is not known."""
    return not own or not other or SAME_SIZE * other < own


def size_in_words(own: int | None, other: int | None) -> str:
    """What the other network is beside the own one, by their numbers of parameters; None: not known."""
    if not own or not other:
        return "a network"
    if not is_smaller(own, other) and not is_smaller(other, own):
        return f"a network of the same size ({other:,} parameters)"
    return f"a {'smaller' if is_smaller(own, other) else 'larger'} network ({other:,} parameters, this one {own:,})"


def reference_prescription(
    own: Mapping[str, Any], differences: Mapping[str, tuple[Any, Any]], behind: Finding | None, where: str
) -> Prescription | None:
    """The settings of a run that learned more, as the first change to try.

    Args:
        own: content of the run's config.json.
        differences: from :func:`differing_options`.
        behind: what says that the other run learned more; None: nothing does.
        where: the other run's folder.

    Returns:
        None where the other did not learn more, there is no difference, or it is another algorithm.
    """
    if behind is None or not differences or "algorithm" in differences:
        return None
    options = {name: other for name, (_, other) in differences.items()}
    try:
        config = RunConfig.from_json(own)
        command = train_command(dataclasses.replace(config, agent=apply_changes(config.agent, options)))
    except StablegradError:  # the environment is not there, or the configuration is of another version
        command = ""
    return Prescription(
        name=NAME,
        title=f"the settings of the run beside: {differences_in_words(differences)}",
        why=f"{behind.reason}. It was seen to learn more with them; which of them does it, a comparison of each tells.",
        rules=(behind.rule,),
        cost=f"not measured; the run beside, '{where}', has it in its summary",
        step_time=1.0,
        memory=1.0,
        code={"cli": command} if command else {},
        live=False,
        options=options,
        helps="it was seen to learn more with them",
    )


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

"""What to change, ranked by the evidence."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stablegrad.diagnostics.interventions import INTERVENTIONS, Intervention
from stablegrad.diagnostics.rules import LEVELS, OUTCOME_RULES, Finding
from stablegrad.diagnostics.sb3_code import AgentSettings
from stablegrad.diagnostics.settings import WriteCommand
from stablegrad.diagnostics.tried import tried

#: Prescriptions at most: what comes after these has little evidence.
MOST = 6

#: How much a finding of a level counts.
LEVEL_WEIGHTS = {"at risk": 1.0, "collapsing": 2.0, "collapsed": 3.0}

#: What weights that were thrown about leave behind.
_DAMAGE = (
    *("dead_units", "dormant_units", "constant_output", "rank_collapse", "no_gradient", "fading_gradient"),
    *("vanishing_gradient", "small_update", "stale_state"),
)
#: What throws weights about or drives outputs away.
_DONE_TO_IT = ("thrown_weights", "diverging_output")
#: What is wrong with the program itself, whatever it leads to.
_PROGRAM = ("leftover_gradient", "unscaled_input", "unscaled_weights", "extreme_rate", "alike_units")
#: Rules whose findings need no answer of their own where one of these rules found the cause in the same network: units
#: that are all dead cut off what lies before them, and an update of numbers that are none is none.
EXPLAINED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_DAMAGE, (*_DONE_TO_IT, *_PROGRAM)),
    "no_gradient": ("dead_units", "nonfinite", *_DONE_TO_IT, *_PROGRAM),
    "no_update": ("nonfinite", "thrown_weights"),
    "thrown_weights": ("diverging_output", *_PROGRAM),
    "diverging_output": ("thrown_weights", *_PROGRAM),
    "constant_output": ("dead_units", *_DONE_TO_IT, *_PROGRAM),
    # Layers behind one that does not move get what it lets through.
    "vanishing_gradient": ("no_update", *_DONE_TO_IT, *_PROGRAM),
    "exploding_gradient": ("no_update", "diverging_output", *_PROGRAM),
    "nonfinite": ("nonfinite_input", "thrown_weights", "diverging_output", *_PROGRAM),
    "starved_rate": _PROGRAM,
    "small_update": ("stale_state", "starved_rate", "thrown_weights", *_PROGRAM),
}

#: The change of the median layer in one update, over its weights, that a learning rate is set for: what early training
#: of healthy networks shows (benchmarks/diagnosis).
HEALTHY_UPDATE = 3e-3
#: Root mean square of a first step of Adam and its like at their usual rate.
USUAL_STEP = 1e-3

#: The step of a monitor's first look.
FIRST_LOOK = 2
#: How well new initial weights answer what was found there already.
INITIAL_WEIGHT = 1.2
#: How well skips answer what is found where a stack of layers loses its gradient: in trials on stacks of 14 to 20
#: layers LayerNorm restored none of three, multi-skip blocks all.
DEPTH_WEIGHT = 1.3
#: Symptoms that explain others only where they were there first.
_FIRST_TO_COME = ("dead_units", "constant_output")


@dataclass(frozen=True)
class Prescription:
    """One change.

    Attributes:
        name: the intervention's name, such as "layer_norm".
        title: the change in a few words.
        why: the evidence that points to it, a sentence.
        rules: names of the rules that found that evidence.
        cost: what it is expected to cost, in words, with the measured factor of a training step.
        step_time: measured time of a training step over that without it.
        memory: bytes over those without it, of the whole training state (weights, gradients, optimizer).
        code: the change as code by stack: "torch", "sb3", "cli".
        live: whether it can be applied to a run without starting over.
        factor: how much to multiply the learning rate by, where that is the change.
        options: values of an agent's options, where the change is none of the catalogue's; None: it is one.
        helps: why it helps, or how often it did, a sentence without a full stop.
    """

    name: str
    title: str
    why: str
    rules: tuple[str, ...]
    cost: str
    step_time: float
    memory: float
    code: dict[str, str] = field(repr=False)
    live: bool
    factor: float | None = None
    options: Mapping[str, Any] | None = None
    helps: str = ""


def prescribe(
    findings: Sequence[Finding],
    fitting: Collection[str] | None = None,
    agent: AgentSettings | None = None,
    command: WriteCommand | None = None,
) -> list[Prescription]:
    """Changes that answer the findings, the most promising first, six at most.

    A change scores, summed over the rules that found something, the weight of the level of the rule's worst finding
    (``LEVEL_WEIGHTS``) times how well the change answers the rule (``Intervention.answers``), times how telling it is
    that it fits at all (``Intervention.telling``). A rule counts once, however many layers it names: twenty layers that
    lose their gradient have one cause. Where an agent has not learned and no rule found a fault of the program, the
    changes that restored at least half of such agents (:mod:`stablegrad.diagnostics.tried`) come first.

    Args:
        findings: what is wrong.
        fitting: names of the interventions that have something to change on the network; None: not known, so all but
            those that fit hardly any healthy network.
        agent: of Stable-Baselines3, for which its code is written; None: it is not known.
        command: writes the command that trains a run with a change; None: no run is known.
    """
    rules = {finding.rule for finding in findings}
    began = {rule: min(finding.since for finding in findings if finding.rule == rule) for rule in rules}
    worst: dict[str, Finding] = {}
    for finding in findings:
        causes = rules.intersection(EXPLAINED_BY.get(finding.rule, ()))
        # A layer that got no gradient at the first look is cut off, or its units are dead; nothing was done to it yet.
        if finding.rule == "no_gradient" and finding.since <= FIRST_LOOK:
            causes &= {"dead_units", "nonfinite"}
        if all(cause in _FIRST_TO_COME and began[cause] > began[finding.rule] for cause in causes):
            known = worst.get(finding.rule)
            if known is None or LEVELS.index(finding.level) > LEVELS.index(known.level):
                worst[finding.rule] = finding
    scores = {
        name: sum(LEVEL_WEIGHTS[finding.level] * _answer(intervention, finding, rules) for finding in worst.values())
        for name, intervention in INTERVENTIONS.items()
        if (name in fitting if fitting is not None else intervention.telling == 1.0)
    }
    records = {name: found for name in scores if (found := tried(name)) is not None} if _has_failed(rules) else {}
    # Equal scores keep the order of the registry.
    ranked = sorted(
        (name for name, score in scores.items() if score > 0 or name in records),
        key=lambda name: (-max(records[name].share if name in records else 0.0, 0.5), -scores[name]),
    )
    ranked = [name for name in ranked if scores[name] > 0 or records[name].share > 0.5]
    return [_prescription(INTERVENTIONS[name], worst, findings, agent, command) for name in ranked[:MOST]]


def _has_failed(rules: Collection[str]) -> bool:
    """Whether an agent has not learned, or less than another, for no reason that a rule could name in the program."""
    return bool({*OUTCOME_RULES, "learns_less"}.intersection(rules)) and not {*_PROGRAM, "nonfinite"}.intersection(
        rules
    )


def _answer(intervention: Intervention, finding: Finding, rules: Collection[str]) -> float:
    """How well a change answers a finding, among the rules that found something."""
    weight = intervention.telling * intervention.answer(finding.rule)
    # That labels are not learned anew has causes of its own.
    if not weight or "slow_relearning" in rules:
        return weight
    # What was there at the first look of all came with the initial weights.
    if intervention.name == "orthogonal_init" and finding.since <= FIRST_LOOK:
        return INITIAL_WEIGHT
    if intervention.name == "multi_skip" and _lost_in_depth(rules):
        return DEPTH_WEIGHT
    return weight


def _lost_in_depth(rules: Collection[str]) -> bool:
    """Whether a stack of layers loses its gradient, or began without: features alike, and gradients that grow."""
    return "vanishing_gradient" in rules or {"rank_collapse", "exploding_gradient"} <= set(rules)


def _prescription(
    intervention: Intervention,
    worst: dict[str, Finding],
    findings: Sequence[Finding],
    agent: AgentSettings | None,
    command: WriteCommand | None,
) -> Prescription:
    answered = sorted(
        (rule for rule in worst if intervention.answer(rule)),
        key=lambda rule: -LEVEL_WEIGHTS[worst[rule].level] * intervention.answer(rule),
    )
    evidence = []
    for rule in answered[:2]:
        others = sum(finding.rule == rule for finding in findings) - 1
        evidence.append(worst[rule].reason + (f" (and {others} more like it)" if others else ""))
    factor = _rate_factor(intervention.name, worst)
    record = tried(intervention.name) if _has_failed(worst) else None
    helps = intervention.helps if record is None else f"{intervention.helps}; {record.in_words}"
    reasons = f"{'; '.join(evidence)}. " if evidence else ""
    return Prescription(
        name=intervention.name,
        title=intervention.title + (f" (times {factor:g})" if factor is not None else ""),
        why=f"{reasons}{helps[0].upper()}{helps[1:]}.",
        rules=tuple(answered),
        cost=intervention.cost,
        step_time=intervention.step_time,
        memory=intervention.memory,
        code=intervention.code(factor, agent, command),
        live=intervention.live,
        factor=factor,
        helps=helps,
    )


def _rate_factor(name: str, worst: dict[str, Finding]) -> float | None:
    """The power of ten that brings updates to a healthy size: 10 to 100,000, or a tenth or a hundredth.

    Where the first steps of an optimizer that normalises them were extreme, the one that makes them usual.
    """
    rules = {"raise_learning_rate": "small_update", "lower_learning_rate": "thrown_weights"}
    if name not in rules:
        return None
    size = worst["extreme_rate"].value if name == "lower_learning_rate" and "extreme_rate" in worst else math.nan
    if USUAL_STEP < size < math.inf:
        return min(10.0 ** round(math.log10(USUAL_STEP / size)), 0.1)
    found = worst[rules[name]].value if rules[name] in worst else math.nan
    away = abs(math.log10(HEALTHY_UPDATE / found)) if 0 < found < math.inf else 0.0
    # Rather too high than too low: early updates of healthy networks are longer than later ones.
    raises = name == "raise_learning_rate"
    # Steps that are far too long make gradients and the steps that follow longer yet: what is seen is too much.
    decades = min(max(math.ceil(away) if raises else math.floor(away), 1), 5 if raises else 2)
    return 10.0**decades if raises else 10.0**-decades

"""From the stages of a decision to one recommendation: a verdict, a stage and a next step that agree with each other.

Pure, and small enough to be tested over all that can happen (tests/studies/test_recommendation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stablegrad.studies.summary import FEW_SEEDS

if TYPE_CHECKING:
    from stablegrad.studies.decision import Effect, Stage


@dataclass(frozen=True)
class Recommendation:
    """What to do.

    Attributes:
        stage: the stage that the verdict is on: the first that is not passed, of those that these runs can pass; the
            last of them where all are.
        verdict: "go" (all of them are passed), "go_on" (none of their criteria is broken, but more is to be measured),
            "no_go" (a criterion is broken), or "wait" (runs are missing, or the probe is).
        next_step: see :class:`~stablegrad.studies.decision.Decision`.
        next_seeds: how many seeds that step takes; None where it says nothing of seeds.
    """

    stage: str
    verdict: str
    next_step: str
    next_seeds: int | None = None


def recommend(
    stages: Sequence[Stage],
    *,
    runs_left: bool,
    sizes: int,
    can_grow: bool,
    small_form: bool,
    solved: bool | None,
    small: Effect,
    small_needed: int | None,
) -> Recommendation:
    """The one recommendation that follows.

    Args:
        stages: probe, trial and scale.
        runs_left: whether runs are missing.
        sizes: how many sizes of network there are.
        can_grow: with one size: whether the next step can be the same with a bigger network. If not, these runs are
            judged by the probe and the trial alone.
        small_form: whether this is the small form of a study.
        solved: whether the candidate reaches the score at which its task counts as solved; None where there is none.
        small: the advantage at the smallest size.
        small_needed: pairs that would settle it; None where no feasible number would.
    """
    judged = list(stages) if sizes > 1 or can_grow else list(stages[:2])
    current = next((stage for stage in judged if stage.state != "passed"), judged[-1])
    if current.state == "failed":
        return Recommendation(current.name, "no_go", *_after_failure(current.name, small, small_needed))
    if runs_left:
        return Recommendation(current.name, "wait", "finish")
    if current.state == "passed":
        if small_form:
            return Recommendation(current.name, "go", "full_form")
        if solved is False:
            return Recommendation(current.name, "go_on", "longer")
        return Recommendation(current.name, "go", "adopt")
    if current.name == "probe":
        return Recommendation("probe", "wait", "probe", FEW_SEEDS)
    needed = next(criterion.required for criterion in current.criteria if criterion.code == "pairs")
    seeds = FEW_SEEDS if needed is None else round(needed)
    step = "bigger" if current.name == "scale" and sizes == 1 else "more_seeds"
    return Recommendation(current.name, "go_on", step, seeds)


def _after_failure(stage: str, small: Effect, small_needed: int | None) -> tuple[str, int | None]:
    if stage != "scale":
        return "stop", None
    if small.decisive > 0:
        return "keep_small", None
    # Sure when big and promising when small: no reason to drop the candidate for want of seeds.
    if small.direction > 0 and small_needed is not None and small_needed > small.count:
        return "settle_small", small_needed
    return "stay_small", None

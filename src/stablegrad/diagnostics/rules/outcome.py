"""What came of a training: an agent whose returns say that it has not learned is not healthy.

The other rules look for a cause in the network; these look at the outcome. They speak late, once half of a run is over,
and say nothing where no returns were logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stablegrad.diagnostics.capacity import LOST, newest_capacities
from stablegrad.diagnostics.history import NETWORK, History
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import beginning_of, holds_since
from stablegrad.text import percent

OUTCOME_RULES = frozenset({"not_learned", "fallen_back"})


@dataclass(frozen=True)
class Outcome:
    """The returns of a training, and what they are held against.

    Attributes:
        steps: [T] the steps at which they were logged.
        returns: [T] mean returns of finished episodes.
        budget: steps of the whole run; None: not known, and then what was logged counts as the whole.
        random: return of random play; None: not known.
        target: return at which the task counts as solved, or of a human; None: not known.
        kind: what ``target`` is: "solved" or "human".
    """

    steps: np.ndarray
    returns: np.ndarray
    budget: int | None = None
    random: float | None = None
    target: float | None = None
    kind: str = "solved"


def judge_outcome(outcome: Outcome, history: History, thresholds: Thresholds) -> list[Finding]:
    """What the returns of a training say: not_learned, or fallen_back.

    Where capacity was measured, the reason ends with what the network can still learn. Nothing where there are fewer
    than twice ``slow_looks`` of them, or less than ``Thresholds.late`` of the budget is used.
    """
    steps, returns = outcome.steps, outcome.returns
    if len(returns) < 2 * thresholds.slow_looks:
        return []
    if outcome.budget is not None and steps[-1] < thresholds.late * outcome.budget:
        return []
    found = list(fallen_back(steps, returns, thresholds)) or list(not_learned(outcome, thresholds))
    told = _still_learns(history)
    return [dataclasses.replace(one, reason=f"{one.reason}; {told}") for one in found] if told else found


def improves(outcome: Outcome, thresholds: Thresholds) -> bool:
    """Whether returns still rise: their best, a mean over ``slow_looks``, is of the newest third of the training.

    And it is above the beginning by a quarter of its size and by twice the spread of the first returns.
    """
    looks, returns = thresholds.slow_looks, outcome.returns
    if len(returns) < 2 * looks:
        return False
    means = np.lib.stride_tricks.sliding_window_view(returns, looks).mean(axis=1)
    first = beginning_of(returns, thresholds.reference_looks)
    gained = means.max() - first
    is_gain = gained > max(0.25 * abs(first), 2 * float(np.std(returns[:looks])))
    return bool(is_gain and np.argmax(means) + looks >= len(returns) * 2 / 3 and means[-1] > first + 0.9 * gained)


def lowered(finding: Finding) -> Finding:
    """A finding as it counts while returns still rise: collapsing is a risk only."""
    if finding.level != "collapsing":
        return finding
    return dataclasses.replace(finding, level="at risk", reason=f"{finding.reason} (returns still rise)")


def _still_learns(history: History) -> str:
    """Whether the network could still learn, the worst of several; "" where that was not measured."""
    worst = max(newest_capacities(history).values(), key=lambda one: one.lost, default=None)
    if worst is None:
        return ""
    return "and its network can no longer learn as a fresh one" if worst.lost > LOST else "and its network still could"


def logged_outcome(history: History) -> Outcome:
    """What a loop logged as ``episode_return``."""
    return Outcome(*history.network("episode_return"))


def not_learned(outcome: Outcome, thresholds: Thresholds) -> Iterator[Finding]:
    """Returns that are no better than those of random play or of the training's own beginning.

    Of the last third of the returns, the median. Where a target is known, the measure is the way from random play to
    it; else the gain must stand out of the returns at the beginning, by a tenth of their size or twice their spread.
    That is a risk only: an agent that was good from the start has nothing to gain.
    """
    steps, returns = outcome.steps, outcome.returns
    first, now = beginning_of(returns, thresholds.reference_looks), float(np.median(returns[-(len(returns) // 3) :]))
    since = int(steps[int(np.searchsorted(steps, thresholds.late * steps[-1]))])
    if outcome.random is not None and outcome.target is not None and outcome.target > outcome.random:
        share = (now - outcome.random) / (outcome.target - outcome.random)
        if share < thresholds.way:
            aim = "solved" if outcome.kind == "solved" else "a human's"
            way = f"{percent(share)} of the way from random play" if share > 0 else "no better than random play"
            yield Finding(
                "not_learned", "at risk" if share > thresholds.no_way else "collapsing", NETWORK, since, now,
                outcome.target,
                f"it has not learned: the return is {now:.4g}, {way} ({outcome.random:.4g}; {aim}: "
                f"{outcome.target:.4g})",
            )  # fmt: skip
        return
    floor = first if outcome.random is None else max(first, outcome.random)
    if now - floor < max(0.1 * abs(floor), 2 * float(np.std(returns[: thresholds.slow_looks]))):
        against = "it was at the start" if floor == first else "that of random play"
        yield Finding(
            "not_learned", "at risk", NETWORK, since, now, floor,
            f"it has not learned: the return is {now:.4g}, hardly better than {against} ({floor:.4g})",
        )  # fmt: skip


def fallen_back(steps: np.ndarray, returns: np.ndarray, thresholds: Thresholds) -> Iterator[Finding]:
    """Returns that had risen, lost half of what they had gained and more, and stay down."""
    looks = thresholds.slow_looks
    medians = np.median(np.lib.stride_tricks.sliding_window_view(returns, looks), axis=1)
    first = beginning_of(returns, thresholds.reference_looks)
    best = int(np.argmax(medians))
    gained = medians[best] - first
    if not gained > max(0.25 * abs(first), 2 * float(np.std(returns[:looks]))):
        return
    kept = (medians - first) / gained
    low = (kept < thresholds.kept_return) & (np.arange(len(medians)) > best)
    since = holds_since(low, looks)
    if since is not None:
        at, down = int(steps[best + looks - 1]), int(steps[since + looks - 1])
        yield Finding(
            "fallen_back", "collapsing", NETWORK, down, float(medians[-1]), float(medians[best]),
            f"the return rose from {first:.4g} to {medians[best]:.4g} at step {at:,}, fell to {medians[-1]:.4g}, and "
            "stays down",
        )  # fmt: skip

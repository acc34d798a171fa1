"""The diagnosis of a run that is over, from the figures that it wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stablegrad.diagnostics.history import History, looks_of
from stablegrad.diagnostics.report import Report, beside_in_words
from stablegrad.diagnostics.rules import Outcome, Thresholds, judge
from stablegrad.diagnostics.settings import WriteCommand
from stablegrad.errors import StablegradError

RETURN = "train/return"
#: What cannot be judged without a metric, in words.
NEEDED_FOR = {
    "update_ratio": "the size of updates, and layers that are not trained",
    "weight_norm": "gradients that vanish from layer to layer",
    "error_signal": "gradients that fade or explode against the error",
    "dormant": "dormant, dead and saturated units",
    "effective_rank": "the rank of features",
    "churn": "churn of the policy",
    "output_size": "outputs that diverge or are all the same",
    "input_mean": "shifts of the inputs",
}


def recorded_history(
    rows: Sequence[Mapping[str, Any]], order: Sequence[str] = (), step_name: str = "optimizer steps"
) -> History:
    """What the lines of a metrics.jsonl say of looks.

    Args:
        rows: one dictionary a line, with "step" and figures by ``<metric>/<site>``.
        order: layers and activations in the order of the data's way, as far as it is known.
        step_name: what "step" counts.

    Raises:
        StablegradError: there are no gradients of layers, so there is nothing to judge.
    """
    history = History.from_rows(looks_of(rows) or rows)
    history.set_order(order)
    history.step_name = step_name
    if not history.series("gradient_norm"):
        raise StablegradError(
            "the run recorded no gradient norms of layers (gradient_norm/<layer> in metrics.jsonl): nothing to judge"
        )
    return history


def returns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(steps, mean returns) of the lines of a metrics.jsonl: more than those of looks."""
    found = [(int(row["step"]), float(row[RETURN])) for row in rows if isinstance(row.get(RETURN), int | float)]
    there = [(step, value) for step, value in found if math.isfinite(value)]
    return np.array([step for step, _ in there], np.int64), np.array([value for _, value in there])


def diagnose_recorded(
    rows: Sequence[Mapping[str, Any]],
    thresholds: Thresholds | None = None,
    fitting: frozenset[str] | None = None,
    order: Sequence[str] = (),
    step_name: str = "optimizer steps",
    beside: History | None = None,
    command: WriteCommand | None = None,
    outcome: Outcome | None = None,
) -> Report:
    """Judge the lines of a metrics.jsonl.

    Args:
        rows: as in :func:`recorded_history`, with ``order`` and ``step_name``.
        thresholds: what the rules alarm at.
        fitting: names of the interventions that have something to change on the run's network; None: it is not known.
        order: of layers and activations.
        step_name: what "step" counts.
        beside: of a healthy smaller network in the same task, from :func:`recorded_history`.
        command: writes the command that trains the run with a change; None: for whatever run.
        outcome: the returns and what they are held against; None: their own beginning.

    Returns:
        the report; its notes say what was not recorded and so could not be judged.

    Raises:
        StablegradError: there are no gradients of layers, so there is nothing to judge.
    """
    history = recorded_history(rows, order, step_name)
    # A continuous policy has a churn of its own, which no rule judges.
    recorded = {metric.removeprefix("action_") for metric in history.metrics()}
    missing = [what for metric, what in NEEDED_FOR.items() if metric not in recorded]
    notes = [f"not recorded, so not judged: {'; '.join(missing)}"] if missing else []
    outcome = outcome or Outcome(*returns_of(rows))
    return Report(
        judge(history, thresholds, beside=beside, outcome=outcome),
        history,
        notes,
        fitting=fitting,
        thresholds=thresholds,
        beside=beside_in_words(beside, thresholds),
        command=command,
        outcome=outcome,
    )

"""A comparison folder in, its figures out: returns, paired difference, stability and cost.

``summarize`` only reads. Where there is no number there is None, never a stand-in; only finished runs count in means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stablegrad.studies.comparison import Comparison, RunRecord
from stablegrad.studies.curves import Curve, extract, mean_curve
from stablegrad.studies.scores import without_rounding
from stablegrad.studies.stability import (
    MINIMUM_POINTS,
    Collapse,
    curve_spread,
    early_collapse,
    smooth,
    steps_to_reach,
)
from stablegrad.studies.statistics import (
    MeanInterval,
    mean_interval,
    paired_difference,
    probability_of_improvement,
    share_of_pairs_won,
)

FORMAT = 1
RETURN = "train/return"
COST_PARTS = ("environment", "act", "update", "optimizer", "diagnostics")
FEW_SEEDS = 3  # below, an interval rests on at most one degree of freedom

# What must have been gained before it can be said to be lost: this share of the range of all curves compared.
LEARNED_SHARE = 0.1


def summarize(directory: Path | str, confidence: float = 0.95) -> dict[str, Any]:
    """The figures of a comparison, as JSON values.

    Args:
        directory: a comparison folder; its runs may be finished, failed, stopped or not started.
        confidence: of all intervals.

    Returns:
        ``settings`` [first, second], ``seeds``, ``algorithm``, ``environment``, ``total_steps``, ``confidence``,
        ``tuning`` (sentences on how the settings were tuned), and

        - ``results``: setting -> ``final_returns`` (by seed, None where a run did not finish or ended no episode),
          ``mean``, ``interval``, ``count``, ``parameters``, ``finished`` (how many runs);
        - ``left_out``: runs that count in no mean: setting, seed, status, error;
        - ``difference``: second minus first by seed, ``mean``, ``interval``, ``count``, ``probability_of_improvement``
          of the second over the first, ``pairs_won``, ``pairs_lost``, ``share_of_pairs_won``: all of the seeds with a
          return under both settings;
        - ``stability``: setting -> ``spread`` and ``collapse`` by seed, ``mean_spread``, ``collapsed`` and ``judged``
          (how many runs);
        - ``cost``: setting -> seconds, speed, memory and shares of time; see :func:`cost_of`;
        - ``trade_off``: what the second setting's extra time must buy, and what it bought; see :func:`trade_off`.

    Raises:
        UsageError: the folder holds no comparison.
        StablegradError: a file in it cannot be read.
    """
    comparison = Comparison.read(directory)
    records = {
        setting: [comparison.record(setting, seed) for seed in comparison.seeds] for setting in comparison.settings
    }
    first, second = (records[setting] for setting in comparison.settings)
    config = comparison.configs[comparison.settings[0]]
    results = {setting: _results(runs, confidence) for setting, runs in records.items()}
    cost = {setting: cost_of(runs) for setting, runs in records.items()}
    return {
        "format": FORMAT,
        "settings": list(comparison.settings),
        "seeds": list(comparison.seeds),
        "algorithm": config.get("algorithm"),
        "environment": config.get("env"),
        "total_steps": config.get("total_steps"),
        "confidence": confidence,
        "tuning": list(comparison.tuning),
        "results": results,
        "left_out": [
            {"setting": run.setting, "seed": run.seed, "status": run.status, "error": run.error}
            for pair in zip(first, second, strict=True)
            for run in pair
            if not run.finished
        ],
        "difference": _difference(first, second, confidence),
        "stability": stability_of(records),
        "cost": cost,
        "trade_off": trade_off(comparison.settings, records),
    }


def _results(runs: Sequence[RunRecord], confidence: float) -> dict[str, Any]:
    returns = [run.final_return for run in runs]
    present = [value for value in returns if value is not None]
    parameters = [run.summary["parameters"] for run in runs if run.summary.get("parameters") is not None]
    return {
        "final_returns": returns,
        **(_as_json(mean_interval(present, confidence)) if present else _NO_MEAN),
        "finished": sum(run.finished for run in runs),
        "parameters": parameters[0] if parameters else None,
    }


def _difference(first: Sequence[RunRecord], second: Sequence[RunRecord], confidence: float) -> dict[str, Any]:
    returns = [(before.final_return, after.final_return) for before, after in zip(first, second, strict=True)]
    whole = [before is not None and after is not None for before, after in returns]
    if not any(whole):
        nothing = {"probability_of_improvement": None, "pairs_won": 0, "pairs_lost": 0, "share_of_pairs_won": None}
        return {"by_seed": [None] * len(returns), **_NO_MEAN, **nothing}
    pairs = np.array([pair for pair, both in zip(returns, whole, strict=True) if both], dtype=np.float64)
    befores, afters = without_rounding(pairs[:, 0], pairs[:, 1])
    changes = iter((afters - befores).tolist())
    return {
        "by_seed": [next(changes) if both else None for both in whole],
        **_as_json(paired_difference(befores, afters, confidence)),
        "probability_of_improvement": probability_of_improvement(afters, befores),
        "pairs_won": int((afters > befores).sum()),
        "pairs_lost": int((afters < befores).sum()),
        "share_of_pairs_won": share_of_pairs_won(afters, befores),
    }


def stability_of(records: dict[str, list[RunRecord]]) -> dict[str, Any]:
    """Spread and early collapse of each run by setting, judged beside each other; see :func:`summarize`."""
    curves = {
        setting: [extract(run.metrics, RETURN) if run.finished else None for run in runs]
        for setting, runs in records.items()
    }
    smoothed = [
        smooth(curve.values, 0.1)
        for group in curves.values()
        for curve in group
        if curve is not None and curve.values.size >= MINIMUM_POINTS
    ]
    compared = np.concatenate(smoothed) if smoothed else np.zeros(1)
    minimum_gain = LEARNED_SHARE * float(np.ptp(compared))

    stability = {}
    for setting, group in curves.items():
        spreads = [None if curve is None else curve_spread(*curve) for curve in group]
        collapses = [None if curve is None else early_collapse(*curve, minimum_gain=minimum_gain) for curve in group]
        stability[setting] = {
            "spread": spreads,
            "mean_spread": _over(np.mean, spreads),
            "collapse": [None if collapse is None else _collapse_as_json(collapse) for collapse in collapses],
            "collapsed": sum(collapse.collapsed for collapse in collapses if collapse is not None),
            "judged": sum(collapse is not None for collapse in collapses),
        }
    return stability


def cost_of(runs: Sequence[RunRecord], finished_only: bool = True) -> dict[str, Any]:
    """Time and memory of one setting, over its finished runs (or over all that have a summary).

    ``wall_seconds`` and ``seconds_per_1000_steps`` are means, ``steps_per_second`` a median, ``peak_memory_bytes`` the
    largest. ``parts`` splits the seconds per 1000 steps; its ``other`` is what no part claims. ``shares`` are the same
    parts of the wall time, in [0, 1].
    """
    finished = [run for run in runs if run.finished or not finished_only]
    per_step = _over(np.mean, [_seconds_per_step(run) for run in finished])
    parts: dict[str, float | None] = {}
    for part in COST_PARTS:
        seconds = [
            run.summary["seconds"][part] / run.summary["env_steps"]
            for run in finished
            if (run.summary.get("seconds") or {}).get(part) is not None and run.summary.get("env_steps")
        ]
        parts[part] = 1000 * float(np.mean(seconds)) if seconds else None
    known = [value for value in parts.values() if value is not None]
    thousand = None if per_step is None else 1000 * per_step
    parts["other"] = None if thousand is None or not known else max(0.0, thousand - sum(known))
    return {
        "wall_seconds": _over(np.mean, [run.summary.get("wall_seconds") for run in finished]),
        "steps_per_second": _over(np.median, [run.summary.get("steps_per_second") for run in finished]),
        "seconds_per_1000_steps": thousand,
        "parts": parts,
        "shares": {part: None if value is None or not thousand else value / thousand for part, value in parts.items()},
        "peak_memory_bytes": _over(np.max, [run.summary.get("peak_memory_bytes") for run in finished]),
    }


def trade_off(settings: tuple[str, str], records: dict[str, list[RunRecord]]) -> dict[str, Any]:
    """Whether the second setting's price per step is earned by needing fewer of them; of pairs that are finished.

    - ``time_ratio``: seconds per step, second by first, median over the pairs; ``break_even_steps`` is 1 by it: the
      second setting pays off when it needs at most that share of the first one's steps.
    - ``level``: where the first setting ended: its final mean return, or the end of its mean curve if that is lower, so
      that it reaches the level itself. ``steps_to_level`` and ``seconds_to_level``: when the mean curve of each setting
      was first there (None: never), the seconds at the setting's mean speed. ``level_at_start``: the first setting
      ended no higher than it began, so there was nothing to reach; both are None then. ``steps_share`` and
      ``seconds_share``: second by first.
    - ``equal_time``: the mean curves after the same wall time, as long as the cheaper of the two runs.
    """
    first, second = settings
    pairs = [pair for pair in zip(records[first], records[second], strict=True) if all(run.finished for run in pair)]
    paired = {first: [before for before, _ in pairs], second: [after for _, after in pairs]}
    times = [(_seconds_per_step(before), _seconds_per_step(after)) for before, after in pairs]
    ratios = [after / before for before, after in times if before and after]
    ratio = float(np.median(ratios)) if ratios else None
    curves = {setting: mean_curve([extract(run.metrics, RETURN) for run in runs]) for setting, runs in paired.items()}
    cost = {setting: cost_of(runs) for setting, runs in paired.items()}

    level = None
    mean = _over(np.mean, [run.final_return for run in paired[first]])
    if mean is not None and all(curve.values.size for curve in curves.values()):
        level = min(mean, float(curves[first].values[-1]))
    at_start = level is not None and steps_to_reach(*curves[first], level) == round(curves[first].steps[0])
    steps = {
        setting: None if level is None or at_start else steps_to_reach(*curve, level)
        for setting, curve in curves.items()
    }
    seconds = {setting: _times(steps[setting], cost[setting]["seconds_per_1000_steps"]) for setting in settings}
    return {
        "time_ratio": ratio,
        "break_even_steps": None if ratio is None else 1 / ratio,
        "level": level,
        "level_at_start": at_start,
        "steps_to_level": steps,
        "seconds_to_level": seconds,
        "steps_share": _ratio(steps[second], steps[first]),
        "seconds_share": _ratio(seconds[second], seconds[first]),
        "equal_time": _equal_time(settings, curves, ratio),
    }


def _equal_time(settings: tuple[str, str], curves: dict[str, Curve], ratio: float | None) -> dict[str, Any] | None:
    if ratio is None or not all(curve.steps.size for curve in curves.values()):
        return None
    first, second = settings
    end = {setting: float(curves[setting].steps[-1]) for setting in settings}
    # in units of the first setting's seconds per step
    budget = min(end[first], end[second] * ratio)
    at = {first: budget, second: budget / ratio}
    if any(at[setting] < curves[setting].steps[0] for setting in settings):
        return None
    return {
        setting: {"step": round(at[setting]), "return": float(np.interp(at[setting], *curves[setting]))}
        for setting in settings
    }


_NO_MEAN: dict[str, Any] = {"mean": None, "interval": None, "count": 0}


def _as_json(estimate: MeanInterval) -> dict[str, Any]:
    interval = None if estimate.interval is None else [float(end) for end in estimate.interval]
    return {"mean": float(estimate.mean), "interval": interval, "count": estimate.count}


def _collapse_as_json(collapse: Collapse) -> dict[str, Any]:
    return {
        "collapsed": collapse.collapsed,
        "step": collapse.step,
        "best_step": collapse.best_step,
        "lost_share": collapse.lost_share,
    }


def _seconds_per_step(run: RunRecord) -> float | None:
    seconds, steps = run.summary.get("wall_seconds"), run.summary.get("env_steps")
    return seconds / steps if seconds is not None and steps else None


def _over(function: Callable[[list[float]], Any], values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(function(present)) if present else None


def _times(steps: int | None, seconds_per_1000: float | None) -> float | None:
    return None if steps is None or seconds_per_1000 is None else steps * seconds_per_1000 / 1000


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator

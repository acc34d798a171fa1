"""The figures of a comparison in words: a verdict of a few sentences, and the rows of a table."""

from __future__ import annotations

from typing import Any

from stablegrad.studies.summary import FEW_SEEDS
from stablegrad.text import MISSING, duration, memory, number, percent


def verdict(summary: dict[str, Any]) -> list[str]:
    """What a comparison shows, how sure it is, and what it costs, in plain sentences.

    The first sentence is the answer. Nothing is claimed where the interval of the paired difference includes 0.

    Args:
        summary: from :func:`stablegrad.studies.summary.summarize`.
    """
    return [
        *_answer(summary),
        *_certainty(summary),
        *summary.get("tuning", ()),
        *_steadiness(summary),
        *_price(summary),
        *_left_out(summary),
    ]


def comparison_rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The comparison as a table: (label, first setting, second setting), ready to print.

    Args:
        summary: from :func:`stablegrad.studies.summary.summarize`.
    """
    first, second = summary["settings"]
    results, stability, cost = summary["results"], summary["stability"], summary["cost"]
    difference, trade = summary["difference"], summary["trade_off"]
    pairs, confidence = difference["count"], percent(summary["confidence"])

    def both(label: str, show: Any) -> tuple[str, str, str]:
        return label, show(first), show(second)

    unequal = results[first]["count"] != results[second]["count"]

    def mean(name: str) -> str:
        count = results[name]["count"]
        return _with_interval(results[name]) + (f", {_count(count)}" if unequal and count > 1 else "")

    rows = [
        both(f"Final return, mean ({confidence} interval)", mean),
        both("Final return by seed", lambda name: _by_seed(summary, results[name]["final_returns"])),
        (f"Paired difference ({confidence} interval)", MISSING, _with_interval(difference, signed=True)),
        ("Probability of improvement", MISSING, _probability(difference["probability_of_improvement"])),
        ("Pairs won", _of(difference["pairs_lost"], pairs), _of(difference["pairs_won"], pairs)),
        both("Early collapse", lambda name: _of(stability[name]["collapsed"], stability[name]["judged"])),
        both("Spread of the curve", lambda name: number(stability[name]["mean_spread"])),
        both("Parameters", lambda name: number(results[name]["parameters"])),
        both("Time of a run", lambda name: duration(cost[name]["wall_seconds"])),
        both("Steps per second (median)", lambda name: number(cost[name]["steps_per_second"])),
        both("Seconds per 1,000 steps", lambda name: number(cost[name]["seconds_per_1000_steps"])),
        ("Time of a step, relative", "1", number(trade["time_ratio"])),
        both("Optimizer's share of the time", lambda name: percent(cost[name]["shares"]["optimizer"])),
        both("Peak memory", lambda name: memory(cost[name]["peak_memory_bytes"])),
        both(f"Steps to a return of {number(trade['level'])}", lambda name: _reached(trade, name)),
        both("Finished runs", lambda name: _of(results[name]["finished"], len(summary["seeds"]))),
    ]
    return rows


def _answer(summary: dict[str, Any]) -> list[str]:
    first, second = summary["settings"]
    difference = summary["difference"]
    if difference["count"] == 0:
        return [f"No seed has a return under both {first} and {second} yet, so there is nothing to compare."]
    means = [_paired_mean(summary, name) for name in (first, second)]
    values = f"{number(means[1])} against {number(means[0])}"
    change = number(difference["mean"], signed=True)
    if difference["interval"] is None:
        words = "above" if difference["mean"] > 0 else "below" if difference["mean"] < 0 else "level with"
        return [
            f"In the one pair of runs, {second} ended {words} {first}: a final return of {values} ({change}). "
            "One pair cannot tell an effect from chance."
        ]
    low, high = difference["interval"]
    interval = f"{summary['confidence']:.0%} interval {number(low, signed=True)} to {number(high, signed=True)}"
    change = f"a paired difference of {change} ({interval})"
    if low == high == 0:
        return [
            f"{second} and {first} ended at exactly the same returns in every pair: do their settings differ at all?"
        ]
    if low > 0:
        return [f"{second} reached a higher final return than {first}: {values}, {change}."]
    if high < 0:
        return [f"{second} did worse than {first}: a final return of {values}, {change}."]
    return [
        f"Inconclusive: {second} and {first} ended at {number(means[1])} and {number(means[0])}, {change}; "
        "the interval includes 0, so chance alone could explain it. More seeds would narrow it."
    ]


def _paired_mean(summary: dict[str, Any], name: str) -> float:
    """Mean final return of a setting over complete pairs, so that two such means differ by the paired difference."""
    paired = [
        value
        for value, difference in zip(
            summary["results"][name]["final_returns"], summary["difference"]["by_seed"], strict=True
        )
        if difference is not None
    ]
    return float(sum(paired) / len(paired))


def _certainty(summary: dict[str, Any]) -> list[str]:
    first, second = summary["settings"]
    difference = summary["difference"]
    probability = difference["probability_of_improvement"]
    sentences = []
    if difference["count"] > 1:
        level = difference["count"] - difference["pairs_won"] - difference["pairs_lost"]
        tied = f" and was level in {level}" if level else ""
        sentences.append(
            f"{second} won {difference['pairs_won']}{tied} of {difference['count']} pairs of runs with the same seed; "
            f"of these runs, one of {second} beats one of {first} with a probability of {probability:.2f}."
        )
    if 0 < difference["count"] < FEW_SEEDS:
        sentences.append(f"Fewer than {FEW_SEEDS} paired seeds: a first look, not evidence; use {FEW_SEEDS} or more.")
    return sentences


def _steadiness(summary: dict[str, Any]) -> list[str]:
    first, _ = summary["settings"]
    if summary["trade_off"]["level_at_start"]:
        return [f"{first} ended no higher than it began: on average it learned nothing that lasted."]
    stability = summary["stability"]
    if not all(stability[name]["judged"] for name in summary["settings"]):
        return []
    counts = [
        f"{stability[name]['collapsed']} of {stability[name]['judged']} runs of {name}" for name in summary["settings"]
    ]
    if not any(stability[name]["collapsed"] for name in summary["settings"]):
        judged = sum(stability[name]["judged"] for name in summary["settings"])
        return [f"None of {judged} runs learned something and lost it again (no early collapse)."]
    return [f"Early collapse, what had been learned lost for good, struck {counts[0]} and {counts[1]}."]


def _price(summary: dict[str, Any]) -> list[str]:
    first, second = summary["settings"]
    trade = summary["trade_off"]
    if trade["time_ratio"] is None:
        return []
    ratio = trade["time_ratio"]
    if ratio > 1.005:
        sentences = [
            f"A step of {second} takes {number(ratio)} times as long, so it pays off when it needs at most "
            f"{trade['break_even_steps']:.0%} of the steps of {first}."
        ]
    else:
        sentences = [f"A step of {second} takes no longer than one of {first} ({number(ratio)} times its time)."]
    if trade["level"] is None or trade["level_at_start"]:
        return sentences + _equal_time(summary)
    level = f"the return at which {first} ended ({number(trade['level'])})"
    steps = trade["steps_to_level"]
    if steps[second] is None:
        sentences.append(f"{second} never reached {level}, so here it did not pay off.")
    elif steps[first] is not None:
        sentences.append(
            f"On average {second} was at {level} after {number(steps[second])} steps, {first} after "
            f"{number(steps[first])}; in time, {duration(trade['seconds_to_level'][second])} against "
            f"{duration(trade['seconds_to_level'][first])}."
        )
    return sentences + _equal_time(summary)


def _equal_time(summary: dict[str, Any]) -> list[str]:
    equal = summary["trade_off"]["equal_time"]
    if equal is None:
        return []
    first, second = summary["settings"]
    return [
        f"After the same wall time ({number(equal[second]['step'])} steps of {second}, {number(equal[first]['step'])} "
        f"of {first}) the returns were {number(equal[second]['return'])} and {number(equal[first]['return'])}."
    ]


def _left_out(summary: dict[str, Any]) -> list[str]:
    sentences = []
    failed = [run for run in summary["left_out"] if run["status"] == "failed"]
    others = [run for run in summary["left_out"] if run["status"] != "failed"]
    if failed:
        runs = "; ".join(f"{run['setting']} seed {run['seed']} ({run['error']})" for run in failed)
        sentences.append(f"{_count(len(failed))} failed and left out of all means: {runs}.")
    if others:
        runs = ", ".join(f"{run['setting']} seed {run['seed']}" for run in others)
        sentences.append(
            f"{_count(len(others))} not finished and left out of all means: {runs}. "
            "The same command continues from there."
        )
    silent = [
        f"{name} seed {seed}"
        for name in summary["settings"]
        for seed, value in zip(summary["seeds"], summary["results"][name]["final_returns"], strict=True)
        if value is None and not any(run["setting"] == name and run["seed"] == seed for run in summary["left_out"])
    ]
    if silent:
        sentences.append(f"No final return is known of {', '.join(silent)}, as where no episode ended.")
    return sentences


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _reached(trade: dict[str, Any], name: str) -> str:
    if trade["level"] is None:
        return MISSING
    if trade["level_at_start"]:
        return "at the start"
    steps = trade["steps_to_level"][name]
    return "never" if steps is None else number(steps)


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" if total else MISSING


def _probability(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _with_interval(estimate: dict[str, Any], signed: bool = False) -> str:
    if estimate["mean"] is None:
        return MISSING
    if estimate["interval"] is None:
        return f"{number(estimate['mean'], signed)} (one value)"
    low, high = estimate["interval"]
    return f"{number(estimate['mean'], signed)} ({number(low, signed)} to {number(high, signed)})"


def _by_seed(summary: dict[str, Any], values: list[float | None]) -> str:
    """Values in the order of the seeds; a failed or unfinished run is named as such by the caller's other rows."""
    return ", ".join(f"{seed}: {number(value)}" for seed, value in zip(summary["seeds"], values, strict=True))

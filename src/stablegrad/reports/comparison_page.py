"""report.html of a comparison: the verdict first, then the evidence, the price, and how to run it again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from stablegrad.errors import command
from stablegrad.files import write_json
from stablegrad.pages import write_page
from stablegrad.reports.figures import write_figures
from stablegrad.reports.page import colour_scale, cost_figure, gradient_figures, option_rows, return_figure
from stablegrad.reports.series import gradient_maps, records_by_setting, return_series
from stablegrad.studies.comparison import Comparison
from stablegrad.studies.summary import summarize
from stablegrad.studies.wording import comparison_rows, verdict
from stablegrad.text import MISSING, duration, number


def write_comparison_report(directory: Path | str) -> Path:
    """Write ``report.html``, ``figures/*.png`` and the figures behind them, ``comparison_summary.json``.

    Args:
        directory: a comparison folder; runs that have not finished are shown as such.

    Returns:
        the path of report.html.

    Raises:
        UsageError: the folder holds no comparison.
        StablegradError: a file in it cannot be read.
    """
    comparison = Comparison.read(directory)
    summary = summarize(directory)
    records = records_by_setting(comparison)
    series = return_series(records, summary)
    maps = gradient_maps(records)
    sentences = verdict(summary)
    write_json(comparison.summary_path, summary)
    write_figures(directory)
    return write_page(
        comparison.directory / "report.html",
        "reports/templates/comparison.html",
        title=f"{comparison.settings[1]} against {comparison.settings[0]}: "
        f"{summary['algorithm']} on {summary['environment']}",
        settings=comparison.settings,
        summary=summary,
        steps=number(summary["total_steps"]),
        answer=sentences[0],
        sentences=sentences[1:],
        rows=comparison_rows(summary),
        curves=return_figure(series),
        curves_by_time=return_figure(series, against_time=True),
        gradients=gradient_figures(maps) if maps else [],
        scale=colour_scale(maps) if maps else None,
        cost=cost_figure(summary["cost"]),
        seeds=_seed_rows(summary, comparison),
        trade=_trade_rows(summary),
        options=option_rows([comparison.configs[name] for name in comparison.settings]),
        command=shlex.join(comparison.command) if comparison.command else None,
        again=command("report", comparison.directory),
        resume=command("resume", comparison.run_folder(comparison.settings[0], comparison.seeds[0]).path),
    )


def _seed_rows(summary: dict[str, Any], comparison: Comparison) -> list[dict[str, str]]:
    """Every run in one line: what it returned, how steady it was, what became of it."""
    left_out = {(run["setting"], run["seed"]): run for run in summary["left_out"]}
    rows = []
    for index, seed in enumerate(comparison.seeds):
        for setting in comparison.settings:
            run = left_out.get((setting, seed))
            value = summary["results"][setting]["final_returns"][index]
            spread = summary["stability"][setting]["spread"][index]
            collapse = summary["stability"][setting]["collapse"][index]
            if collapse is None:
                collapsed = MISSING
            elif collapse["collapsed"]:
                collapsed = f"yes, from step {number(collapse['step'])}"
            else:
                collapsed = "no"
            state = "finished" if run is None else run["status"]
            rows.append(
                {
                    "seed": str(seed),
                    "setting": setting,
                    "final": number(value),
                    "spread": number(spread),
                    "collapse": collapsed,
                    "state": state if run is None or run["error"] is None else f"{state}: {run['error']}",
                }
            )
    return rows


def _trade_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The account of cost and gain: what is needed to break even, and what was measured."""
    first, second = summary["settings"]
    trade = summary["trade_off"]
    rows = []
    if trade["time_ratio"] is not None:
        rows.append(
            (f"Time of a step, {second} by {first} (median over pairs)", f"{number(trade['time_ratio'])} times")
        )
        rows.append(
            (f"Break-even: {second} may need at most", f"{trade['break_even_steps']:.0%} of the steps of {first}")
        )
    if trade["steps_share"] is not None:
        rows.append(
            (f"Measured: to a return of {number(trade['level'])} it needed", f"{trade['steps_share']:.0%} of the steps")
        )
    if trade["seconds_share"] is not None:
        times = trade["seconds_to_level"]
        rows.append(
            (
                "and of the time",
                f"{trade['seconds_share']:.0%} ({duration(times[second])} against {duration(times[first])})",
            )
        )
    if trade["level"] is not None and not trade["level_at_start"] and trade["steps_to_level"][second] is None:
        rows.append((f"Measured: to a return of {number(trade['level'])}", f"{second} never came"))
    if trade["equal_time"] is not None:
        for name in (first, second):
            point = trade["equal_time"][name]
            rows.append(
                (f"Return after equal time, {name}", f"{number(point['return'])} (at step {number(point['step'])})")
            )
    return rows

"""The end of a search: its best trial against the baseline, on seeds that no trial has used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stablegrad.files import write_json
from stablegrad.studies.comparison import Comparison
from stablegrad.studies.execution import run_comparison
from stablegrad.studies.plan import makespan
from stablegrad.studies.search_folder import CONFIRMATION, CONFIRMATION_PRESCRIPTION, MARGIN, Clock, SearchFolder
from stablegrad.studies.search_result import best_prescription
from stablegrad.studies.summary import summarize
from stablegrad.training.config import RunConfig

#: A process of a comparison imports everything anew before its run begins.
START_SECONDS = 5.0


def seconds_for(runs: Sequence[float], workers: int) -> float:
    """Seconds to plan for a comparison's runs, given those that such runs took in the search."""
    return MARGIN * makespan([START_SECONDS + seconds for seconds in runs], workers)


class _TimeIsUp(Exception):
    """Raised in a comparison's progress to end it."""


def confirm(
    folder: SearchFolder,
    trials: Sequence[Any],
    workers: int,
    clock: Clock,
    on_event: Callable[[str], None],
    command: Sequence[str] | None,
    signals: Sequence[int],
) -> None:
    """Hold the winner against the baseline, then against the best prescription; nothing to do where that is the winner.

    Args:
        folder: the search's folder, whose winner is known; its state gets the seconds that this takes.
        trials: Optuna's, in their order.
        workers: runs at once.
        clock: says when time is up.
        on_event: called with a line whenever something begins or ends.
        command: for the reports.
        signals: what asked to stop outside of a comparison, which has handlers of its own.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    winner = trials[folder.state["winner"]]
    if winner.user_attrs["source"] == "baseline":
        return
    begun, before = time.monotonic(), folder.state["spent"]["confirmation_seconds"]
    plan, best = folder.plan, _config_of(folder, winner)

    def compare(name: str, configs: Mapping[str, RunConfig]) -> None:
        if signals:
            raise KeyboardInterrupt
        on_event(f"{name}: {' against '.join(configs)} on fresh seeds {', '.join(map(str, plan.fresh))}")
        try:
            run_comparison(
                folder.directory / name, configs, plan.fresh, workers=workers, on_progress=look, command=command
            )
        except _TimeIsUp:
            on_event(f"time is up in the {name}: it has the pairs that are finished")
            summary = summarize(folder.directory / name)
            write_json(folder.directory / name / "comparison_summary.json", summary)

    def look(_: object) -> None:
        folder.state["spent"]["confirmation_seconds"] = round(before + time.monotonic() - begun, 1)
        clock.save_now_and_then()
        if clock.spent > plan.limit:
            raise _TimeIsUp

    compare(CONFIRMATION, {"baseline": plan.base, "best": best})
    prescription = best_prescription(trials)
    if prescription is None or prescription.number == winner.number:
        return
    run_seconds = float(prescription.user_attrs["seconds"]) / len(plan.seeds)
    if clock.spent + seconds_for([run_seconds] * plan.confirm_seeds, workers) > plan.limit:
        on_event("no time is left to hold the best trial against the best prescription")
        return
    configs = {"prescription": _config_of(folder, prescription), "best": best}
    comparison = Comparison.open(folder.directory / CONFIRMATION_PRESCRIPTION, configs, plan.fresh, command)
    shared = comparison.directory / "runs" / "best"  # the winner's runs on these seeds are made already
    shared.parent.mkdir(exist_ok=True)
    if not shared.is_symlink():
        shared.symlink_to(Path("../..") / CONFIRMATION / "runs" / "best")
    compare(CONFIRMATION_PRESCRIPTION, configs)


def _config_of(folder: SearchFolder, trial: Any) -> RunConfig:
    return RunConfig.from_json(folder.run_folder(trial.number, folder.plan.seeds[0]).read_config())

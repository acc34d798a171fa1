"""Scores at equal time: what each setting reaches in the time that the fastest one takes for all its steps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from stablegrad.environments.atari_scores import human_normalized_score
from stablegrad.studies.curves import extract
from stablegrad.studies.kinds import HUMAN_NORMALIZED, RELEARN
from stablegrad.studies.study import Run
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.summary import RETURN
from stablegrad.studies.table import RETURNS, Estimate, Row, Table, average

AFTER = "return_after"


@dataclass(frozen=True)
class EqualTime:
    """One setting at one size on one task.

    Attributes:
        task: the environment.
        size: of the network, "" where the study has no such axis.
        setting: its name.
        score: the score after all steps.
        seconds: the time that the fastest setting takes here for all its steps, mean over its seeds.
        after: the return after that time, of the same scale as the score.
        rows: its runs.
    """

    task: str
    size: str
    setting: str
    score: Estimate
    seconds: float
    after: Estimate
    rows: tuple[Row, ...]


def equal_time(folder: StudyFolder, table: Table) -> list[EqualTime]:
    """Every setting of a study of agents; empty without settings, or where the score is none of training's returns."""
    if table.kind == RELEARN or table.score not in ("final_return", HUMAN_NORMALIZED) or not table.settings:
        return []
    found = []
    runs = {run.name: run for run in folder.study.runs}
    for task in table.tasks:
        on_task = [row for row in table.rows if row.task == task]
        for size, own in table.groups(on_task, table.sizes).items():
            groups = table.groups(own, table.settings)
            times = [average(group, "wall_seconds").value for group in groups.values()]
            known = [seconds for seconds in times if seconds]
            if not known:
                continue
            seconds = min(known)
            for setting, group in groups.items():
                timed = [_after(folder, runs[row.name], row, seconds, table.score) for row in group]
                found.append(
                    EqualTime(
                        task,
                        table.label(table.sizes, size) if table.sizes else "",
                        table.label(table.settings, setting),
                        average(group, table.score),
                        seconds,
                        average(timed, AFTER),
                        tuple(group),
                    )
                )
    return found


def _after(folder: StudyFolder, run: Run, row: Row, seconds: float, score: str) -> Row:
    """The run with its return after some seconds, at its mean speed; a run that had no episode by then has none."""
    wall = row.figures.get("wall_seconds")
    value = None
    if wall:
        curve = extract(folder.run_folder(run).read_metrics(), RETURN)
        step = seconds / wall * row.budget
        if curve.steps.size and step >= curve.steps[0]:
            value = float(np.interp(step, curve.steps, curve.values))
            if score in RETURNS.values():
                value = human_normalized_score(row.task, value).item()
    return dataclasses.replace(row, figures={AFTER: value})

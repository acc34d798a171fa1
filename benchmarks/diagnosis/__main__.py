"""The rules on small trainings with one planted fault, and on healthy ones.

    python -m benchmarks.diagnosis [--part drawn] [--runs FOLDER] [--no-prescriptions]

Trainings are drawn by number and take a second or so each. Rules may be tuned on the numbers of ``drawn``; those of
``drawn-held-out`` were measured once. Real trainings of agents are the corpus (``benchmarks.diagnosis.corpus``). With
``--runs`` what was measured is kept in a folder and taken from there the next time, so that changed rules are scored
without training anew; delete a file to measure it again.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import tyro
from benchmarks.common import save
from benchmarks.diagnosis import scoring, trial
from benchmarks.diagnosis.scenarios import KEPT, PARTS, SCENARIOS
from benchmarks.diagnosis.scoring import Judged

from stablegrad.diagnostics import History
from stablegrad.diagnostics.trial import TOP

NAME = "diagnosis"
#: Prescriptions that are tried where the first does not restore.
TRIED = TOP


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    part: Literal["all", "drawn", "drawn-held-out"] = "all"
    """Which scenarios; one part alone has a file of results of its own."""
    runs: Path | None = None
    """Folder in which measurements are kept and looked for."""
    prescriptions: bool = True
    """Train every failure once more with the first prescription; where that does not restore, with those after it."""
    workers: int = 2
    """Runs at once, one thread each."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    names = [name for name, one in SCENARIOS.items() if arguments.part in ("all", one.part)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
            trials = measure(pool, folder, names)
            judged = scoring.judge_all(pool, trials, names)
            treated = treat(pool, folder, judged, trials) if arguments.prescriptions else {}
    show(judged, treated)
    command = f"python -m benchmarks.diagnosis {' '.join(sys.argv[1:])}".strip()
    name = NAME if arguments.part == "all" else f"{NAME}_{arguments.part.replace('-', '_')}"
    save(name, command, result(judged, trials, treated))


def measure(pool: ProcessPoolExecutor, folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Trials of the scenarios and of the twins of failures, from the folder where they are there."""
    wanted = dict.fromkeys([*names, *(SCENARIOS[name].twin for name in names if SCENARIOS[name].kind)])
    trials = _all(pool, folder, trial.run, [(name,) for name in wanted])
    return {key[0]: found for key, found in trials.items()}


def _all(
    pool: ProcessPoolExecutor, folder: Path, function: Callable[..., dict[str, Any]], keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What a function finds of every key, from the folder where it is there."""
    paths = {key: _path(folder, function.__name__, *key) for key in keys}
    found = {key: json.loads(path.read_text()) for key, path in paths.items() if path.exists()}
    waiting = {pool.submit(function, *key): key for key in keys if key not in found}
    for future in as_completed(waiting):
        key = waiting[future]
        found[key] = future.result()
        paths[key].write_text(json.dumps(found[key]))
        print(f"{len(found)} of {len(keys)}, {function.__name__}: {', '.join(map(str, key))}", flush=True)
    return {key: found[key] for key in keys}


def treat(
    pool: ProcessPoolExecutor, folder: Path, judged: Sequence[Judged], trials: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """For each failure that was found: the first prescription of the report at its end, and the scores with it.

    Where it does not restore, those after it are tried as well, as a person would who tries before a change is made.
    """
    prescribed, alarms, treated = {}, {}, {}
    for one in judged:
        name, alarm = one.scenario.name, one.alarms.first
        if one.valid and one.scenario.kind and alarm is not None:
            prescribed[name] = trial.report(name, History.from_dict(trials[name]["history"]), alarm).prescriptions
            alarms[name] = alarm
            first = prescribed[name][0].name if prescribed[name] else None
            wanted = scoring.RESTORED * trials[one.scenario.twin]["score"]
            treated[name] = {"prescription": first, "by_hand": first in one.scenario.by_hand, "wanted": wanted}
            treated[name] |= {"fresh": None, "live": None, "restored": False, "restored_by": None}
    for place in range(TRIED):
        keys = {
            name: (name, list_of[place].name, alarms[name], list_of[place].factor)
            for name, list_of in prescribed.items()
            if treated[name]["restored_by"] is None and place < len(list_of)
        }
        scores = _all(pool, folder, trial.treat, list(keys.values()))
        for name, key in keys.items():
            reached = [score for score in scores[key].values() if score is not None]
            restored = bool(reached) and max(reached) >= treated[name]["wanted"]
            treated[name] |= {"restored_by": key[1] if restored else None}
            if place == 0:
                treated[name] |= scores[key] | {"restored": restored}
    return treated


def _path(folder: Path, *key: Any) -> Path:
    words = " ".join(map(str, key))
    readable = "".join(letter if letter.isalnum() else "-" for letter in words)[:60]
    return folder / f"{readable}-{hashlib.sha256(words.encode()).hexdigest()[:8]}.json"


def result(
    judged: Sequence[Judged], trials: dict[str, dict[str, Any]], treated: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Everything that is kept."""
    by_part = {part: [one for one in judged if one.scenario.part == part] for part in PARTS}
    return {
        "definitions": {
            "failure": f"keeps at most {KEPT} of its healthy twin's score",
            "alarm": "the verdict on all looks up to a step is not healthy; before the onset of a fault it is none",
            "symptom": f"the curve, smoothed over {scoring.SMOOTHING} steps, stays above its twin's by "
            f"{scoring.VISIBLE} of the range of the twin's",
            "restored": f"reaches {scoring.RESTORED} of the twin's score with the first prescription, from a fresh "
            "start or applied at the first alarm; one_of_three: with one of the first three",
            "looks": f"every {trial.EVERY} steps, probes every {trial.PROBE_EVERY}",
        },
        "parts": {part: scoring.summary(group) for part, group in by_part.items() if group},
        "all": scoring.summary(judged),
        "by_level": {part: scoring.by_level(group) for part, group in by_part.items()},
        "confusion": {part: scoring.confusion(group) for part, group in by_part.items()},
        "prescriptions": {
            part: scoring.share(sum(one["restored"] for one in group), len(group))
            for part in (*PARTS, "all")
            for group in [[one for name, one in treated.items() if part in ("all", SCENARIOS[name].part)]]
        }
        if treated
        else None,
        "one_of_three": {
            part: scoring.share(sum(one["restored_by"] is not None for one in group), len(group))
            for part in (*PARTS, "all")
            for group in [[one for name, one in treated.items() if part in ("all", SCENARIOS[name].part)]]
        }
        if treated
        else None,
        "restored_by_hand": {
            part: sum(
                one["restored"] and one["by_hand"] for name, one in treated.items() if SCENARIOS[name].part == part
            )
            for part in PARTS
        },
        "seconds_of_a_training": round(statistics.median(found["seconds"] for found in trials.values()), 2),
        "invalid": {one.scenario.name: one.why_not for one in judged if not one.valid},
        "scenarios": [_row(one, treated.get(one.scenario.name)) for one in judged],
    }


def _row(one: Judged, treated: dict[str, Any] | None) -> dict[str, Any]:
    scenario, ours = one.scenario, one.alarms
    row: dict[str, Any] = {"name": scenario.name, "part": scenario.part, "kind": scenario.kind or "healthy"}
    row |= {"score": round(one.score, 3), "valid": one.valid, "steps": one.steps}
    if scenario.kind:
        row |= {"twin": scenario.twin, "onset": scenario.onset, "symptom": one.symptom, "lead": one.lead}
    row |= {"alarm": ours.first, "rules": list(ours.rules), "rules_at_the_end": list(ours.final)}
    if treated is not None:
        row["treated"] = treated
    return row


def show(judged: Sequence[Judged], treated: dict[str, dict[str, Any]]) -> None:
    """Print the figures."""
    for part in (*PARTS, "all"):
        group = [one for one in judged if part in ("all", one.scenario.part)]
        if not group:
            continue
        print(f"\n== {part}: {sum(one.valid for one in group)} valid of {len(group)}")
        found = scoring.summary(group)
        recall, false, lead = found["recall"], found["false_alarms"], found["lead_steps"]
        print(
            f"recall {recall['hits']}/{recall['of']} {recall['interval']}, false alarms "
            f"{false['hits']}/{false['of']} {false['interval']}, lead {lead['median']} {lead['quartiles']}, "
            f"{found['alarms_before_onset']} before the onset"
        )
        for level, counted in scoring.by_level(group).items():
            figures = (
                f"{name.replace('_', ' ')} {one['hits']}/{one['of']} {when}"
                for name, by_time in counted.items()
                for when, one in by_time.items()
            )
            print(f"{level} or worse: {', '.join(figures)}")
        cured = [one for name, one in treated.items() if part in ("all", SCENARIOS[name].part)]
        if cured:
            by_hand = sum(one["restored"] and one["by_hand"] for one in cured)
            restored = sum(one["restored"] for one in cured)
            any_of = sum(one["restored_by"] is not None for one in cured)
            print(f"first prescription restores {restored}/{len(cured)}, {by_hand} of them by a person's hand")
            print(f"one of the first {TRIED} restores {any_of}/{len(cured)}")
    for one in judged:
        if not one.valid:
            print(f"invalid: {one.scenario.name}: {one.why_not}")


if __name__ == "__main__":
    main()

"""What a decision can rest on: the runs of a comparison or of a study, in one form.

Runs are sorted by setting (the baseline, and the candidate to replace it), by size, by task and by seed. This module
reads folders; what follows from them is :mod:`~stablegrad.studies.decision`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from stablegrad.environments.references import References, references
from stablegrad.errors import UsageError
from stablegrad.files import read_text
from stablegrad.options import flatten
from stablegrad.studies.comparison import Comparison, RunRecord, read_failure
from stablegrad.studies.kinds import RELEARN, figure_of, kind_of
from stablegrad.studies.study import Run
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.summary import stability_of, trade_off
from stablegrad.studies.table import score_of
from stablegrad.training.run_folder import RunFolder, what_is_there

#: Figures of a study that say how well a run did, higher being better; what it reports first of them is its score.
SCORES = (
    "final_return",
    "human_normalized_return",
    "evaluation.mean_return",
    "evaluation.human_normalized_score",
    "train/return",
    "relearning.mean_final_accuracy",
    "relearning.relearned",
    "final_accuracy",
    "train/accuracy",
)
#: Scores that mean the same on every task, so that their mean over tasks means something.
COMMON_SCALE = (
    "human_normalized_return",
    "evaluation.human_normalized_score",
    "relearning.mean_final_accuracy",
    "relearning.relearned",
    "final_accuracy",
    "train/accuracy",
)
#: Options that make a network bigger, and options that say what is to be learned. All others are settings.
SIZE_OPTIONS = {"torso.depth", "torso.width", "agent.torso.depth", "agent.torso.width"}
TASK_OPTIONS = {"env", "data", "data_limit", "reshuffle_every", "reshuffle_at"}
#: What is not said of two settings: a name, and what follows from the run's place.
UNTOLD = {"preset", "seed", "threads", "device"}

SizeParts: TypeAlias = tuple[tuple[str, str], ...]

PAPER_ATARI_STEPS = 50_000_000  # 200M frames (arXiv 2506.15544)
PAPER_EPOCHS = 100  # of its reshuffled CIFAR-10


@dataclass(frozen=True)
class EvidenceRun:
    """One run.

    Attributes:
        setting: which.
        size: index into the sizes.
        task: index into the tasks.
        seed: its seed.
        status: "finished", "failed" or "left".
        error: why it failed; None otherwise.
        score: None where it did not finish or has none.
        seconds: wall time of the run; None where it is not known.
        seconds_per_step: of an environment step, or of an update of a classifier.
        memory_bytes: the most that its process had.
        lost: whether it lost what it had learned (an agent's early collapse; a classifier that learned none of its new
            labels again); None where that cannot be told.
        machine: processor and accelerator, in words.
        path: its folder.
    """

    setting: str
    size: int
    task: int
    seed: int
    status: str
    error: str | None
    score: float | None
    seconds: float | None
    seconds_per_step: float | None
    memory_bytes: int | None
    lost: bool | None
    machine: str | None
    path: Path


@dataclass(frozen=True)
class Size:
    """One size of network.

    Attributes:
        parts: (option, value) as people write them: (("depth", "large"), ("width", "512")).
        parameters: of the baseline's network; None where no run tells.
    """

    parts: SizeParts
    parameters: int | None


@dataclass(frozen=True)
class Change:
    """One option in which the candidate differs from the baseline."""

    option: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Evidence:
    """All that is known.

    Attributes:
        kind: "comparison" or "study".
        form: of a study, "full" or "small"; of a comparison None.
        directory: its folder.
        title: of the study; None of a comparison.
        agents: whether the runs are agents (or classifiers).
        tasks: environments or data.
        score: name of the figure that is judged; higher is better.
        baseline: name of the setting in use.
        candidate: name of the setting that may replace it.
        passed_over: other settings that were tried, and did worse on average.
        sizes: smallest first.
        seeds: of every cell.
        runs: all runs of the baseline, the candidate and those passed over.
        changes: options in which the candidate differs from the baseline.
        configs: (setting, size) -> JSON form of its configuration, of the first task.
        budget: environment steps of an agent, epochs of a classifier; None where runs differ.
        paper_budget: what the paper trained such a run for; None where it trained no such run.
        depth: option of the torso's depth, of the largest size.
        steps_share: steps (or epochs) the candidate needs for what the baseline reaches, as a share of the baseline's;
            None where one of them never gets there.
        whole_run_share: steps in which the candidate gets to where the baseline's whole run ends, as a share of that
            run (of classifiers: the same as ``steps_share``); None where it never does or that is not known.
        equal_time: mean scores of baseline and candidate after the same wall time; None where that is not known.
        candidate_short: whether the baseline gets there and the candidate never does; None where that is not known.
        nothing_to_reach: whether the baseline ends no better than it began.
        level: the score that is to be reached; None of classifiers, and where there is none.
        command: the command line that made a comparison, if known.
        study_file: text of the study's file; None of a comparison.
        references: scores to hold those of the runs against; None where none is known.
    """

    kind: str
    form: str | None
    directory: Path
    title: str | None
    agents: bool
    tasks: tuple[str, ...]
    score: str
    baseline: str
    candidate: str
    passed_over: tuple[str, ...]
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    runs: tuple[EvidenceRun, ...]
    changes: tuple[Change, ...]
    configs: Mapping[tuple[str, int], dict[str, Any]]
    budget: int | None
    paper_budget: int | None
    depth: int | str | None
    steps_share: float | None
    whole_run_share: float | None
    equal_time: tuple[float, float] | None
    candidate_short: bool | None
    nothing_to_reach: bool
    level: float | None
    command: tuple[str, ...] | None
    study_file: str | None
    references: References | None = None

    def of(self, setting: str, size: int) -> list[EvidenceRun]:
        """The runs of one cell, in order of seeds and tasks."""
        return [run for run in self.runs if run.setting == setting and run.size == size]

    def scores(self, setting: str, size: int) -> list[float | None]:
        """The score of each seed, a mean over all tasks; None where one of them has none."""
        scores: list[float | None] = []
        for seed in self.seeds:
            own = [run.score for run in self.of(setting, size) if run.seed == seed]
            present = [score for score in own if score is not None]
            scores.append(fmean(present) if present and len(present) == len(self.tasks) else None)
        return scores


def read_evidence(directory: Path | str) -> Evidence:
    """The evidence in a comparison folder or a study folder.

    Raises:
        UsageError: the folder holds neither, or a study from which nothing can be decided (with what it lacks).
        StablegradError: a file in it cannot be read.
    """
    directory = Path(directory)
    if (directory / "comparison.json").exists():
        return _of_comparison(Comparison.read(directory))
    if (directory / "study.json").exists():
        return _of_study(StudyFolder.read(directory))
    raise UsageError(
        f"'{directory}' is neither a comparison folder nor a study folder: "
        f"{what_is_there(directory, 'comparison.json', 'study.json')}"
    )


@dataclass(frozen=True)
class _Entry:
    """A run as it was found, with the names of its place."""

    setting: str
    size: SizeParts
    task: str
    record: RunRecord
    folder: RunFolder
    config: Mapping[str, Any]
    score: float | None


def _of_comparison(comparison: Comparison) -> Evidence:
    first = comparison.settings[0]
    entries = []
    size = _size_of(comparison.configs[first])
    for setting in comparison.settings:
        config = comparison.configs[setting]
        for seed in comparison.seeds:
            record, folder = comparison.record(setting, seed), comparison.run_folder(setting, seed)
            entries.append(_Entry(setting, size, str(config.get("env")), record, folder, config, record.final_return))
    return _evidence(
        entries,
        baseline=first,
        kind="comparison",
        directory=comparison.directory,
        seeds=comparison.seeds,
        score="final_return",
        command=comparison.command,
    )


def _of_study(folder: StudyFolder) -> Evidence:
    study = folder.study
    kinds = _kinds_of_axes(folder)

    def label(values: Mapping[str, str], kind: str) -> str:
        """The place of a cell along all axes of one kind."""
        return ", ".join(values[axis] for axis in kinds if kinds[axis] == kind)

    settings = list(dict.fromkeys(label(cell.values, "setting") for cell in study.cells))
    if len(settings) < 2:
        raise UsageError(
            f"the study in '{folder.directory}' has one setting, so there is nothing to decide between; a summary "
            "needs an axis of settings, such as baseline and stable"
        )
    first = study.cells[0].config
    only_task = str(getattr(first, "env", None) or Path(str(getattr(first, "data", ""))).name)
    only_size = _size_of(first.to_json())
    score = _score(folder, several=len({label(cell.values, "task") for cell in study.cells}) > 1)
    entries = []
    for cell in study.cells:
        setting, task = label(cell.values, "setting"), label(cell.values, "task")
        size = tuple((axis, value) for axis, value in cell.values.items() if kinds.get(axis) == "size")
        for seed in study.seeds:
            run = Run(cell, seed)
            run_folder = folder.run_folder(run)
            record = _record(setting, seed, run_folder)
            value = figure_of(run.config, run_folder, record.summary, score) if record.finished else None
            entries.append(
                _Entry(setting, size or only_size, task or only_task, record, run_folder, run.config.to_json(), value)
            )
    return _evidence(
        entries,
        baseline="baseline" if "baseline" in settings else settings[0],
        kind="study",
        directory=folder.directory,
        seeds=study.seeds,
        score=score,
        form=study.form,
        title=study.texts.get("title"),
        study_file=_text(folder.directory / "study.toml"),
    )


def _evidence(
    entries: Sequence[_Entry],
    *,
    baseline: str,
    kind: str,
    directory: Path,
    seeds: tuple[int, ...],
    score: str,
    form: str | None = None,
    title: str | None = None,
    command: tuple[str, ...] | None = None,
    study_file: str | None = None,
) -> Evidence:
    parameters = {
        size: next(
            (e.record.summary["parameters"] for e in entries if (e.setting, e.size) == (baseline, size) and _knows(e)),
            None,
        )
        for size in dict.fromkeys(entry.size for entry in entries)
    }
    sizes = sorted(parameters, key=lambda size: parameters[size] or 0)  # of equals the order stays
    tasks = list(dict.fromkeys(entry.task for entry in entries))
    candidate = _best(entries, baseline)
    agents = kind_of(str(entries[0].config.get("algorithm"))) != RELEARN
    lost = _lost_agents(entries, (baseline, candidate)) if agents else _lost_classifiers(entries)
    configs = {entry.setting: entry.config for entry in entries if entry.size == sizes[-1]}
    budgets = {entry.config.get("total_steps" if agents else "epochs") for entry in entries}
    largest = [entry for entry in entries if entry.size == sizes[-1]]
    by_place = [
        {
            (entry.task, entry.record.seed): entry.record
            for entry in largest
            if entry.setting == name and entry.record.finished
        }
        for name in (baseline, candidate)
    ]
    both = [place for place in by_place[0] if place in by_place[1]]  # what is told of the two is of the same seeds
    by_setting = {
        name: [own[place] for place in both] for name, own in zip((baseline, candidate), by_place, strict=True)
    }
    if agents and len(tasks) == 1:
        reached = _reached_by_agents(by_setting, baseline, candidate)
    elif agents:
        reached = _NOT_TOLD
    else:
        reached = _reached_by_classifiers(by_setting, baseline, candidate)
    torso = configs[baseline].get("agent", configs[baseline]).get("torso", {})
    return Evidence(
        kind=kind,
        form=form,
        directory=directory,
        title=title,
        agents=agents,
        tasks=tuple(tasks),
        score=score,
        baseline=baseline,
        candidate=candidate,
        passed_over=tuple(name for name in configs if name not in (baseline, candidate)),
        sizes=tuple(Size(size, parameters[size]) for size in sizes),
        seeds=seeds,
        runs=tuple(
            _run(entry, sizes.index(entry.size), tasks.index(entry.task), lost.get(entry.folder.path))
            for entry in entries
        ),
        configs={(entry.setting, sizes.index(entry.size)): dict(entry.config) for entry in reversed(entries)},
        changes=_changes(configs[baseline], configs[candidate]),
        budget=budgets.pop() if len(budgets) == 1 else None,
        paper_budget=_paper_budget(configs[baseline], agents),
        depth=torso.get("depth"),
        command=command,
        study_file=study_file,
        references=references(score, {str(entry.config.get("env")) for entry in entries}) if agents else None,
        **reached,
    )


def _run(entry: _Entry, size: int, task: int, lost: bool | None) -> EvidenceRun:
    record = entry.record
    summary = record.summary
    seconds, steps = summary.get("wall_seconds"), summary.get("env_steps", summary.get("updates"))
    return EvidenceRun(
        setting=entry.setting,
        size=size,
        task=task,
        seed=record.seed,
        status=record.status if record.status in ("finished", "failed") else "left",
        error=record.error,
        score=entry.score,
        seconds=seconds,
        seconds_per_step=seconds / steps if record.finished and seconds is not None and steps else None,
        memory_bytes=summary.get("peak_memory_bytes"),
        lost=lost,
        machine=_machine(entry.folder),
        path=entry.folder.path,
    )


def _record(setting: str, seed: int, folder: RunFolder) -> RunRecord:
    summary, error = folder.read_summary() or {}, read_failure(folder)
    finished = summary.get("status") == "finished"
    status = "finished" if finished else "failed" if error is not None else "left"
    return RunRecord(setting, seed, status, None if finished else error, summary, folder.read_metrics())


def _size_of(config: Mapping[str, Any]) -> SizeParts:
    torso = config.get("agent", config).get("torso", {})
    return tuple((name, str(torso[name])) for name in ("depth", "width") if name in torso)


def _kinds_of_axes(folder: StudyFolder) -> dict[str, str]:
    """Whether an axis makes networks bigger ("size"), changes what is learned ("task"), or how ("setting")."""
    cells = [(cell.values, flatten(cell.config.to_json())) for cell in folder.study.cells]
    kinds = {}
    for axis in cells[0][0]:
        changed: set[str] = set()
        # Cells that differ in this axis alone.
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for values, flat in cells:
            groups.setdefault(tuple(value for name, value in values.items() if name != axis), []).append(flat)
        for group in groups.values():
            for flat in group[1:]:
                changed |= {option for option in {*flat, *group[0]} if flat.get(option) != group[0].get(option)} - {
                    "preset"
                }
        if not changed:
            continue  # an axis of one value tells no runs apart
        if changed <= SIZE_OPTIONS:
            kinds[axis] = "size"
        elif changed <= TASK_OPTIONS or "env" in changed:  # an environment brings its own defaults with it
            kinds[axis] = "task"
        else:
            kinds[axis] = "setting"
    return kinds


def _score(folder: StudyFolder, several: bool) -> str:
    """The first reported figure that says how well a run did; of several tasks, one that all of them share."""
    allowed = COMMON_SCALE if several else SCORES
    found = score_of(folder.study, SCORES)
    if found not in allowed:
        found = score_of(folder.study, allowed)
    if found is None:
        wanted = "one that all its tasks share" if several else "one that is better when higher"
        raise UsageError(
            f"the study in '{folder.directory}' reports no score to decide by, {wanted}: {', '.join(allowed)}"
        )
    return found


def _best(entries: Sequence[_Entry], baseline: str) -> str:
    """The setting beside the baseline with the highest mean score, of the runs that all with a score have; of equals,
    or where there are none, the first."""
    scores: dict[str, dict[tuple[SizeParts, str, int], float]] = {}
    for entry in entries:
        if entry.setting != baseline:
            own = scores.setdefault(entry.setting, {})
            if entry.score is not None:
                own[entry.size, entry.task, entry.record.seed] = entry.score
    shared = set.intersection(*([set(own) for own in scores.values() if own] or [set()]))

    def mean(setting: str) -> float:
        own = scores[setting]
        return fmean(own[place] for place in shared) if own and shared else -math.inf

    return max(scores, key=mean)


def _lost_agents(entries: Sequence[_Entry], settings: Sequence[str]) -> dict[Path, bool]:
    """Early collapse of each run of the two settings, judged beside its partners of the same size and task."""
    lost = {}
    for place in dict.fromkeys((entry.size, entry.task) for entry in entries):
        own = {name: [e for e in entries if (e.size, e.task) == place and e.setting == name] for name in settings}
        found = stability_of({name: [entry.record for entry in group] for name, group in own.items()})
        for name, group in own.items():
            for entry, collapse in zip(group, found[name]["collapse"], strict=True):
                if collapse is not None:
                    lost[entry.folder.path] = bool(collapse["collapsed"])
    return lost


def _lost_classifiers(entries: Sequence[_Entry]) -> dict[Path, bool]:
    lost = {}
    for entry in entries:
        relearning = entry.record.summary.get("relearning") or {}
        if entry.record.finished and relearning.get("reshuffles"):
            lost[entry.folder.path] = relearning["relearned"] == 0
    return lost


_NOT_TOLD: dict[str, Any] = {
    "steps_share": None,
    "whole_run_share": None,
    "equal_time": None,
    "candidate_short": None,
    "nothing_to_reach": False,
    "level": None,
}


def _reached_by_agents(records: dict[str, list[RunRecord]], baseline: str, candidate: str) -> dict[str, Any]:
    """What :func:`~stablegrad.studies.summary.trade_off` says of the steps to the baseline's level."""
    trade = trade_off((baseline, candidate), records)
    steps = trade["steps_to_level"]
    whole = [run.summary["env_steps"] for run in records[baseline] if run.finished and run.summary.get("env_steps")]
    equal = trade["equal_time"]
    known = trade["level"] is not None and not trade["level_at_start"]
    return {
        "steps_share": trade["steps_share"],
        "whole_run_share": steps[candidate] / fmean(whole) if steps[candidate] and whole else None,
        "equal_time": None if equal is None else (equal[baseline]["return"], equal[candidate]["return"]),
        "candidate_short": steps[candidate] is None if known and steps[baseline] is not None else None,
        "nothing_to_reach": bool(trade["level_at_start"]),
        "level": trade["level"],
    }


def _reached_by_classifiers(records: dict[str, list[RunRecord]], baseline: str, candidate: str) -> dict[str, Any]:
    """Epochs to learn reshuffled labels again, means over seeds; a setting gets there where all its runs do."""
    epochs: dict[str, float | None] = {}
    for name, runs in records.items():
        needed = [(run.summary.get("relearning") or {}).get("mean_epochs") for run in runs]
        known = [value for value in needed if value is not None]
        epochs[name] = fmean(known) if known and len(known) == len(needed) else None
    finished = all(records.values())
    first, second = epochs[baseline], epochs[candidate]
    share = second / first if first and second is not None else None
    return {
        "steps_share": share,
        "whole_run_share": share,
        "equal_time": None,
        "candidate_short": second is None if finished and first is not None else None,
        "nothing_to_reach": finished and first is None,
        "level": None,
    }


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    first, second = flatten(before), flatten(after)
    return tuple(
        Change(name.removeprefix("agent."), first.get(name), second.get(name))
        for name in dict.fromkeys([*first, *second])
        if name not in UNTOLD and first.get(name) != second.get(name)
    )


def _paper_budget(config: Mapping[str, Any], agents: bool) -> int | None:
    if not agents:
        return PAPER_EPOCHS
    return PAPER_ATARI_STEPS if config.get("atari") is not None else None


def _machine(folder: RunFolder) -> str | None:
    if not folder.config_path.exists():
        return None
    provenance = folder.read_config().get("provenance")
    machine = provenance.get("machine") if isinstance(provenance, dict) else None
    if not isinstance(machine, dict):
        return None
    parts = [
        machine.get("processor"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
        machine.get("cuda_device"),
    ]
    return ", ".join(str(part) for part in parts if part) or None


def _knows(entry: _Entry) -> bool:
    return entry.record.summary.get("parameters") is not None


def _text(path: Path) -> str | None:
    return read_text(path) if path.exists() else None

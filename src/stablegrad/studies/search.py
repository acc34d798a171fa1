"""A search for the setting that makes one network learn in one environment, and the proof of what it found.

The diagnosis of the baseline says where to start, Optuna's TPE sampler where to go on; a trial that falls ill or behind
is stopped early. What was best is then held against the baseline on seeds that no trial has used.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.diagnostics.rules import Finding
from stablegrad.errors import StablegradError, UsageError
from stablegrad.studies.comparison import record_failure, stderr_path
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.studies.plan import makespan, plan_cells
from stablegrad.studies.processes import POLL_SECONDS, check_workers, exit_reason, last_metrics, locked
from stablegrad.studies.search_confirmation import confirm, seconds_for
from stablegrad.studies.search_diagnosis import PREFLIGHT_SECONDS, illness, preflight_findings, prescriptions_of
from stablegrad.studies.search_folder import (
    FEWEST_TRIALS,
    MARGIN,
    MAX_TRIALS,
    Clock,
    SearchFolder,
    SearchPlan,
)
from stablegrad.studies.search_result import TIME, result_of
from stablegrad.studies.search_space import Space, changes_of, describe
from stablegrad.studies.search_storage import load_optuna, open_study
from stablegrad.studies.study import Cell
from stablegrad.studies.work import TRIES
from stablegrad.training.config import RunConfig
from stablegrad.training.interruption import stop_signals
from stablegrad.training.run_folder import RunFolder

#: Shares of a run after which a trial may be stopped.
RUNGS = (0.125, 0.25, 0.5)
#: Sampled at random before the sampler learns from them; starting points count.
STARTUP_TRIALS = 5


@dataclass(frozen=True)
class Estimate:
    """What a search will take on this machine, in seconds.

    Attributes:
        trial: one trial to its end.
        confirmation: the paired runs at the end; they are reserved before all else.
        trials: how many trials there are, or is time for if none is stopped early.
        total: all of it.
    """

    trial: float
    confirmation: float
    trials: int
    total: float


def estimate(plan: SearchPlan, workers: int) -> Estimate:
    """What a search takes: the baseline is calibrated, in a few seconds.

    Args:
        plan: what is asked for.
        workers: runs at once.

    Raises:
        UsageError: the hours do not hold the baseline, one more trial and the confirmation.
    """
    seconds_of_run = plan_cells([Cell("baseline", {}, plan.base)], workers)["baseline"].seconds
    trial = seconds_of_run * len(plan.seeds)
    confirmation = seconds_for([seconds_of_run] * 2 * plan.confirm_seeds, workers)
    least = PREFLIGHT_SECONDS + makespan([trial] * FEWEST_TRIALS, workers) + confirmation
    if least > plan.limit:
        raise UsageError(
            f"{plan.max_hours:g} hours are too short: the baseline, one more trial and {2 * plan.confirm_seeds} runs "
            f"to confirm it take about {least / 3600:.2g} hours with --workers {workers}; raise --max-hours, or "
            "lower --total-steps or --confirm-seeds"
        )
    trials = plan.trials or math.inf
    if plan.max_hours is not None:
        trials = min(trials, workers * ((plan.limit - PREFLIGHT_SECONDS - confirmation) // (MARGIN * trial)))
    trials = max(int(min(trials, MAX_TRIALS)), FEWEST_TRIALS)
    total = PREFLIGHT_SECONDS + makespan([trial] * trials, workers) + confirmation
    return Estimate(trial, confirmation, trials, total)


def run_search(
    folder: SearchFolder,
    workers: int,
    *,
    on_event: Callable[[str], None] = lambda line: None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Carry a search out, or go on with it: trials, confirmation, result.

    Nothing that is finished is repeated, and a trial that was under way goes on from its last checkpoint. Call it from
    the main thread: only there can SIGINT and SIGTERM end it cleanly.

    Args:
        folder: the search's folder.
        workers: runs at once.
        on_event: called with a line whenever something has happened.
        command: the command line that asked for this, for the report of the confirmation.

    Returns:
        the result, as in search.json; see :func:`stablegrad.studies.search_result.result_of`.

    Raises:
        UsageError: Optuna is missing, the time is too short, or another process runs this search.
        StablegradError: the baseline cannot be trained.
        KeyboardInterrupt: SIGINT or SIGTERM came; all is in order for the search to be continued.
    """
    optuna = load_optuna()
    check_workers(workers)
    if folder.state["result"] is not None:
        return dict(folder.state["result"])
    with locked(folder.directory, "search"), stop_signals() as signals:
        clock = Clock(folder)
        search = _Search(folder, optuna, workers, clock, on_event, signals)
        try:
            if folder.state["winner"] is None:
                search.diagnose()
                search.run()
            trials = search.study.get_trials(deepcopy=False)
            if not 0 <= folder.state["winner"] < len(trials):
                raise StablegradError(f"'{folder.path}' names trial {folder.state['winner']}, which is not there")
            confirm(folder, trials, workers, clock, on_event, command, signals)
        finally:
            clock.save()
        result = result_of(folder.directory, folder.plan, folder.state, trials)
        folder.state["result"] = result
        clock.save()
    return result


@dataclass
class _Live:
    """A trial under way: its runs are made one after another, so it takes one worker."""

    trial: Any
    config: RunConfig
    source: str
    seeds: tuple[int, ...]
    started: float
    place: int = 0
    rung: int = 0
    tries: int = 0
    wall_seconds: float = 0.0
    returns: list[float] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.seeds[self.place]

    @property
    def name(self) -> str:
        return f"trial {self.trial.number} ({self.source})"


class _Search:
    """One process's work on a search."""

    def __init__(
        self,
        folder: SearchFolder,
        optuna: ModuleType,
        workers: int,
        clock: Clock,
        on_event: Callable[[str], None],
        signals: list[int],
    ):
        self.folder, self.plan, self.workers, self.clock = folder, folder.plan, workers, clock
        self.optuna, self.tell, self.signals = optuna, on_event, signals
        self.space = Space(self.plan.base)
        self.study = open_study(optuna, folder.journal)
        self.running: dict[Path, _Live] = {}

    # -- diagnosis

    def diagnose(self) -> None:
        """What the baseline's network shows before it is trained; once a search."""
        if not self.folder.begun:
            if self.plan.max_hours is not None:
                asked = estimate(self.plan, self.workers)
                self.folder.state["seconds_of_run"] = asked.trial / len(self.plan.seeds)
            found = preflight_findings(self.plan.base)
            self.folder.state["diagnosis"] = {"preflight": [one.to_dict() for one in found], "run": None}
            self._say_diagnosis("pre-flight", found)

    def prescriptions(self) -> list[Prescription]:
        """What is prescribed for the baseline, as far as it is known."""
        return prescriptions_of(self.folder.state["diagnosis"])

    def _say_diagnosis(self, where: str, findings: Sequence[Finding]) -> None:
        prescriptions = self.prescriptions()
        outside = self.space.unsearched(prescriptions)
        names = ", ".join(one.name for one in prescriptions if one.name not in outside) or "nothing"
        found = findings[0].reason if findings else "nothing is wrong"
        left = f" (and {', '.join(outside)}, which the baseline has or a search does not change)" if outside else ""
        self.tell(f"diagnosis, {where}: {found}; prescribed so far: {names}{left}")
        self.clock.save()

    # -- trials

    def run(self) -> None:
        """All trials; then the winner is known."""
        state = self.optuna.trial.TrialState
        self._learn_from_baseline()
        executor = LocalExecutor(self.plan.base.threads)
        waiting = self.study.get_trials(deepcopy=False, states=(state.RUNNING,))
        try:
            while True:
                if self.signals:
                    raise KeyboardInterrupt
                while len(self.running) < self.workers:
                    trial = self._same_trial(waiting.pop(0)) if waiting else self._next_trial()
                    if trial is None:
                        break
                    self._start(executor, self._live(trial))
                if not self.running:
                    break
                for path, code in executor.ended(POLL_SECONDS).items():
                    self._take_in(executor, path, self.running.pop(path), code)
                for path, live in list(self.running.items()):
                    reason = self._why_stop(live)
                    if reason is not None:
                        executor.kill(path)
                        del self.running[path]
                        self._end(live, state.PRUNED, reason)
                if self.clock.spent > self._search_limit():
                    self._cut(executor)
                self.clock.save_now_and_then()
        finally:
            executor.stop()
        self.folder.state["winner"] = self.study.best_trial.number
        self.clock.save()

    def _next_trial(self) -> Any:
        """The next starting point, or what the sampler proposes; None: there are to be no more."""
        trials = self.study.get_trials(deepcopy=False)
        state = self.optuna.trial.TrialState
        waiting = sum(one.state == state.WAITING for one in trials)  # of a process that was killed
        begun = len(trials) - waiting
        if self.plan.trials is not None and begun >= self.plan.trials:
            return None
        if begun >= FEWEST_TRIALS and self.clock.spent + MARGIN * self._trial_seconds() > self._search_limit():
            return None
        self._seed_sampler(begun)
        if not waiting:
            prescriptions = self.prescriptions()
            tried = {one.user_attrs["source"] for one in trials}
            starts = self.space.starting_points(prescriptions)
            new = next((name for name in starts if name not in tried), None)
            if new is not None:
                self.study.enqueue_trial(starts[new], user_attrs={"source": new})
            else:
                sampled = sum(one.user_attrs["source"] == "sampled" for one in trials)
                pinned = self.space.pinned(self.space.order(prescriptions), sampled)
                self.study.enqueue_trial(pinned, user_attrs={"source": "sampled"})
        return self.study.ask()

    def _seed_sampler(self, number: int) -> None:
        """Of one number and one past, one proposal: a search that was stopped goes on as it would have."""
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=1000 * self.plan.seeds[0] + number, n_startup_trials=STARTUP_TRIALS
        )

    def _same_trial(self, begun: Any) -> Any:
        """A trial that was begun by a process which has gone, perhaps before all its options were drawn."""
        self._seed_sampler(begun.number)
        trial = self.optuna.trial.Trial(self.study, begun._trial_id)
        for name in begun.params:
            if name not in begun.system_attrs.get("fixed_params", {}):
                # What was drawn stays, and is drawn once more so that the rest comes as it would have.
                self.study.sampler.sample_independent(self.study, begun, name, begun.distributions[name])
        return trial

    def _live(self, trial: Any) -> _Live:
        config = self.space.config(self.space.suggest(trial))
        source = trial.user_attrs["source"]
        if "changes" not in trial.user_attrs:
            trial.set_user_attr("changes", changes_of(self.plan.base, config))
            self.tell(f"trial {trial.number} ({source}): {describe(trial.user_attrs['changes'])}")
        return _Live(trial, config, source, self.plan.seeds, time.monotonic())

    def _start(self, executor: LocalExecutor, live: _Live) -> None:
        """Start the run of a trial's current seed, or go on with it."""
        run = self.folder.run_folder(live.trial.number, live.seed)
        if not run.config_path.exists():
            RunFolder.create(run.path, dataclasses.replace(live.config, seed=live.seed).to_json())
        live.tries += 1
        executor.start(run.path)
        self.running[run.path] = live

    def _cut(self, executor: LocalExecutor) -> None:
        """The time that is left is the confirmation's."""
        for path, live in list(self.running.items()):
            if live.source == "baseline" and self.clock.spent <= self.plan.limit:
                continue  # nothing can be said without it
            executor.kill(path)
            del self.running[path]
            self._end(live, self.optuna.trial.TrialState.FAIL, TIME)

    def _take_in(self, executor: LocalExecutor, path: Path, live: _Live, code: int) -> None:
        """A run has ended."""
        state, run = self.optuna.trial.TrialState, RunFolder(path)
        summary = run.read_summary() or {}
        if summary.get("status") != "finished":
            reason = exit_reason(code, stderr_path(run))
            # What ended by itself ends the same way again; what was killed may have been in the way of another.
            if code < 0 and live.tries < TRIES:
                self._start(executor, live)
                return
            record_failure(run, reason)
            self._end(live, state.FAIL, reason)
        elif summary.get("final_return") is None:
            self._end(live, state.FAIL, "no episode ended")
        else:
            self._why_stop(live)  # it is too late to stop, but later trials are held against its way
            live.returns.append(float(summary["final_return"]))
            live.wall_seconds += float(summary["wall_seconds"])
            live.place, live.rung, live.tries = live.place + 1, 0, 0
            if live.place < len(live.seeds):
                self._start(executor, live)
            else:
                live.trial.set_user_attr("verdict", (summary.get("health") or {}).get("verdict"))
                self._end(live, state.COMPLETE, None)

    def _why_stop(self, live: _Live) -> str | None:
        """Report a trial's rungs that it has passed; why it should stop at one of them, or None."""
        run = self.folder.run_folder(live.trial.number, live.seed)
        total = live.config.total_steps
        while live.rung < len(RUNGS):
            step = math.ceil(RUNGS[live.rung] * total)
            if ((last_metrics(run) or {"step": 0})["step"]) < step:
                break
            share, live.rung = RUNGS[live.rung], live.rung + 1
            rows = run.read_metrics()
            end = next(number for number, row in enumerate(rows, start=1) if row["step"] >= step)
            reason = self._judge(live, rows[:end], live.place * total + step)
            if reason is not None and live.source != "baseline":
                return f"{reason} at {(live.place + share) / len(live.seeds):.0%}"
        return None

    def _judge(self, live: _Live, rows: Sequence[Mapping[str, Any]], step: int) -> str | None:
        ill = illness(rows)
        value = rows[-1].get("train/return")
        if value is not None and step not in self._reported(live):
            live.trial.report(fmean([*live.returns, value]), step)
        if ill is not None:
            return f"diagnosis: {ill}"
        return "return: below the median of the others" if value is not None and live.trial.should_prune() else None

    def _reported(self, live: _Live) -> Mapping[int, float]:
        """Values that a trial has reported, in this process or before."""
        return self.study.get_trials(deepcopy=False)[live.trial.number].intermediate_values

    def _end(self, live: _Live, state: Any, reason: str | None) -> None:
        # Of a trial that was interrupted this process saw only a part.
        seconds = max(time.monotonic() - live.started, live.wall_seconds)
        live.trial.set_user_attr("seconds", round(seconds, 1))
        live.trial.set_user_attr("reason", reason)
        complete = state == self.optuna.trial.TrialState.COMPLETE
        value = fmean(live.returns) if complete else None
        self.study.tell(live.trial, value, state=state)
        if complete:
            self.tell(f"{live.name}: return {value:,.1f}")
        elif state == self.optuna.trial.TrialState.PRUNED:
            self.tell(f"{live.name}: stopped, {reason}")
        else:
            self.tell(f"{live.name}: failed, {reason}")
        self._learn_from_baseline()
        self.clock.save()

    def _learn_from_baseline(self) -> None:
        """What its run shows, once it has ended; nothing to do where that is known."""
        baseline = next(iter(self.study.get_trials(deepcopy=False)), None)
        if baseline is None or not baseline.state.is_finished() or self.folder.state["diagnosis"]["run"] is not None:
            return
        if baseline.state != self.optuna.trial.TrialState.COMPLETE:
            raise StablegradError(f"the baseline cannot be trained: {baseline.user_attrs['reason']}")
        self.folder.state["seconds_of_run"] = baseline.user_attrs["seconds"] / len(self.plan.seeds)
        rows = self.folder.run_folder(0, self.plan.seeds[0]).read_metrics()
        findings = diagnose_recorded(rows).findings
        self.folder.state["diagnosis"]["run"] = [one.to_dict() for one in findings]
        self._say_diagnosis("its run", findings)

    # -- what there is time for

    def _trial_seconds(self) -> float:
        """What a trial takes, from those that were finished."""
        finished = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.COMPLETE,))
        known = [float(one.user_attrs["seconds"]) for one in finished]
        if known:
            return fmean(known)
        return (self.folder.state["seconds_of_run"] or 0.0) * len(self.plan.seeds)

    def _search_limit(self) -> float:
        """When the confirmation has to begin; its runs are as long as the baseline's and the best trial's."""
        finished = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.COMPLETE,))
        seconds = [float(one.user_attrs["seconds"]) / len(self.plan.seeds) for one in finished]
        baseline = seconds[0] if seconds else (self.folder.state["seconds_of_run"] or 0.0)
        best = max(finished, key=lambda one: one.value, default=None)
        other = baseline if best is None else float(best.user_attrs["seconds"]) / len(self.plan.seeds)
        return self.plan.limit - seconds_for([baseline, other] * self.plan.confirm_seeds, self.workers)

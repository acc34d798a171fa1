"""What a run's diagnosis prescribes, tried in its environment: short trainings with each change and without, in pairs.

The trainings of one change and their figures are a comparison folder like any other, in ``<dir>/<change>``, or
``<dir>/<change>-<factor>``; those without a change are made once and shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics import interventions
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.report import Report
from stablegrad.diagnostics.settings import WriteCommand, command_text, with_rates
from stablegrad.diagnostics.trial import SEEDS, TOP, UNCHANGED, Trial, decide
from stablegrad.errors import StablegradError, UsageError
from stablegrad.options import flatten
from stablegrad.studies.comparison import Comparison
from stablegrad.studies.execution import RunProgress, run_comparison
from stablegrad.studies.search_space import Space, agent_identity, fresh_seeds, train_command
from stablegrad.training.config import RunConfig

#: A trial is to pass the step at which the run was first found ill: it is as long as this many times that step takes.
BEYOND = 2
#: Part of the run below which a trial says little about it.
SHORTEST = 0.1


def trial_steps(report: Report, total_steps: int) -> int:
    """Environment steps of a trial's trainings: beyond the run's first finding, at most as long as the run."""
    first = min((finding.since for finding in report.findings), default=total_steps)
    return int(min(max(BEYOND * first, SHORTEST * total_steps), total_steps))


def fitting(saved: Mapping[str, Any]) -> frozenset[str] | None:
    """Names of the interventions that have something to change on a run's network, which is not allocated.

    Args:
        saved: content of the run's config.json.

    Returns:
        None where it is not known: the environment is not there, or the configuration is of another version.
    """
    try:
        config = RunConfig.from_json(saved)
        with torch.device("meta"):
            networks = config.build_networks().items()
            trained = [(network, config.agent.optimizer_of(name).build(network)) for name, network in networks]
    except StablegradError:
        return None
    return interventions.fitting(*trained)


def shortened(config: RunConfig, steps: int) -> RunConfig:
    """A run as one of a trial: with intervals that suit its length, for one core, and going on to its end when ill."""
    return dataclasses.replace(
        config,
        threads=1,
        total_steps=steps,
        checkpoint_every=None,
        log_every=None,
        eval_episodes=0,
        wandb=None,
        diagnosis=dataclasses.replace(config.diagnosis, on_collapse="continue"),
    )


def check_size(steps: int, seeds: int) -> None:
    """Raise UsageError for a trial that is too small to say anything."""
    if seeds < 2:
        raise UsageError(f"a trial needs at least 2 seeds, as one says nothing about chance; got {seeds}")
    if steps < 1:
        raise UsageError(f"steps must be at least 1, got {steps}")


def changed_configs(base: RunConfig, prescriptions: Sequence[Prescription]) -> dict[str, RunConfig]:
    """The run with each prescription that is a setting of the agent and changes it, by the prescription's name."""
    space, own = Space(base), agent_identity(base)
    configs = {
        one.name: space.trial(one.name, one.factor)
        if one.options is None
        else dataclasses.replace(base, agent=apply_changes(base.agent, one.options))
        for one in prescriptions
    }
    return {name: config for name, config in configs.items() if agent_identity(config) != own}


def commands_of(saved: Mapping[str, Any]) -> WriteCommand:
    """Writes the command that trains a run with an intervention.

    Args:
        saved: content of the run's config.json.

    Returns:
        a function of the intervention's name and its factor of the learning rate; None for an intervention that
        changes nothing in the run.
    """
    try:
        space = Space(RunConfig.from_json(saved))
    except StablegradError:  # the environment is not there, or the configuration is not an agent's of this version
        return short_commands_of(saved)

    def command(name: str, factor: float | None) -> str | None:
        try:
            config = space.trial(name, factor)
        except UsageError:  # no width is small enough: a report does without that command
            return None
        return None if agent_identity(config) == agent_identity(space.base) else train_command(config)

    return command


def short_commands_of(saved: Mapping[str, Any]) -> WriteCommand:
    """The same without the run's other options, for which nothing is imported and no environment is made."""
    if "env" in saved:
        options = flatten(saved.get("agent") or {})
        words = ["stablegrad", "train", str(saved.get("algorithm")), "--env", str(saved["env"])]
    else:
        # Encoders of classifiers have other norms than those of agents.
        options = {name: value for name, value in flatten(saved).items() if not name.startswith("encoder.")}
        words = ["stablegrad", "relearn"]
    if (preset := saved.get("preset", "baseline")) != "baseline":
        words += ["--preset", str(preset)]

    def command(name: str, factor: float | None) -> str | None:
        changes = with_rates(INTERVENTIONS[name].changes(options, factor), options)
        return command_text(changes, words) if changes else None

    return command


def verify_run(
    directory: Path,
    base: RunConfig,
    prescriptions: Sequence[Prescription],
    *,
    steps: int,
    seeds: int = SEEDS,
    top: int = TOP,
    workers: int | None = None,
    on_progress: Callable[[str, list[RunProgress]], None] | None = None,
    command: Sequence[str] | None = None,
) -> list[Trial]:
    """Train a run anew, shorter, without a change and with each of the first prescriptions.

    Called again with the same arguments it goes on where it was stopped.

    Args:
        directory: where the trainings lie.
        base: the run's configuration.
        prescriptions: what to try, the most promising first.
        steps: environment steps of every training; schedules are as long.
        seeds: pairs, at least 2; none is the run's own.
        top: how many of the prescriptions that are settings of the agent are tried.
        workers: trainings at once; None: as many as the cores hold, one thread each.
        on_progress: called about once a second with a change's name and the state of its trainings.
        command: for the reports.

    Returns:
        one trial a prescription, in their order, up to the last one that was tried. Effects are in units of the
        return, final returns with the change minus those without.

    Raises:
        UsageError: fewer than 2 seeds, or the directory holds another trial.
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    check_size(steps, seeds)
    base = shortened(base, steps)
    changed = changed_configs(base, prescriptions)
    tried = [one.name for one in prescriptions if one.name in changed][:top]
    last = max((place for place, one in enumerate(prescriptions) if one.name in tried), default=len(prescriptions) - 1)
    fresh, trials = fresh_seeds([base.seed], seeds), []
    shared: Path | None = None
    for one in prescriptions[: last + 1]:
        if one.name not in changed:
            reason = "it is no setting of the trainer, or the run has it already"
            trials.append(Trial(one.name, one.title, "not tried", reason))
            continue
        configs = {UNCHANGED: base, one.name: changed[one.name]}
        # A rate that is prescribed later, when the run has gone on, is another trial.
        own = one.name if one.factor is None else f"{one.name}-{one.factor:g}"
        comparison = Comparison.open(directory / own, configs, fresh, command)
        unchanged = comparison.directory / "runs" / UNCHANGED
        if shared is None:
            shared = unchanged
        elif not unchanged.exists():
            unchanged.parent.mkdir(exist_ok=True)
            unchanged.symlink_to(Path("../..") / shared.relative_to(directory))
        look = None if on_progress is None else _named(on_progress, one.name)
        result = run_comparison(
            comparison.directory, configs, fresh, workers=workers, on_progress=look, command=command
        )
        trials.append(outcome(one, result.summary))
    return trials


def outcome(prescription: Prescription, summary: Mapping[str, Any]) -> Trial:
    """What a comparison of a run without a change and with it says of the change.

    Go where the interval of the effect lies above 0, or where every training without the change failed and every one
    with it came to its end.
    """
    name = prescription.name
    finished = {setting: summary["results"][setting]["finished"] for setting in (UNCHANGED, name)}
    pairs, difference, cost = len(summary["seeds"]), summary["difference"], summary["cost"]
    if difference["interval"] is None:
        rescued = finished[UNCHANGED] == 0 and finished[name] == pairs
        reason = (
            f"of {pairs} trainings each, {finished[UNCHANGED]} came to their end without and {finished[name]} with it"
            if min(finished.values()) < pairs
            else "too few trainings ended an episode to say; give the trial more --steps"
        )
        return Trial(name, prescription.title, "go" if rescued else "no-go", reason, seeds=difference["count"])
    low, high = difference["interval"]
    decision, verdict = decide(low, high)
    before, after = (summary["results"][setting]["mean"] for setting in (UNCHANGED, name))
    memory = [cost[setting]["peak_memory_bytes"] for setting in (UNCHANGED, name)]
    return Trial(
        name,
        prescription.title,
        decision,
        f"{verdict}: return {before:,.1f} without, {after:,.1f} with it, {difference['count']} pairs",
        difference["mean"],
        low,
        high,
        summary["trade_off"]["time_ratio"],
        memory[1] / memory[0] if all(memory) else None,
        difference["count"],
        "the return",
    )


def planned_seconds(run_summary: Mapping[str, Any], steps: int, trainings: int, workers: int) -> float | None:
    """About how long a trial takes, by the speed of the run; None where that is not known."""
    speed = run_summary.get("steps_per_second")
    return None if not speed else steps / speed * trainings / workers


def _named(on_progress: Callable[[str, list[RunProgress]], None], name: str) -> Callable[[list[RunProgress]], None]:
    return lambda runs: on_progress(name, runs)

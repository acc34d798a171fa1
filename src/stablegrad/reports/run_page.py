"""report.html of one run: how it went, its diagnosis or its gradients, its cost, its configuration."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from stablegrad.diagnostics.page import View, is_look, view
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.errors import StablegradError, command
from stablegrad.pages import write_page
from stablegrad.reports.classifier_page import (
    accuracy_figure,
    by_epoch,
    classifier_cost,
    classifier_facts,
    classifier_title,
    phase_rows,
)
from stablegrad.reports.page import colour_scale, cost_figure, gradient_figures, option_rows, return_figure
from stablegrad.reports.series import gradient_maps, return_series
from stablegrad.studies.comparison import RunRecord, read_failure
from stablegrad.studies.run_trial import short_commands_of
from stablegrad.studies.summary import cost_of
from stablegrad.supervised import SupervisedConfig
from stablegrad.supervised.config import ALGORITHM as SUPERVISED
from stablegrad.text import duration, memory, number
from stablegrad.training.health import outcome_of
from stablegrad.training.run_folder import RunFolder


def write_run_report(run_dir: Path | str) -> Path:
    """Write ``report.html`` of one run folder.

    Args:
        run_dir: a run folder; the run may still be going on, or have stopped or failed.

    Returns:
        the path of report.html.

    Raises:
        UsageError: there is no run in the folder.
        StablegradError: a file in it cannot be read.
    """
    folder = RunFolder(run_dir)
    config = folder.read_config()
    for option in ("seed", *(() if config.get("algorithm") == SUPERVISED else ("total_steps",))):
        if type(config.get(option)) is not int:
            raise StablegradError(f"'{folder.config_path}': {option} should be a number, found {config.get(option)!r}")
    summary = folder.read_summary() or {}
    name = str(config.get("preset") or "run")
    status = str(summary.get("status") or "unfinished")
    error = read_failure(folder) or summary.get("error")
    run = RunRecord(name, int(config["seed"]), status, error, summary, folder.read_metrics())
    own = _classifier(run, config) if config.get("algorithm") == SUPERVISED else _agent(run, config)
    provenance = config.pop("provenance", None)
    provenance = provenance if isinstance(provenance, dict) else {}
    made_by = provenance.get("command")
    config.pop("format", None)
    return write_page(
        folder.path / "report.html",
        status=status,
        error=run.error or (summary.get("error") if own["template"].endswith("classifier.html") else None),
        options=option_rows([config]),
        provenance=option_rows([{key: value for key, value in provenance.items() if key != "command"}]),
        command=shlex.join(map(str, made_by)) if isinstance(made_by, list) and made_by else None,
        again=command("report", folder.path),
        resume=command("resume", folder.path),
        **own,
    )


def _agent(run: RunRecord, config: dict[str, Any]) -> dict[str, Any]:
    """The template of an agent's page and what it alone shows."""
    name, cost = run.setting, cost_of([run], finished_only=False)
    maps = gradient_maps({name: [run]})
    return {
        "template": "reports/templates/run.html",
        "title": f"{config.get('algorithm')} on {config.get('env')}: {name}, seed {run.seed}",
        "facts": _facts(run, config, cost),
        "curves": return_figure(return_series({name: [run]}, {"cost": {name: cost}})),
        "diagnosis": _diagnosis(run, config, "environment steps") if maps else None,
        "gradients": gradient_figures(maps) if maps else [],
        "scale": colour_scale(maps) if maps else None,
        "first": "observation",
        "cost": cost_figure({name: cost}),
    }


def _classifier(run: RunRecord, config: dict[str, Any]) -> dict[str, Any]:
    """The template of a classifier's page and what it alone shows."""
    options = SupervisedConfig.from_json(config)
    cost = classifier_cost(run)
    epochs = by_epoch(run)
    maps = gradient_maps({run.setting: [epochs]}, points=min(len(epochs.metrics), 100))
    return {
        "template": "reports/templates/classifier.html",
        "title": classifier_title(options),
        "facts": classifier_facts(run, options, cost),
        "curves": accuracy_figure(run, options),
        "reshuffles": options.reshuffles,
        "phases": phase_rows(run, options),
        "level": f"{options.relearn_accuracy:.0%}",
        "diagnosis": _diagnosis(run, config, "updates") if maps else None,
        "gradients": gradient_figures(maps, "epochs") if maps else [],
        "scale": colour_scale(maps) if maps else None,
        "first": "image",
        "cost": cost_figure({run.setting: cost}, "images"),
    }


def _diagnosis(run: RunRecord, config: dict[str, Any], step_name: str) -> View | None:
    """What the run's diagnosis measured while it trained; None where there was none."""
    if not any(is_look(row) for row in run.metrics):
        return None
    health = run.summary.get("health") or {}
    report = diagnose_recorded(
        run.metrics,
        # What the run itself said: a page builds no environment, and imports nothing that a folder names.
        fitting=frozenset(health["fitting"]) if "fitting" in health else None,
        order=run.summary.get("layers") or [],
        step_name=step_name,
        command=short_commands_of(config),
        outcome=outcome_of(config, run.metrics),
    )
    seconds, wall = (run.summary.get("seconds") or {}).get("diagnostics"), run.summary.get("wall_seconds")
    cost = {"seconds": seconds, "share": seconds / wall} if seconds is not None and wall else {}
    return view(replace(report, notes=[*(health.get("notes") or []), *report.notes], cost=cost))


def _facts(run: RunRecord, config: dict[str, Any], cost: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of summary.json in words."""
    summary = run.summary
    final, parameters = summary.get("final_return"), summary.get("parameters")
    steps = summary.get("env_steps", run.metrics[-1]["step"] if run.metrics else 0)
    facts = [
        ("State", run.status),
        ("Environment steps", f"{number(steps)} of {number(config['total_steps'])}"),
        ("Final return, mean of the last 100 episodes", number(final)),
        ("Parameters", number(parameters)),
        ("Wall time", duration(summary.get("wall_seconds"))),
        ("Steps per second", number(cost["steps_per_second"])),
        ("Peak memory", memory(cost["peak_memory_bytes"])),
    ]
    evaluation = summary.get("evaluation") or {}
    facts.extend(
        (f"Evaluation: {key.replace('_', ' ')}", number(value))
        for key, value in evaluation.items()
        if isinstance(value, int | float)
    )
    return facts

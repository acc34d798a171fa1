"""What the page of a classifier shows in place of returns and environment steps: accuracy by epoch, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from stablegrad.pages import PageFigure
from stablegrad.reports.charts import GREY, Line, LineChart, Panel, colour_of
from stablegrad.reports.charts_page import page_figures
from stablegrad.studies.comparison import RunRecord
from stablegrad.studies.curves import extract
from stablegrad.supervised import SupervisedConfig
from stablegrad.supervised.labels import epochs_to_learn
from stablegrad.text import MISSING, duration, memory, number, percent

#: Lines of the accuracy figure: metric, name in the legend.
ACCURACIES = {"train/accuracy": "training accuracy", "test/accuracy": "test accuracy (true labels)"}


def classifier_title(config: SupervisedConfig) -> str:
    """What was trained, on which data."""
    return f"Classifier on {Path(config.data).name}: {config.preset}, seed {config.seed}"


def by_epoch(run: RunRecord) -> RunRecord:
    """The same run with epochs as the steps of its metrics, which are optimizer updates in the file."""
    return replace(run, metrics=[{**row, "step": row["train/epoch"]} for row in run.metrics if "train/epoch" in row])


def classifier_cost(run: RunRecord) -> dict[str, Any]:
    """Time of 1,000 images, by part: how fast the epochs were, divided as the seconds of the summary are.

    Returns:
        ``images_per_second``, and what ``cost_figure`` takes: ``seconds_per_1000_steps`` and ``parts``, here of images;
        None where nothing was measured yet.
    """
    speeds = [row["speed/images_per_second"] for row in run.metrics if row.get("speed/images_per_second")]
    if not speeds:
        return {"images_per_second": None, "seconds_per_1000_steps": None, "parts": {}}
    seconds = fmean(1 / speed for speed in speeds)  # of an image: every epoch has the same number of them
    measured = run.summary.get("seconds") or {}
    in_batches = sum(measured.values())
    if not in_batches:
        return {"images_per_second": 1 / seconds, "seconds_per_1000_steps": None, "parts": {}}
    scale = 1000 * seconds / in_batches
    parts = {name: scale * value for name, value in measured.items()}
    parts["other"] = max(0.0, scale * (run.summary["wall_seconds"] - in_batches))
    return {"images_per_second": 1 / seconds, "seconds_per_1000_steps": sum(parts.values()), "parts": parts}


def classifier_facts(run: RunRecord, config: SupervisedConfig, cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of the run in words; those of a run that still goes on are the newest of its metrics."""
    summary, last = run.summary, run.metrics[-1] if run.metrics else {}
    again, tests = summary.get("relearning") or {}, extract(run.metrics, "test/accuracy").values
    facts = [
        ("State", run.status),
        ("Epochs", f"{number(summary.get('epochs', last.get('train/epoch', 0)))} of {number(config.epochs)}"),
        ("Updates", number(summary.get("updates", last.get("step", 0)))),
        ("Training accuracy, last epoch", percent(summary.get("final_accuracy", last.get("train/accuracy")), 1)),
        ("Test accuracy, last epoch with true labels", percent(float(tests[-1]) if tests.size else None, 1)),
    ]
    if again.get("reshuffles"):
        facts += [
            ("Reshuffled labels learned again", f"{again['relearned']} of {again['reshuffles']}"),
            ("Accuracy at the end of reshuffled phases, mean", percent(again["mean_final_accuracy"], 1)),
        ]
    return [
        *facts,
        ("Parameters", number(summary.get("parameters"))),
        ("Wall time", duration(summary.get("wall_seconds", last.get("wall_seconds")))),
        ("Images a second", number(cost["images_per_second"])),
        ("Peak memory", memory(summary.get("peak_memory_bytes"))),
    ]


def phase_rows(run: RunRecord, config: SupervisedConfig) -> list[list[str]]:
    """A row a phase of the schedule: labels, epochs, training and test accuracy at their end, epochs that they took."""
    epochs = {int(row["train/epoch"]): row for row in run.metrics if "train/epoch" in row}
    rows = []
    for phase, (first, end) in enumerate(
        zip([0, *config.reshuffles], [*config.reshuffles, config.epochs], strict=True)
    ):
        own = [epochs[epoch] for epoch in range(first + 1, end + 1) if epoch in epochs]
        learned = epochs_to_learn([row["train/accuracy"] for row in own], config.relearn_accuracy)
        over = len(own) == end - first
        last = own[-1] if own else {}
        rows.append(
            [
                f"reshuffled, {phase}" if phase else "true",
                str(end - first) if over else f"{len(own)} of {end - first}",
                percent(last.get("train/accuracy"), 1),
                percent(last.get("test/accuracy"), 1),
                str(learned) if learned is not None else "never" if over else "not yet" if own else MISSING,
            ]
        )
    return rows


def accuracy_figure(run: RunRecord, config: SupervisedConfig) -> PageFigure | None:
    """Accuracy by epoch with the reshuffles marked; None before the end of the first epoch."""
    curves = {name: extract(by_epoch(run).metrics, metric) for metric, name in ACCURACIES.items()}
    lines = [
        Line(
            name,
            colour_of(1 - index),
            curve.steps.tolist(),
            curve.values.tolist(),
            dash="solid" if not index else "dash",
        )
        for index, (name, curve) in enumerate(curves.items())
        if curve.steps.size
    ]
    if not lines:
        return None
    level = config.relearn_accuracy
    lines.append(Line(f"learned: {level:.0%}", GREY, [0, config.epochs], [level, level], dash="dot"))
    chart = LineChart(
        "accuracy",
        "Training accuracy by epoch, reshuffles marked" if config.reshuffles else "Training accuracy by epoch",
        "",
        "",
        [Panel("", lines, config.reshuffles)],
        "epoch",
        "accuracy (share of images)",
    )
    return page_figures(chart)[0]

"""Pictures of three symptoms in real trainings, each before and after what the report prescribed (docs/figures).

    python -m benchmarks.symptom_pictures [--seeds 3]

Multilayer perceptrons learn scikit-learn's digits, Adam, batches of 64, a monitor beside them. Each is trained as it
is, then, from the same seed, with the first prescription of its own report, and with changes named here. Where labels
are reshuffled the score is the training accuracy in the last epoch of the phases after the first, else the test
accuracy at the end.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from benchmarks.common import save
from benchmarks.diagnosis.networks import he, mlp
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from torch import nn

from stablegrad.diagnostics import Monitor, Report
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.page_figures import LINES
from stablegrad.pages import ZERO_COLOUR
from stablegrad.reports.figures import new_figure, png, styled
from stablegrad.reports.series import edges
from stablegrad.supervised.data import load_data

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
EVERY, BATCH = 10, 64
AS_IT_WAS, FIRST = "as it was", "first prescription"
Changes = tuple[tuple[str, float | None], ...]


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    seeds: int = 3
    """Trainings of each network and change."""


@dataclass(frozen=True)
class Symptom:
    """A training that shows one.

    Attributes:
        title: of the picture.
        network: makes it.
        rate: Adam's.
        draw: makes the picture, of (symptom, trainings by condition).
        others: names of changes beside the first prescription, each a condition of its own.
        phases: labels are new in each.
        epochs: of a phase.
    """

    title: str
    network: Callable[[], nn.Module]
    rate: float
    draw: Callable[[Symptom, dict[str, list[Training]]], Figure]
    others: tuple[tuple[str, ...], ...] = ()
    phases: int = 1
    epochs: int = 20

    @property
    def score(self) -> str:
        """What the score is."""
        return "test accuracy" if self.phases == 1 else "training accuracy on reshuffled labels"


@dataclass(frozen=True)
class Training:
    """One training: what its monitor says, what was changed, its score, the training accuracy of every epoch."""

    report: Report
    changes: Changes
    score: float
    epochs: list[float]


def main() -> None:
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    result = {}
    for name, symptom in SYMPTOMS.items():
        trainings: dict[str, list[Training]] = {}
        for seed in range(1, arguments.seeds + 1):
            before = train(symptom, (), seed)
            first = before.report.prescriptions[0]
            conditions: dict[str, Changes] = {FIRST: ((first.name, first.factor),)}
            conditions |= {" + ".join(names): tuple((one, None) for one in names) for names in symptom.others}
            trainings.setdefault(AS_IT_WAS, []).append(before)
            for condition, changes in conditions.items():
                trainings.setdefault(condition, []).append(train(symptom, changes, seed))
            for condition, runs in trainings.items():
                shown = runs[-1]
                print(f"{name}, seed {seed}, {condition}: {shown.score:.3f}, {shown.report.verdict}", flush=True)
        (FIGURES / f"symptom-{name.replace('_', '-')}.png").write_bytes(png(symptom.draw(symptom, trainings), 90))
        result[name] = {
            "score": symptom.score,
            "conditions": {condition: kept(runs) for condition, runs in trainings.items()},
        }
    save("symptom_pictures", f"python -m benchmarks.symptom_pictures --seeds {arguments.seeds}", {"symptoms": result})


def train(symptom: Symptom, changes: Changes, seed: int) -> Training:
    """Train the symptom's network with some changes."""
    data = load_data("digits")
    brightest = data.train_images.max()
    inputs, held_out = (pixels.flatten(1) / brightest for pixels in (data.train_images, data.test_images))
    torch.manual_seed(seed)
    network = symptom.network()
    optimizer: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), lr=symptom.rate)
    for name, factor in changes:
        optimizer = INTERVENTIONS[name].apply(network, optimizer, factor)
    order = torch.Generator().manual_seed(seed)
    labels, epochs = data.train_labels.long(), []
    with Monitor(network, optimizer, every=EVERY, probe=inputs[:256], probe_every=2 * EVERY) as monitor:
        for phase in range(symptom.phases):
            if phase:
                labels = labels[torch.randperm(len(labels), generator=order)]
            for _ in range(symptom.epochs):
                right = 0
                for rows in torch.randperm(len(labels), generator=order).split(BATCH):
                    outputs = network(inputs[rows])
                    optimizer.zero_grad()
                    F.cross_entropy(outputs, labels[rows]).backward()
                    optimizer.step()
                    right += int((outputs.argmax(1) == labels[rows]).sum())
                epochs.append(right / len(labels))
        report = monitor.report()
    if symptom.phases > 1:
        score = statistics.fmean(epochs[2 * symptom.epochs - 1 :: symptom.epochs])
    else:
        with torch.no_grad():
            score = float((network(held_out).argmax(1) == data.test_labels).float().mean())
    return Training(report, changes, score, epochs)


def kept(runs: list[Training]) -> dict[str, Any]:
    """What is worth keeping of the trainings of one condition."""
    rules = Counter(rule for run in runs for rule in {finding.rule for finding in run.report.findings})
    ranks = [run.report.history.series("effective_rank").values[-1, 0] for run in runs]
    return {
        "changes": [" + ".join(name if factor is None else f"{name} x {factor:g}" for name, factor in run.changes)
                    for run in runs],
        "scores": [round(run.score, 4) for run in runs],
        "mean": round(statistics.fmean(run.score for run in runs), 4),
        "effective_rank_at_the_end": [round(float(rank), 2) for rank in ranks],
        "verdicts": [run.report.verdict for run in runs],
        "seeds_by_rule": dict(rules.most_common()),
        "prescribed": [[one.name for one in run.report.prescriptions] for run in runs],
    }  # fmt: skip


def gradient_maps(symptom: Symptom, trainings: dict[str, list[Training]]) -> Figure:
    """The first seed's gradient norms, layer x time, one map a condition."""
    shown = [runs[0].report.history.series("gradient_norm") for runs in trainings.values()]
    norms = np.concatenate([series.values.ravel() for series in shown])
    norm = LogNorm(max(norms[norms > 0].min(), 1e-12), norms.max())
    return _maps(symptom, trainings, "gradient_norm", "gradient norm before clipping [loss / parameter]", norm)


def dead_maps(symptom: Symptom, trainings: dict[str, list[Training]]) -> Figure:
    """The first seed's dead units, layer x time, one map a condition."""
    return _maps(symptom, trainings, "dead", "share of units that are zero on every sample", Normalize(0, 1))


def _maps(
    symptom: Symptom, trainings: dict[str, list[Training]], metric: str, unit: str, norm: LogNorm | Normalize
) -> Figure:
    colours = "viridis" if isinstance(norm, LogNorm) else "cividis"
    with styled():
        figure = new_figure(3.2 * len(trainings) + 1.2, 3.2)
        panels = figure.subplots(1, len(trainings))
        for axes, (condition, runs) in zip(panels, trainings.items(), strict=True):
            series = runs[0].report.history.series(metric)
            values, borders = series.values.T, edges(series.steps)
            rows = np.arange(len(series.sites) + 1) + 0.5
            axes.grid(False)
            axes.pcolormesh(borders, rows, values, norm=norm, cmap=colours, rasterized=True)
            if isinstance(norm, LogNorm):
                zero = np.where(values == 0, 1.0, np.nan)
                axes.pcolormesh(borders, rows, zero, cmap=ListedColormap([ZERO_COLOUR]), rasterized=True)
            axes.invert_yaxis()
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set_xlabel("optimizer steps")
            axes.set_title(f"{_named(condition, runs)}\n{_scores(symptom, runs)}", loc="left", fontsize=9)
        panels[0].set_ylabel("layer, next to the input on top")
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(panels), aspect=25)
        bar.set_label(unit, fontsize=8)
        bar.outline.set_visible(False)
        figure.suptitle(symptom.title, x=0.01, ha="left", fontsize=11)
    return figure


def rank_lines(symptom: Symptom, trainings: dict[str, list[Training]]) -> Figure:
    """Effective rank and training accuracy over time, a line a seed, a colour a condition."""
    with styled():
        figure = new_figure(7.5, 4.8)
        above, below = figure.subplots(2, 1, sharex=True)
        for (condition, runs), colour, dash in zip(trainings.items(), LINES, ("-", "--", ":"), strict=False):
            label = f"{_named(condition, runs)}: {_scores(symptom, runs)}"
            for run in runs:
                series = run.report.history.series("effective_rank")
                there = np.isfinite(series.values[:, 0])
                steps = np.arange(1, len(run.epochs) + 1) * (run.report.history.rows[-1][0] / len(run.epochs))
                look = {"color": colour, "linestyle": dash, "linewidth": 1.2}
                above.plot(series.steps[there], series.values[there, 0], **look)
                below.plot(steps, run.epochs, **look, label=label if run is runs[0] else None)
        for axes in (above, below):
            for phase in range(1, symptom.phases):
                axes.axvline(phase * steps[-1] / symptom.phases, color="#555555", linewidth=0.8)
        above.set_yscale("log")
        above.set_ylabel("effective rank\n[directions]")
        below.set_ylabel("training accuracy\nof an epoch")
        below.set_ylim(0, 1.02)
        below.set_xlabel("optimizer steps; at the vertical lines labels are reshuffled")
        figure.legend(loc="outside lower left", fontsize=8)
        figure.suptitle(symptom.title, x=0.01, ha="left", fontsize=11)
    return figure


def _named(condition: str, runs: list[Training]) -> str:
    """A condition in words; reports of several seeds may prescribe several things, which are counted."""
    if condition == AS_IT_WAS:
        return condition
    named = Counter(
        " + ".join(
            INTERVENTIONS[name].title + (f" (times {factor:g})" if factor is not None else "")
            for name, factor in run.changes
        )
        for run in runs
    )
    words = ", ".join(f"{title} ({count})" for title, count in named.items()) if len(named) > 1 else next(iter(named))
    return ("prescribed first: " if condition == FIRST else "") + words


def _scores(symptom: Symptom, runs: list[Training]) -> str:
    """Mean and range of the scores over seeds, in words."""
    scores = [run.score for run in runs]
    return f"{symptom.score} {statistics.fmean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"


SYMPTOMS = {
    "vanishing_gradient": Symptom(
        "A plain stack of 20 layers, PyTorch's own initial weights: gradient norm by layer",
        lambda: mlp(64, *[64] * 20, 10),
        1e-3,
        gradient_maps,
        others=(("layer_norm",),),
    ),
    "dead_units": Symptom(
        "Six layers at a learning rate of 0.1: dead units by layer",
        lambda: he(mlp(64, *[64] * 6, 10)),
        0.1,
        dead_maps,
    ),
    "rank_collapse": Symptom(
        "A tanh stack of 16 layers while labels are reshuffled: rank of the features",
        lambda: he(mlp(64, *[64] * 16, 10, activation="tanh")),
        1e-3,
        rank_lines,
        others=(("multi_skip", "kron"),),
        phases=3,
    ),
}


if __name__ == "__main__":
    main()

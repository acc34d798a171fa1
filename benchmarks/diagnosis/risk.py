"""Fits the probability that a training ends failed on the corpus, and says how good it is.

    python -m benchmarks.diagnosis.risk [--write]

Every figure is of predictions for environments that were left out of the fit, with a 95% bootstrap interval over runs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from benchmarks.common import save
from benchmarks.diagnosis.corpus import CELLS, RATES, SHALLOW, WIDTH, random_return, read
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import stablegrad.diagnostics.risk as risk
from stablegrad.diagnostics import LEVELS, History
from stablegrad.diagnostics.history import looks_of
from stablegrad.diagnostics.recorded import returns_of
from stablegrad.diagnostics.rules import Outcome, judge, verdict_of
from stablegrad.environments.references import references

#: Shares of the way from random play to the reference below which a run failed, and from which on it did well.
FAILED, WELL = 0.5, 0.85
#: Shares of the budget at which runs are judged.
TIMES = {"half": 0.5, "end": 1.0}
BINS = (0.2, 0.4, 0.6, 0.8, 1.0)
PENALTY = 0.3
BOOTSTRAPS = 2000
#: Interventions by the settings of the corpus that apply them to a plain network.
CHANGES = {
    **{(name, 1.0): name for name in ("multi_skip", "residual", "layer_norm", "kron")},
    ("plain", RATES[0]): "lower_learning_rate",
    ("plain", RATES[2]): "raise_learning_rate",
}
#: Share of the fitted probability from which on one is warned.
WARN = 0.5


@dataclass(frozen=True)
class Snapshot:
    """A run at one time.

    Attributes:
        run: its place in the corpus.
        env: its environment.
        time: a key of ``TIMES``.
        way: share of the way from random play to the reference that it ended at.
        network: quantities of the network alone.
        returns: quantities with the returns.
        verdict: the worst level of the rules, outcome included.
    """

    run: int
    env: str
    time: str
    way: float
    network: Mapping[str, float]
    returns: Mapping[str, float]
    verdict: str

    @property
    def failed(self) -> bool:
        """Whether the run failed."""
        return self.way < FAILED


def final_return(record: Mapping[str, Any]) -> float:
    """Mean return of a run's last lines, a tenth of all, at least one; random play where none ended an episode."""
    _, returns = returns_of(record["rows"])
    return float(np.mean(returns[-max(len(returns) // 10, 1) :])) if len(returns) else math.nan


def reference_of(records: Sequence[Mapping[str, Any]]) -> float:
    """What a cell's shallow network reaches at its best rate, the mean over its seeds."""
    finals = [[final_return(one) for one in records if _is_shallow(one) and one["rate"] == rate] for rate in RATES]
    return max(float(np.mean(found)) for found in finals if found)


def _is_shallow(record: Mapping[str, Any]) -> bool:
    return (record["depth"], record["width"], record["variant"]) == (SHALLOW, WIDTH, "plain")


def snapshots(cells: Sequence[str]) -> list[Snapshot]:
    """All runs of the cells at all times; a cell whose reference learned nothing is left out."""
    found: list[Snapshot] = []
    run = 0
    for name in cells:
        records = read([name])
        if not any(map(_is_shallow, records)):
            continue
        env, random = CELLS[name].env, random_return(CELLS[name].env)
        reference = reference_of(records)
        known = references("train/return", {env})
        if reference - random < 0.1 * abs(random):
            print(f"{name}: the reference ends at {reference:.1f}, random play at {random:.1f}: left out")
            continue
        for record in records:
            run += 1
            way = (final_return(record) - random) / (reference - random)
            for time, share in TIMES.items():
                until = share * CELLS[name].steps * 1.02
                rows = [row for row in record["rows"] if row["step"] <= until]
                outcome = Outcome(
                    *returns_of(rows),
                    budget=CELLS[name].steps,
                    random=random,
                    target=known.target if known is not None else None,
                )
                history = History.from_rows(looks_of(rows) or rows)
                if not history.series("gradient_norm"):
                    continue
                verdict = verdict_of(judge(history, outcome=outcome))
                found.append(
                    Snapshot(
                        run, env, time, -1.0 if math.isnan(way) else way,
                        risk.quantities(history, None), risk.quantities(history, outcome), verdict,
                    )
                )  # fmt: skip
    return found


def tried(cells: Sequence[str]) -> dict[str, dict[str, int]]:
    """By intervention: in how many deep plain runs that failed it was tried, and how many of them it restored."""
    counts: dict[str, dict[str, int]] = {}
    for name in cells:
        records = read([name])
        if not any(map(_is_shallow, records)):
            continue
        reference, random = reference_of(records), random_return(CELLS[name].env)
        for one in records:
            final = final_return(one)
            plain = (one["variant"], one["rate"]) == ("plain", 1.0)
            if not plain or one["depth"] == SHALLOW or not final - random < FAILED * (reference - random):
                continue
            alike = [other for other in records if all(other[key] == one[key] for key in ("depth", "width", "seed"))]
            for other in alike:
                change = CHANGES.get((other["variant"], other["rate"]))
                if change is not None:
                    count = counts.setdefault(change, {"restored": 0, "of": 0})
                    count["of"] += 1
                    count["restored"] += final_return(other) - final >= FAILED * (reference - final)
    return counts


def table(chosen: Sequence[Snapshot], kind: str, names: Sequence[str]) -> np.ndarray:
    """[snapshots, quantities]."""
    return np.array([[getattr(one, kind)[name] for name in names] for one in chosen], np.float64)


def fit(chosen: Sequence[Snapshot], kind: str) -> dict[str, Any]:
    """A model as ``risk.json`` holds it, without its reliability."""
    names = [name for name in risk.QUANTITIES if kind == "returns" or name not in risk.OF_RETURNS]
    x, y = table(chosen, kind, names), np.array([one.failed for one in chosen])
    if kind == "returns":
        # The way is known where random play and a target are; the fit must also do without.
        without = x.copy()
        without[:, names.index("way")] = np.nan
        x, y = np.concatenate([x, without]), np.concatenate([y, y])
    there = np.isfinite(x)
    means = np.array([x[there[:, i], i].mean() if there[:, i].any() else 0.0 for i in range(len(names))])
    deviations = np.array([x[there[:, i], i].std() if there[:, i].any() else 1.0 for i in range(len(names))])
    deviations = np.where(deviations > 1e-9, deviations, 1.0)
    scaled = np.clip(np.where(there, (x - means) / deviations, 0.0), -risk.LIMIT, risk.LIMIT)
    model = LogisticRegression(C=PENALTY, max_iter=2000).fit(scaled, y)
    return {
        "intercept": round(float(model.intercept_[0]), 4),
        "coefficients": {name: round(float(c), 4) for name, c in zip(names, model.coef_[0], strict=True)},
        "means": {name: round(float(m), 4) for name, m in zip(names, means, strict=True)},
        "deviations": {name: round(float(d), 4) for name, d in zip(names, deviations, strict=True)},
    }


def predict(model: Mapping[str, Any], one: Snapshot, kind: str) -> float:
    """The probability, by the package's own arithmetic."""
    found = getattr(one, kind)
    odds = model["intercept"] + sum(risk._change(model, name, found[name]) for name in model["coefficients"])
    return 1.0 / (1.0 + math.exp(-odds))


def left_out(chosen: Sequence[Snapshot], kind: str) -> np.ndarray:
    """Predictions for every snapshot by a model of the other environments."""
    predicted = np.full(len(chosen), np.nan)
    for env in {one.env for one in chosen}:
        others = [one for one in chosen if one.env != env]
        if len({one.failed for one in others}) < 2:
            continue
        model = fit(others, kind)
        for place, one in enumerate(chosen):
            if one.env == env:
                predicted[place] = predict(model, one, kind)
    return predicted


def interval(statistic: Callable[[np.ndarray], float], runs: np.ndarray, seed: int = 0) -> list[float] | None:
    """95% bootstrap interval of a statistic of rows, resampled by run."""
    generator, places = np.random.default_rng(seed), {run: np.flatnonzero(runs == run) for run in np.unique(runs)}
    values = []
    for _ in range(BOOTSTRAPS):
        drawn = generator.choice(list(places), len(places))
        value = statistic(np.concatenate([places[run] for run in drawn]))
        if math.isfinite(value):
            values.append(value)
    return [round(float(q), 3) for q in np.quantile(values, (0.025, 0.975))] if values else None


def area(way: np.ndarray, predicted: np.ndarray) -> Callable[[np.ndarray], float]:
    """Area under the ROC curve of failed runs against those that did well, of some rows."""

    def of(rows: np.ndarray) -> float:
        rows = rows[((way[rows] < FAILED) | (way[rows] >= WELL)) & np.isfinite(predicted[rows])]
        if len({bool(way[row] < FAILED) for row in rows}) < 2:
            return math.nan
        return float(roc_auc_score(way[rows] < FAILED, predicted[rows]))

    return of


def calibration_error(failed: np.ndarray, predicted: np.ndarray) -> float:
    """Mean distance of predicted from observed shares, by fifths, weighted by their rows."""
    places = np.searchsorted(BINS, predicted)
    return float(
        sum(abs(predicted[places == b].mean() - failed[places == b].mean()) * (places == b).mean()
            for b in range(len(BINS)) if (places == b).any())
    )  # fmt: skip


def reliability(failed: np.ndarray, predicted: np.ndarray) -> list[dict[str, float]]:
    """Trainings and failures among them by fifths of the predicted probability."""
    places = np.searchsorted(BINS, predicted)
    return [
        {"up_to": b, "trainings": int((places == i).sum()), "failed": int(failed[places == i].sum())}
        for i, b in enumerate(BINS)
    ]


def scores(chosen: Sequence[Snapshot]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures of both models and of the rules, and the predictions for left-out environments by model."""
    way, runs = np.array([one.way for one in chosen]), np.array([one.run for one in chosen])
    found: dict[str, Any] = {}
    predictions = {kind: left_out(chosen, kind) for kind in ("network", "returns")}
    for time in TIMES:
        at = np.array([one.time == time for one in chosen])
        rules = np.array([float(LEVELS.index(one.verdict)) for one in chosen])
        for kind, predicted in {**predictions, "rules": rules}.items():
            rows = np.flatnonzero(at & np.isfinite(predicted))
            of = area(way, predicted)
            figures: dict[str, Any] = {"area": round(of(rows), 3), "interval": interval(of, rows, runs)}
            level = WARN if kind != "rules" else LEVELS.index("collapsing")
            warned, failed, well = predicted >= level, way < FAILED, way >= WELL
            figures["found"] = [int((warned & failed)[rows].sum()), int(failed[rows].sum())]
            figures["alarmed_at"] = [int((warned & well)[rows].sum()), int(well[rows].sum())]
            if kind != "rules":
                figures["calibration_error"] = round(calibration_error(failed[rows], predicted[rows]), 3)
            found[f"{kind} at the {time}"] = figures
    return found, predictions


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    write: bool = False
    """Write the fitted numbers into the package."""
    sealed: bool = False
    """Score the sealed cells, with the numbers in the package, instead."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    chosen = snapshots([name for name, cell in CELLS.items() if cell.sealed == arguments.sealed])
    if not chosen:
        sys.exit("no runs: collect them first, python -m benchmarks.diagnosis.corpus")
    runs = len({one.run for one in chosen})
    ends = [one for one in chosen if one.time == "end"]
    failed, well = sum(one.failed for one in ends), sum(one.way >= WELL for one in ends)
    print(f"{runs} runs in {len({one.env for one in chosen})} environments: {failed} failed, {well} well")
    figures, predictions = scores(chosen)
    for name, one in figures.items():
        print(f"{name}: {json.dumps(one)}")
    models = {}
    for kind, predicted in predictions.items():
        there = np.isfinite(predicted)
        models[kind] = fit(chosen, kind) | {
            "reliability": reliability(np.array([one.failed for one in chosen])[there], predicted[there])
        }
        coefficients = sorted(models[kind]["coefficients"].items(), key=lambda item: -abs(item[1]))
        print(kind, ", ".join(f"{name} {value:+.2f}" for name, value in coefficients))
    counts = tried([name for name, cell in CELLS.items() if cell.sealed == arguments.sealed])
    print("restored:", ", ".join(f"{name} {one['restored']} of {one['of']}" for name, one in sorted(counts.items())))
    if arguments.write:
        for file, content in (("risk.json", models), ("tried.json", counts)):
            Path(risk.__file__).with_name(file).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    command = f"python -m benchmarks.diagnosis.risk {' '.join(sys.argv[1:])}".strip()
    save(
        "risk",
        command,
        {"runs": runs, "failed": failed, "well": well, "figures": figures, "models": models, "tried": counts},
    )


if __name__ == "__main__":
    main()

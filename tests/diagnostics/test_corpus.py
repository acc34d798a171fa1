"""The corpus: which runs it has, what is kept of them, and that figures of its model are of what it has not seen."""

import math

import numpy as np
import pytest
from benchmarks.diagnosis import corpus, risk
from benchmarks.diagnosis.corpus import CELLS, DEEPEST, SHALLOW, Run, config_of, runs_of, thinned
from benchmarks.diagnosis.risk import Snapshot, area, calibration_error, final_return, fit, left_out, predict, tried

from stablegrad.diagnostics.risk import QUANTITIES


@pytest.mark.parametrize("name", CELLS)
def test_runs_are_told_apart_by_their_names_and_the_reference_comes_first(name):
    runs = list(runs_of(name))
    assert len({run.name for run in runs}) == len(runs) >= 30
    assert [(run.depth, run.variant, run.rate) for run in runs[:3]] == [(SHALLOW, "plain", r) for r in corpus.RATES]


def test_there_are_as_many_as_planned_and_sealed_are_two_environments_and_an_agent():
    runs = {name: len(list(runs_of(name))) for name in CELLS}
    assert sum(runs.values()) >= 400
    assert sum(count for name, count in runs.items() if name.startswith("sb3")) >= 60
    open_, sealed = ([cell for cell in CELLS.values() if cell.sealed == what] for what in (False, True))
    assert len({cell.env for cell in sealed} - {cell.env for cell in open_}) >= 2
    assert {cell.algorithm for cell in sealed} - {cell.algorithm for cell in open_} == {"sac"}


@pytest.mark.parametrize("name", [name for name in CELLS if not name.startswith("sb3")])
def test_what_a_cell_says_of_its_updates_is_what_its_agents_make(name):
    cell, config = CELLS[name], config_of(Run(name, 1, 64, "plain", 1.0, 1))
    agent = config.agent
    if cell.algorithm in ("pqn", "ppo"):
        rollout = agent.num_envs * agent.num_steps
        updates = cell.steps / rollout * agent.num_epochs * agent.num_minibatches
    else:
        learns = (cell.steps - agent.learning_starts) / max(agent.train_every, agent.num_envs)
        updates = learns * agent.gradient_steps
    assert cell.updates == pytest.approx(updates, rel=0.1)
    assert config.diagnosis.capacity_every < updates / 2, "measured at half of the budget and at its end"


def test_a_row_of_each_stretch_is_kept_with_all_that_was_logged_in_it():
    rows = [{"step": step, "update_ratio/a": 1.0} if step % 3 == 0 else {"step": step} for step in range(1, 401)]
    rows[200]["train/return"] = 7.0
    kept = thinned(rows)
    assert len(kept) == corpus.LINES
    assert all("update_ratio/a" in row for row in kept)
    assert [row["train/return"] for row in kept if "train/return" in row] == [7.0]


def test_a_final_return_is_that_of_the_last_tenth():
    rows = [{"step": step, "train/return": float(step)} for step in range(1, 21)]
    assert final_return({"rows": rows}) == 19.5
    assert math.isnan(final_return({"rows": [{"step": 1}]}))


def snapshots(envs=("a", "b", "c"), each=40):
    """Runs that fail where capacity was lost, and nothing else that tells."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(each * len(envs)):
        lost = generator.normal()
        found = {name: float(generator.normal()) for name in QUANTITIES} | {"lost capacity": lost, "churn": math.nan}
        way = 0.2 if lost + 0.3 * generator.normal() > 0 else 0.95
        made.append(Snapshot(number, envs[number % len(envs)], "end", way, found, found, "healthy"))
    return made


def test_the_fit_finds_what_tells_and_what_was_not_measured_counts_for_nothing():
    model = fit(made := snapshots(), "network")
    coefficients = model["coefficients"]
    assert max(coefficients, key=lambda name: abs(coefficients[name])) == "lost capacity"
    assert coefficients["lost capacity"] > 1 and abs(coefficients["churn"]) < 1e-6
    right = [(predict(model, one, "network") > 0.5) == one.failed for one in made]
    assert np.mean(right) > 0.85


def test_predictions_are_of_environments_that_were_left_out(monkeypatch):
    made, fitted = snapshots(), []
    monkeypatch.setattr(
        risk, "fit", lambda chosen, kind: fitted.append({one.env for one in chosen}) or fit(chosen, kind)
    )
    predicted = left_out(made, "network")
    assert np.isfinite(predicted).all()
    assert sorted(map(sorted, fitted)) == [["a", "b"], ["a", "c"], ["b", "c"]]
    way = np.array([one.way for one in made])
    assert area(way, predicted)(np.arange(len(made))) > 0.9
    assert area(way, -predicted)(np.arange(len(made))) < 0.1


def test_the_calibration_error_is_that_of_a_slow_loop():
    generator = np.random.default_rng(1)
    predicted, failed = generator.random(200), generator.random(200) < 0.4
    total = 0.0
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        rows = [row for row in range(200) if low < predicted[row] <= low + 0.2]
        total += len(rows) / 200 * abs(np.mean(predicted[rows]) - np.mean(failed[rows]))
    assert calibration_error(failed, predicted) == pytest.approx(total)


def test_a_change_restores_where_it_closes_half_of_the_gap(monkeypatch):
    def record(depth, variant, rate, final):
        rows = [{"step": step, "train/return": final} for step in range(10)]
        return {
            "cell": "pqn-cartpole",
            "depth": depth,
            "width": 64,
            "variant": variant,
            "rate": rate,
            "seed": 1,
            "rows": rows,
        }

    records = [
        record(SHALLOW, "plain", 1.0, 400.0),
        record(DEEPEST, "plain", 1.0, 40.0),
        record(DEEPEST, "multi_skip", 1.0, 300.0),
        record(DEEPEST, "kron", 1.0, 150.0),
        record(DEEPEST, "plain", 0.3, 390.0),
    ]
    monkeypatch.setattr(risk, "read", lambda cells: records)
    found = tried(["pqn-cartpole"])
    assert found == {
        "multi_skip": {"restored": 1, "of": 1},
        "kron": {"restored": 0, "of": 1},
        "lower_learning_rate": {"restored": 1, "of": 1},
    }

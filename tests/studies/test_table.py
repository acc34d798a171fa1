import itertools

import numpy as np
import pytest
from scipy import stats

from stablegrad.errors import UsageError
from stablegrad.studies.scores import score_matrix
from stablegrad.studies.statistics import interquartile_mean
from stablegrad.studies.study import read_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.table import (
    NOTHING,
    Row,
    Table,
    average,
    by_seed,
    counts,
    difference,
    estimate,
    improvement_probability,
    ratio,
    read_table,
    scores,
    study_scores,
    task_matrix,
)


def row(cell="a", seed=1, value=1.0, task="X", status="finished", budget=10, **values):
    return Row(cell, values or {"setting": cell}, seed, status, None, {"score": value}, task, budget)


def test_a_mean_over_cells_is_of_seeds_that_have_a_number_in_every_cell():
    rows = [row("a", 1, 1.0), row("a", 2, 2.0), row("a", 3, 5.0), row("b", 1, 3.0), row("b", 2, 8.0), row("b", 3, None)]
    assert by_seed(rows, "score") == {1: 2.0, 2: 5.0}
    found = average(rows, "score")
    half = stats.t.ppf(0.975, 1) * np.std([2.0, 5.0], ddof=1) / np.sqrt(2)
    assert (found.value, found.seeds) == (3.5, 2)
    assert found.interval == pytest.approx((3.5 - half, 3.5 + half))
    # averaging cells as if they were seeds would be another, narrower interval of another mean
    assert average([row("a", 1, 4.0)], "score").interval is None
    assert average([row("a", 1, None, status="failed")], "score") == NOTHING
    assert average([], "score") == NOTHING


def test_a_geometric_mean_is_that_of_logarithms_and_has_no_place_for_zero():
    rows = [row("a", 1, 1.0), row("a", 2, 100.0), row("a", 3, 0.0)]
    found = average(rows, "score", logarithmic=True)
    assert found.value == pytest.approx(10.0) and found.seeds == 2
    assert found.interval is not None
    assert np.log(found.interval) == pytest.approx(stats.t.interval(0.95, 1, np.log(10.0), stats.sem(np.log([1, 100]))))


def test_differences_are_paired_by_seed():
    first = [row("a", seed, value) for seed, value in ((1, 1.0), (2, 10.0), (3, 20.0))]
    second = [row("b", seed, value) for seed, value in ((1, 2.0), (2, 11.5), (4, 99.0))]
    found = difference(first, second, "score")
    assert (found.value, found.seeds) == (1.25, 2)
    assert difference(first, [], "score") == NOTHING
    assert ratio(first, second, "score").value == pytest.approx(np.sqrt(2.0 * 1.15))
    above = [row("b", seed, 5.0 + value + seed / 10) for seed, value in ((1, 1.0), (2, 10.0), (3, 20.0))]
    assert difference(first, above, "score").sign == 1 and difference(above, first, "score").sign == -1
    assert difference(first, first, "score").sign == 0


def test_over_several_tasks_it_is_the_interquartile_mean_of_all_runs():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(2, 4, 3))
    runs = list(itertools.product(range(4), range(3)))
    groups = [
        [row(f"{name}{task}", seed, values[index, seed, task], f"T{task}") for seed, task in runs]
        for index, name in enumerate("ab")
    ]
    for index, rows in enumerate(groups):
        assert estimate(rows, "score").value == pytest.approx(interquartile_mean(values[index], axis=None))
    found = difference(*groups, "score")
    assert found.value == pytest.approx(
        interquartile_mean(values[1], axis=None) - interquartile_mean(values[0], axis=None)
    )
    low, high = found.interval
    assert low < found.value < high
    won = np.mean([values[1, i, t] > values[0, j, t] for t in range(3) for i in range(4) for j in range(4)])
    assert improvement_probability(*groups, "score").value == pytest.approx(won)


def test_a_matrix_leaves_out_seeds_that_a_task_lacks_and_refuses_mixed_budgets():
    rows = [row("a", seed, float(seed), task) for seed in (1, 2, 3) for task in ("X", "Y")][:-1]
    matrix = task_matrix(rows, "score")
    assert matrix.seeds == (1, 2) and matrix.tasks == ("X", "Y") and matrix.budget == 10
    assert task_matrix([row("a", 1, None), row("a", 1, 1.0, "Y")], "score") is None
    with pytest.raises(ValueError, match="one budget"):
        task_matrix([*rows, row("a", 1, 1.0, "Z", budget=20)], "score")


def test_scores_are_of_runs_with_the_figure_and_mixtures_are_refused():
    rows = [row("a", 1, 1.0), row("a", 2, None, status="left"), row("b", 1, 2.0)]
    assert scores(rows[:2], "score") == [("X", 1, 10, 1.0)]
    with pytest.raises(ValueError, match="two scores of seed 1"):
        score_matrix(scores(rows, "score"))
    assert counts(rows) == {"finished": 2, "failed": 0, "left": 1}


STUDY = """
seeds = 2
report = ["final_return"]
[base]
algorithm = "pqn"
total_steps = 1000
[axes]
environment = {environments}
depth = ["large", "medium"]
torso.skip_blocks = [1, 2]
"""


def table_of(tmp_path, environments='["Pong-v5", "Qbert-v5"]'):
    file = tmp_path / "s.toml"
    file.write_text(STUDY.format(environments=environments).replace('"pqn"', '"pqn"\npreset = "stable"'))
    return read_table(StudyFolder.open(tmp_path / "s", read_study(file), file))


def test_a_table_knows_its_axes(tmp_path):
    table = table_of(tmp_path)
    assert (table.task_axis, table.sizes, table.settings) == ("environment", ("depth",), ("torso.skip_blocks",))
    assert table.axes["depth"] == ("medium", "large")  # by size, not by the file
    assert table.score == "human_normalized_return" and table.comparable and table.parts() == [("", table.rows)]
    assert list(table.groups(table.rows, ("depth", "torso.skip_blocks"))) == [
        ("medium", "1"), ("medium", "2"), ("large", "1"), ("large", "2"),
    ]  # fmt: skip
    assert table.label(("depth", "torso.skip_blocks"), ("large", "2")) == "depth large, skip_blocks 2"
    assert table.label((), ()) == "all runs"
    assert {row.status for row in table.rows} == {"left"} and len(table.rows) == 16


def test_returns_of_other_environments_are_not_averaged(tmp_path):
    table = table_of(tmp_path, '["CartPole-v1", "Acrobot-v1"]')
    assert table.score == "final_return" and not table.comparable
    assert [name for name, _ in table.parts()] == ["CartPole-v1", "Acrobot-v1"]
    rows = (row("a", 1, 1.0, "X", budget=1, environment="X"), row("b", 1, 1.0, "Y", budget=2, environment="Y"))
    assert not Table("agent", rows, {"environment": ("X", "Y")}, "score", "score").comparable  # two budgets


@pytest.mark.parametrize(
    ("figure", "where", "message"),
    [
        ("final_retrn", {}, "did you mean 'final_return'?"),
        ("final_return", {"dpth": "large"}, "did you mean 'depth'?"),
        ("final_return", {"depth": "mdium"}, "did you mean 'medium'?"),
    ],
)
def test_scores_of_a_study_refuse_unknown_names(tmp_path, figure, where, message):
    table_of(tmp_path)
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        study_scores(StudyFolder.read(tmp_path / "s"), figure, where)

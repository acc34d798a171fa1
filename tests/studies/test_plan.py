import pytest

from stablegrad.errors import UsageError
from stablegrad.studies import plan
from stablegrad.studies.plan import check_cells, makespan, plan_cells, seeds_within
from stablegrad.studies.study import read_study

TEXT = """
seeds = 3
[base]
algorithm = "relearn"
epochs = 30
reshuffle_every = 10
data_limit = 128
[axes]
width = [8, 16, 32]
rate = [{name = "low", "optimizer.learning_rate" = 1e-4}, {name = "high", "optimizer.learning_rate" = 1e-3}]
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.toml").write_text(TEXT)
    return read_study(tmp_path / "study.toml")


def test_makespan_is_that_of_workers_that_take_the_next_run():
    assert makespan([3, 1, 1, 1], 1) == 6
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([], 2) == 0


def test_a_budget_drops_whole_seeds_the_last_first_and_keeps_the_grid(study):
    seconds = {cell.name: 10.0 for cell in study.cells}  # 6 cells: a seed is 60 s
    for budget, dropped in ((1000, []), (180, []), (179, [3]), (120, [3]), (60, [2, 3])):
        kept, left_out = seeds_within(study.runs, seconds, 1, budget)
        assert left_out == dropped
        assert {run.cell.name for run in kept} == seconds.keys()
        assert sorted({run.seed for run in kept}) == [seed for seed in study.seeds if seed not in dropped]
    assert seeds_within(study.runs, seconds, 2, 90)[1] == []
    with pytest.raises(
        UsageError, match=r"one seed of every cell takes about 0\.017 hours with 1 workers.*--max-hours"
    ):
        seeds_within(study.runs, seconds, 1, 59)
    assert seeds_within([], {}, 1, 1.0) == ([], [])


def test_what_needs_no_try_is_taken_from_its_like(study, monkeypatch):
    need = check_cells(study.cells)
    keys = {cell.name: plan._cost_key(cell) for cell in study.cells}
    assert len(set(keys.values())) == 3  # the rate costs nothing
    assert len(plan._to_try(study.cells, keys, need)) == 3
    monkeypatch.setattr(plan, "MOST_CELLS", 2)
    tried = plan._to_try(study.cells, keys, need)
    assert [cell.values["width"] for cell in tried] == ["8", "32"]  # the smallest and the largest

    def calibrate(cells, need, workers, on_progress):
        return {cell.name: plan._Measured(1.0, need[cell.name].parameters / 1e6, False, None) for cell in cells}

    monkeypatch.setattr(plan, "_calibrate", calibrate)
    plans = plan_cells(study.cells, 1)
    for name, one in plans.items():
        assert one.seconds == pytest.approx(1.0 + need[name].parameters / 1e6 * need[name].steps)
        assert one.memory_bytes == need[name].memory_bytes


def test_a_calibration_tells_time_and_memory(study, monkeypatch):
    monkeypatch.setattr(plan, "LOOK_SECONDS", 0.3)
    told = []
    cell = study.cells[0]
    plans = plan_cells([cell], 1, lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    one = plans[cell.name]
    assert one.parameters == check_cells([cell])[cell.name].parameters
    assert 0 < one.seconds < 60 and not one.at_least
    assert 50e6 < one.memory_bytes < 5e9


def test_a_cell_that_cannot_run_is_named(tmp_path):
    (tmp_path / "study.toml").write_text(TEXT.replace("data_limit = 128", "data_limit = 5000"))
    study = read_study(tmp_path / "study.toml")
    with pytest.raises(UsageError, match=r"data-limit must be from 1 to 1438.*in width=8_rate=low"):
        check_cells(study.cells)

import json

import numpy as np
import pytest
from scipy import stats

from stablegrad.errors import StablegradError
from stablegrad.studies import summarize
from stablegrad.studies.stability import curve_spread
from stablegrad.studies.summary import cost_of


def test_figures_of_a_finished_comparison(synthetic, tmp_path):
    summary = summarize(synthetic.write_comparison(tmp_path / "c"))
    json.dumps(summary, allow_nan=False)
    first, second = (np.array(summary["results"][name]["final_returns"]) for name in ("baseline", "stable"))
    assert summary["results"]["stable"]["mean"] == pytest.approx(second.mean())
    expected = stats.ttest_1samp(second, 0).confidence_interval(0.95)
    assert summary["results"]["stable"]["interval"] == pytest.approx(list(expected))
    difference = summary["difference"]
    assert difference["mean"] == pytest.approx((second - first).mean())
    assert difference["interval"] == pytest.approx(list(stats.ttest_rel(second, first).confidence_interval(0.95)))
    assert (difference["pairs_won"], difference["pairs_lost"], difference["count"]) == (3, 0, 3)
    assert difference["probability_of_improvement"] == 1.0
    assert summary["stability"]["baseline"]["collapsed"] == 3
    assert summary["stability"]["stable"]["collapsed"] == 0
    assert summary["left_out"] == []


def test_stability_is_of_the_logged_curve(synthetic, tmp_path):
    directory = synthetic.write_comparison(tmp_path / "c", seeds=(4,))
    lines = (directory / "runs/stable/seed-4/metrics.jsonl").read_text().splitlines()
    points = [(row["step"], row["train/return"]) for row in map(json.loads, lines) if "train/return" in row]
    summary = summarize(directory)
    assert summary["stability"]["stable"]["spread"] == [pytest.approx(curve_spread(*zip(*points, strict=True)))]


def test_losing_next_to_nothing_is_no_collapse(synthetic, tmp_path):
    hill = 5 * np.exp(-(((np.linspace(0, 1, 150) - 0.3) / 0.1) ** 2))
    alone = {"baseline/1": {"returns": hill}, "stable/1": {"returns": hill}}
    beside = {"baseline/1": {"returns": hill}, "stable/1": {"returns": np.linspace(0, 300, 150)}}
    for name, changes, collapsed in (("alone", alone, 1), ("beside", beside, 0)):
        summary = summarize(synthetic.write_comparison(tmp_path / name, seeds=(1,), **changes))
        assert summary["stability"]["baseline"]["collapsed"] == collapsed


def test_cost_and_trade_off(synthetic, tmp_path):
    summary = summarize(synthetic.write_comparison(tmp_path / "c"))
    cost, trade = summary["cost"], summary["trade_off"]
    assert cost["baseline"]["seconds_per_1000_steps"] == pytest.approx(0.2)
    assert cost["stable"]["seconds_per_1000_steps"] == pytest.approx(0.30)  # 0.29, 0.30, 0.31
    assert trade["time_ratio"] == pytest.approx(1.5)
    assert trade["break_even_steps"] == pytest.approx(1 / 1.5)
    assert cost["stable"]["shares"]["optimizer"] == pytest.approx(0.4)
    assert sum(cost["stable"]["parts"].values()) == pytest.approx(0.30)
    assert sum(cost["stable"]["shares"].values()) == pytest.approx(1)
    assert trade["equal_time"]["baseline"]["step"] == 300_000
    assert trade["equal_time"]["stable"]["step"] == pytest.approx(200_000, abs=1)
    assert trade["level_at_start"]  # the collapsed baseline ends below where it began
    assert trade["steps_to_level"] == {"baseline": None, "stable": None}


def test_steps_to_the_level_of_the_first_setting(synthetic, tmp_path):
    slow, fast = np.linspace(0, 100, 150), np.minimum(np.linspace(0, 400, 150), 120)
    changes = {f"baseline/{seed}": {"returns": slow} for seed in (1, 2)}
    changes |= {f"stable/{seed}": {"returns": fast, "seconds_per_1000": 0.3} for seed in (1, 2)}
    trade = summarize(synthetic.write_comparison(tmp_path / "c", seeds=(1, 2), **changes))["trade_off"]
    assert trade["level"] == pytest.approx(100)
    assert trade["steps_to_level"]["baseline"] == 300_000
    assert trade["steps_to_level"]["stable"] == pytest.approx(75_000, rel=0.05)  # where 400 t = 100
    assert trade["seconds_to_level"]["stable"] == pytest.approx(trade["steps_to_level"]["stable"] * 0.3e-3)
    assert trade["steps_share"] == pytest.approx(0.25, rel=0.05)
    assert trade["seconds_share"] == pytest.approx(0.25 * 1.5, rel=0.05)


def test_a_level_that_is_never_reached_has_no_number(synthetic, tmp_path):
    changes = {"baseline/1": {"returns": np.linspace(0, 100, 150)}, "stable/1": {"returns": np.linspace(0, 50, 150)}}
    trade = summarize(synthetic.write_comparison(tmp_path / "c", seeds=(1,), **changes))["trade_off"]
    assert trade["steps_to_level"]["stable"] is None
    assert trade["seconds_to_level"]["stable"] is None
    assert trade["steps_share"] is None


def test_what_did_not_finish_counts_nowhere(synthetic, tmp_path):
    changes = {
        "baseline/1": {"status": "failed", "error": "out of luck", "seconds_per_1000": 0.01},
        "stable/2": {"status": "stopped", "seconds_per_1000": 9.0},
        "stable/3": "missing",
        "baseline/3": {"status": None},
    }
    summary = summarize(synthetic.write_comparison(tmp_path / "c", seeds=(1, 2, 3, 4), **changes))
    assert summary["left_out"] == [
        {"setting": "baseline", "seed": 1, "status": "failed", "error": "out of luck"},
        {"setting": "stable", "seed": 2, "status": "stopped", "error": None},
        {"setting": "baseline", "seed": 3, "status": "unfinished", "error": None},
        {"setting": "stable", "seed": 3, "status": "waiting", "error": None},
    ]
    assert [value is None for value in summary["results"]["baseline"]["final_returns"]] == [True, False, True, False]
    assert summary["difference"]["count"] == 1
    assert summary["difference"]["interval"] is None
    assert summary["stability"]["stable"]["judged"] == 2
    assert summary["trade_off"]["time_ratio"] == pytest.approx(0.32 / 0.2)  # of seed 4, the one complete pair


def test_nothing_at_all_is_null_everywhere(synthetic, tmp_path):
    changes = {f"{setting}/1": "missing" for setting in ("baseline", "stable")}
    summary = summarize(synthetic.write_comparison(tmp_path / "c", seeds=(1,), **changes))
    for setting in ("baseline", "stable"):
        assert summary["results"][setting]["mean"] is None
        assert summary["cost"][setting]["seconds_per_1000_steps"] is None
        assert set(summary["cost"][setting]["parts"].values()) == {None}
    assert summary["difference"]["mean"] is None
    assert summary["difference"]["probability_of_improvement"] is None
    assert summary["trade_off"]["time_ratio"] is None
    assert summary["trade_off"]["level"] is None
    assert summary["trade_off"]["equal_time"] is None


def test_a_finished_run_without_any_episode_has_no_return(synthetic, tmp_path):
    directory = synthetic.write_comparison(tmp_path / "c", seeds=(1,))
    path = directory / "runs/stable/seed-1/summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"final_return": None}))
    summary = summarize(directory)
    assert summary["results"]["stable"]["final_returns"] == [None]
    assert summary["results"]["stable"]["finished"] == 1
    assert summary["difference"]["count"] == 0


def test_cost_of_counts_finished_runs_only_unless_told(synthetic, tmp_path):
    from stablegrad.studies import Comparison

    directory = synthetic.write_comparison(tmp_path / "c", seeds=(1,), **{"stable/1": {"status": "stopped"}})
    record = Comparison.read(directory).record("stable", 1)
    assert cost_of([record])["wall_seconds"] is None
    assert cost_of([record], finished_only=False)["wall_seconds"] == pytest.approx(0.29 * 300)


def test_a_broken_comparison_file_is_one_clear_line(tmp_path):
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(StablegradError, match="cannot be read as a comparison"):
        summarize(tmp_path)
    (tmp_path / "comparison.json").write_text('{"format": 99}')
    with pytest.raises(StablegradError, match="has format 99"):
        summarize(tmp_path)

import numpy as np
import pytest

from stablegrad.reports.series import edges, gradient_maps, records_by_setting, return_series
from stablegrad.studies import Comparison, statistics, summarize


def load(directory):
    return records_by_setting(Comparison.read(directory)), summarize(directory)


def test_the_band_is_the_interval_over_finished_seeds(synthetic, tmp_path):
    records, summary = load(synthetic.write_comparison(tmp_path / "c", **{"stable/2": {"status": "stopped"}}))
    baseline, stable = return_series(records, summary)
    assert [(seed, finished) for seed, finished, _ in stable.runs] == [(1, True), (2, False), (3, True)]
    finished = [curve for _, done, curve in stable.runs if done]
    middle = 100
    values = [np.interp(stable.steps[middle], *curve) for curve in finished]
    estimate = statistics.mean_interval(values)
    assert stable.mean[middle] == pytest.approx(estimate.mean)
    assert stable.interval[0][middle] == pytest.approx(estimate.interval[0])
    assert stable.interval[1][middle] == pytest.approx(estimate.interval[1])
    assert baseline.seconds_per_step == pytest.approx(0.2e-3)


def test_both_maps_share_one_scale_that_spans_them(synthetic, tmp_path):
    records, _ = load(synthetic.write_comparison(tmp_path / "c"))
    maps = gradient_maps(records)
    values = np.concatenate([found.log10_norms.ravel() for found in maps.maps])
    assert maps.low == np.nanmin(values)
    assert maps.high == np.nanmax(values)
    assert [found.layers for found in maps.maps] == [synthetic.PLAIN, synthetic.SKIP]
    assert maps.maps[0].zero[0, -1] and not maps.maps[1].zero.any()
    assert maps.seeds == [3, 3]


def test_the_scale_ends_eight_decades_below_its_top(synthetic, tmp_path):
    changes = {f"baseline/{seed}": {"fading": 3.0} for seed in (1, 2, 3)}
    maps = gradient_maps(load(synthetic.write_comparison(tmp_path / "c", **changes))[0])
    assert np.nanmin(maps.maps[0].log10_norms) < maps.high - 20
    assert maps.low == maps.high - 8


def test_layers_stand_in_the_order_of_the_summary(synthetic, tmp_path):
    directory = synthetic.write_comparison(tmp_path / "c", seeds=(1,))
    path = directory / "runs/baseline/seed-1/summary.json"
    path.write_text(path.read_text().replace('"encoder.0", "torso.layers.0"', '"torso.layers.0", "encoder.0"'))
    assert gradient_maps(load(directory)[0]).maps[0].layers[:2] == ["torso.layers.0", "encoder.0"]


def test_nothing_measured_is_no_map(synthetic, tmp_path):
    changes = {f"{setting}/1": "missing" for setting in ("baseline", "stable")}
    records, summary = load(synthetic.write_comparison(tmp_path / "c", seeds=(1,), **changes))
    assert gradient_maps(records) is None
    assert [entry.runs for entry in return_series(records, summary)] == [[], []]


def test_edges_enclose_their_steps():
    assert edges(np.array([10.0, 20.0, 30.0])).tolist() == [5, 15, 25, 35]
    assert edges(np.array([7.0])).tolist() == [6.5, 7.5]

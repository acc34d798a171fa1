import io
import itertools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import PolyCollection, QuadMesh

from stablegrad.pages import SETTING_COLOURS
from stablegrad.reports import write_figures
from stablegrad.reports.figures import cost_bars, gradient_heatmaps, learning_curves, png
from stablegrad.reports.series import gradient_maps, records_by_setting, return_series
from stablegrad.studies import Comparison, summarize


def load(directory):
    return records_by_setting(Comparison.read(directory)), summarize(directory)


def test_write_figures_leaves_three_pictures(synthetic, tmp_path):
    directory = synthetic.write_comparison(tmp_path / "c")
    paths = write_figures(directory)
    assert [path.name for path in paths] == ["learning_curves.png", "gradient_norms.png", "cost.png"]
    for path in paths:
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] > 900
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50
    assert sorted(path.name for path in (directory / "figures").iterdir()) == sorted(path.name for path in paths)


def test_nothing_to_show_draws_nothing(synthetic, tmp_path):
    changes = {f"{setting}/1": "missing" for setting in ("baseline", "stable")}
    assert write_figures(synthetic.write_comparison(tmp_path / "c", seeds=(1,), **changes)) == []


def test_learning_curves_draw_seeds_means_and_bands(synthetic, tmp_path):
    directory = synthetic.write_comparison(tmp_path / "c", **{"stable/2": {"status": "stopped"}})
    records, summary = load(directory)
    series = return_series(records, summary)
    (axes,) = learning_curves(series, summary).axes
    assert len(axes.lines) == 2 * (3 + 1)
    assert sum(line.get_linestyle() == ":" for line in axes.lines) == 1
    assert len([band for band in axes.collections if isinstance(band, PolyCollection)]) == 2
    thick = [line for line in axes.lines if line.get_linewidth() > 2]
    assert [line.get_color() for line in thick] == list(SETTING_COLOURS)
    np.testing.assert_array_equal(thick[1].get_ydata(), series[1].mean)
    assert axes.get_xlabel() == "environment steps" and "return" in axes.get_ylabel()
    assert "pqn on LunarLander-v3" in axes.get_title(loc="left")
    low, high = axes.get_ylim()
    for entry in series:
        for _, _, curve in entry.runs:
            assert low < curve.values.min() and curve.values.max() < high


@pytest.mark.parametrize("count", [3, 60, 200])
def test_heatmaps_share_a_scale_and_have_the_first_layer_on_top(synthetic, tmp_path, count):
    layers = ["encoder.0", *(f"torso.blocks.{index}.second" for index in range(count - 1))]
    changes = {f"baseline/{seed}": {"layers": layers, "points": 30, "returns": np.zeros(30)} for seed in (1, 2)}
    records, _ = load(synthetic.write_comparison(tmp_path / "c", seeds=(1, 2), **changes))
    figure = gradient_heatmaps(gradient_maps(records), "title")
    left, right, bar = figure.axes
    meshes = [mesh for axes in (left, right) for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    assert meshes[0].norm is meshes[2].norm  # each panel has its map and its layer of exact zeros
    assert bar.get_ylabel() == "gradient norm before clipping"
    content = png(figure, dots_per_inch=80)
    labels = left.get_yticklabels()
    heights = [label.get_window_extent() for label in labels]
    assert labels[0].get_text() == "encoder.0"
    assert all(upper.y0 > lower.y0 for upper, lower in itertools.pairwise(heights))
    overlap = [lower.y1 - upper.y0 for upper, lower in itertools.pairwise(heights)]
    assert max(overlap) <= 1.5  # readable: names do not run into each other, up to the font's own margin
    assert matplotlib.image.imread(io.BytesIO(content)).size


def test_cost_bars_add_up_to_the_seconds_of_a_step(synthetic, tmp_path):
    _, summary = load(synthetic.write_comparison(tmp_path / "c"))
    (axes,) = cost_bars(summary).axes
    for row, name in enumerate(summary["settings"]):
        widths = [container.patches[row].get_width() for container in axes.containers]
        assert sum(widths) == pytest.approx(summary["cost"][name]["seconds_per_1000_steps"])
    assert "seconds per 1,000" in axes.get_xlabel()

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.studies.curves import Curve, common_grid, extract, gradient_map, layer_names, mean_curve


def rows(values, layer="a", start=10):
    return [{"step": start * (index + 1), f"gradient_norm/{layer}": value} for index, value in enumerate(values)]


def test_extract_leaves_out_what_is_missing_and_takes_the_last_line_of_a_step():
    metrics = [
        {"step": 20, "x": 1.0},
        {"step": 10, "x": 5.0},
        {"step": 30},
        {"step": 40, "x": None},
        {"step": 50, "x": float("nan")},
        {"step": 20, "x": 2.0},
    ]
    curve = extract(metrics, "x")
    assert curve.steps.tolist() == [10, 20]
    assert curve.values.tolist() == [5.0, 2.0]
    assert extract([], "x").steps.size == 0


def test_common_grid_covers_what_all_curves_cover():
    curves = [Curve(np.array([0.0, 100.0]), np.zeros(2)), Curve(np.array([20.0, 80.0]), np.zeros(2))]
    assert common_grid(curves, 3).tolist() == [20, 50, 80]
    apart = [curves[0], Curve(np.array([200.0, 300.0]), np.zeros(2))]
    assert common_grid(apart, 3).size == 0
    assert common_grid([], 3).size == 0
    assert mean_curve(apart).values.size == 0


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6), st.floats(-5, 5))
def test_mean_curve_of_lines_is_the_line_of_means(levels, slope):
    steps = [np.linspace(0, 10, 5 + index) for index in range(len(levels))]  # each seed logs at its own steps
    curves = [Curve(at, level + slope * at) for at, level in zip(steps, levels, strict=True)]
    mean = mean_curve(curves, points=7)
    np.testing.assert_allclose(mean.values, np.mean(levels) + slope * mean.steps, atol=1e-9)


def test_gradient_map_is_the_geometric_mean_over_seeds():
    runs = [rows([1e-2, 1e-4, 1.0]), rows([1e-4, 1e-8, 1.0])]
    found = gradient_map(runs, ["a"], points=3)
    assert found.steps.tolist() == [10, 20, 30]
    np.testing.assert_allclose(found.log10_norms, [[-3, -6, 0]], atol=1e-12)
    assert not found.zero.any()


def test_zero_norms_are_marked_only_where_all_seeds_are_zero():
    runs = [rows([1.0, 0.0, 0.0]), rows([1.0, 1e-3, 0.0])]
    found = gradient_map(runs, ["a"], points=3)
    assert found.zero.tolist() == [[False, False, True]]
    assert found.log10_norms[0, 1] == pytest.approx((-4 + -3) / 2)  # zero counts as a tenth of the smallest, 1e-3
    assert np.isnan(found.log10_norms[0, 2])


def test_all_zero_and_nothing_measured():
    assert gradient_map([rows([0.0, 0.0])], ["a"], points=2).zero.all()
    nothing = gradient_map([rows([1.0, 1.0])], ["a", "never"], points=2)
    assert np.isnan(nothing.log10_norms[1]).all()
    assert not nothing.zero[1].any()


def test_layer_names_keep_their_order():
    metrics = [{"step": 1.0, "gradient_norm/z": 1.0, "gradient_norm/a": 1.0}, {"step": 2.0, "gradient_norm/b": 1.0}]
    assert layer_names(metrics) == ["z", "a", "b"]

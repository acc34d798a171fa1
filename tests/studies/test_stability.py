import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.studies.stability import curve_spread, early_collapse, smooth, steps_to_reach

STEPS = np.arange(1, 201) * 1000
TIME = np.linspace(0, 1, 200)


def noise(scale, seed=0):
    return np.random.default_rng(seed).normal(0, scale, 200)


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0.05, 1))
@settings(deadline=None)
def test_a_straight_line_is_its_own_trend(start, slope, window):
    line = start + slope * TIME
    np.testing.assert_allclose(smooth(line, window), line, atol=1e-9)
    assert curve_spread(STEPS, line) == pytest.approx(0, abs=1e-9)


def test_smooth_is_a_moving_mean_inside():
    curve = noise(1.0)
    smoothed = smooth(curve, 0.105)  # 21 points
    for index in range(10, 190):
        assert smoothed[index] == pytest.approx(np.mean(curve[index - 10 : index + 11]))


def test_spread_is_the_noise_of_the_second_half():
    curve = 100 * TIME + noise(5.0) + np.where(TIME < 0.4, noise(50.0, seed=1), 0)
    assert curve_spread(STEPS, curve) == pytest.approx(5.0, rel=0.15)


@given(st.floats(0.1, 100), st.floats(-1000, 1000))
@settings(deadline=None)
def test_spread_scales_with_the_return_and_ignores_its_level(factor, level):
    curve = 10 * TIME + noise(1.0)
    assert curve_spread(STEPS, factor * curve + level) == pytest.approx(factor * curve_spread(STEPS, curve), rel=1e-6)


def test_collapse_is_found_where_it_happens():
    curve = np.where(TIME < 0.3, 200 * TIME / 0.3, np.where(TIME < 0.5, 200 - 1000 * (TIME - 0.3), 0.0)) + noise(3.0)
    found = early_collapse(STEPS, curve)
    assert found.collapsed
    assert found.step == pytest.approx(80_000, abs=6_000)  # half is lost at 0.4 of 200,000 steps
    assert found.best_step == pytest.approx(60_000, abs=8_000)
    assert found.lost_share == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "curve",
    [
        200 * TIME,  # learns to the end
        np.minimum(400 * TIME, 200.0),  # learns and stays
        -200 * TIME,  # only ever gets worse: nothing was gained
        np.zeros(200),  # never moves
        np.minimum(400 * TIME, 200.0) - np.where((TIME > 0.6) & (TIME < 0.75), 190, 0),  # a dip that it gets over
        np.minimum(400 * TIME, 200.0) - np.where(TIME > 0.95, 190, 0),  # a dip on the last lines
        np.minimum(400 * TIME, 200.0) - np.where(TIME > 0.6, 60, 0),  # loses less than half
    ],
)
def test_no_collapse(curve):
    assert not early_collapse(STEPS, curve + noise(2.0)).collapsed


def test_noise_alone_is_no_collapse():
    found = [early_collapse(STEPS, noise(10.0, seed)).collapsed for seed in range(200)]
    assert sum(found) <= 2


def test_minimum_gain_says_what_counts_as_having_learned():
    curve = 20 * np.exp(-(((TIME - 0.3) / 0.1) ** 2))
    assert early_collapse(STEPS, curve).collapsed
    assert not early_collapse(STEPS, curve, minimum_gain=50).collapsed


@given(st.floats(0.5, 50), st.floats(-1000, 1000))
@settings(deadline=None)
def test_collapse_does_not_depend_on_the_scale_of_the_return(factor, level):
    curve = np.exp(-(((TIME - 0.3) / 0.15) ** 2)) + noise(0.02)
    one, other = early_collapse(STEPS, curve), early_collapse(STEPS, factor * curve + level)
    assert (one.collapsed, one.step, one.best_step) == (other.collapsed, other.step, other.best_step)


def test_persistence_is_a_share_of_the_steps():
    curve = np.minimum(400 * TIME, 200.0) - np.where(TIME > 0.8, 190, 0)
    assert early_collapse(STEPS, curve, persistence=0.15).collapsed
    assert not early_collapse(STEPS, curve, persistence=0.25).collapsed


def test_short_curves_are_not_judged():
    assert curve_spread([1, 2], [3.0, 4.0]) is None
    assert early_collapse([1, 2], [3.0, 4.0]) is None
    assert curve_spread([], []) is None


@given(st.lists(st.floats(-10, 10), max_size=30), st.floats(-12, 12))
def test_steps_to_reach_is_a_slow_search(returns, level):
    steps = [10 * (index + 1) for index in range(len(returns))]
    expected = None
    for step, value in zip(steps, returns, strict=True):
        if value >= level:
            expected = step
            break
    assert steps_to_reach(steps, returns, level) == expected


def test_curves_out_of_order_are_refused():
    with pytest.raises(ValueError, match="increase"):
        steps_to_reach([2, 1], [0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="one length"):
        curve_spread([1, 2], [0.0])

import numpy as np
import pytest
from scipy import stats

from stablegrad.studies.power import MOST_PAIRS, pairs_needed, power_of_pairs
from stablegrad.studies.statistics import paired_difference

# The sample sizes that textbooks give for the paired t-test at a level of 0.05, two-sided.
TABLE = [(0.2, 199, 0.8), (0.5, 34, 0.8), (0.8, 15, 0.8), (0.5, 44, 0.9)]


@pytest.mark.parametrize(("effect", "pairs", "power"), TABLE)
def test_it_agrees_with_the_tables(effect, pairs, power):
    assert power_of_pairs(pairs, effect) >= power > power_of_pairs(pairs - 1, effect)
    differences = np.array([effect - np.sqrt(0.5), effect + np.sqrt(0.5)])  # mean: effect, standard deviation: 1
    assert pairs_needed(differences, power=power) == pairs


@pytest.mark.parametrize(("pairs", "effect", "confidence"), [(3, 2.0, 0.95), (5, -1.0, 0.95), (8, 1.2, 0.99)])
def test_it_is_how_often_the_interval_excludes_zero(pairs, effect, confidence):
    generator = np.random.default_rng(pairs)
    samples = generator.normal(effect, 1.0, (4000, pairs))
    excluded = 0
    for sample in samples:
        low, high = paired_difference(np.zeros(pairs), sample, confidence).interval
        excluded += low > 0 or high < 0
    assert excluded / len(samples) == pytest.approx(power_of_pairs(pairs, effect, confidence), abs=0.025)


def test_without_an_effect_the_power_is_the_level():
    assert power_of_pairs(7, 0.0, 0.95) == pytest.approx(0.05, abs=1e-5)


def test_it_grows_with_pairs_and_effect_and_ends_at_one():
    powers = [power_of_pairs(count, 1.0) for count in range(2, 40)]
    assert np.all(np.diff(powers) > 0)
    assert powers[-1] > 0.9999


def test_it_is_the_noncentral_t_where_scipy_has_one():
    for pairs in (2, 3, 5, 12, 40):
        for effect in (0.01, 0.3, 1.0, 2.0):
            bound, shift = stats.t.ppf(0.975, pairs - 1), effect * np.sqrt(pairs)
            expected = stats.nct.sf(bound, pairs - 1, shift) + stats.nct.cdf(-bound, pairs - 1, shift)
            assert power_of_pairs(pairs, effect) == pytest.approx(expected, abs=1e-5)


def test_no_effect_is_too_large_for_it():
    for pairs in (2, 3, 10):
        powers = [power_of_pairs(pairs, effect) for effect in np.geomspace(0.1, 1e6, 60)]
        assert np.isfinite(powers).all() and np.all(np.diff(powers) >= -1e-12) and powers[-1] == pytest.approx(1)


def test_edges():
    assert pairs_needed([5.0, 5.0, 5.0]) == 2  # no scatter at all
    assert pairs_needed([1.0, -1.0]) is None  # no difference
    assert pairs_needed([0.0, 0.0]) is None
    tiny = 1e-3
    assert pairs_needed([tiny - 1, tiny + 1]) is None and MOST_PAIRS >= 10_000
    assert pairs_needed([-3.0, -2.0, -4.0]) == pairs_needed([3.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="at least 2"):
        pairs_needed([1.0])
    with pytest.raises(ValueError, match="at least 2"):
        power_of_pairs(1, 1.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        power_of_pairs(3, 1.0, 95)
    with pytest.raises(ValueError, match="finite"):
        pairs_needed([1.0, float("nan")])

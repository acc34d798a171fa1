import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stablegrad.diagnostics import metrics
from stablegrad.errors import UsageError

spectra = npst.arrays(np.float64, st.integers(1, 20), elements=st.floats(1e-6, 1e3))
seeds = st.integers(0, 2**31)
RANKS = (metrics.srank, metrics.effective_rank, lambda sigma: metrics.feature_rank(sigma, 100))


def with_spectrum(sigma, samples, seed=0):
    """A matrix of these singular values, between random rotations."""
    rng = np.random.default_rng(seed)
    left = scipy.linalg.qr(rng.normal(size=(samples, len(sigma))), mode="economic")[0]
    right = scipy.linalg.qr(rng.normal(size=(len(sigma), len(sigma))))[0]
    return torch.from_numpy(left * sigma @ right.T)


def slow_srank(sigma, delta):
    """Add singular values one by one, the largest first; also how near the sums come to the threshold."""
    total, held, gaps = sum(sigma), 0.0, []
    found = None
    for k, value in enumerate(sorted(sigma, reverse=True), start=1):
        held += value
        gaps.append(abs(held / total - (1 - delta)))
        if found is None and held / total >= 1 - delta:
            found = k
    return found or len(sigma), min(gaps)


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_singular_values_are_roots_of_the_gram_matrixs_eigenvalues(shape, dtype):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    found = metrics.singular_values(features)
    exact = features.double().numpy()
    expected = np.sqrt(np.abs(np.sort(np.linalg.eigvalsh(exact.T @ exact))[::-1][: min(shape)]))
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-5)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_float32_is_as_good_as_the_module_says():
    features = with_spectrum(np.logspace(0, -8, 64), 200)
    error = metrics.singular_values(features.float()).double() - metrics.singular_values(features)
    assert error.abs().max() < 1e-6
    single = metrics.singular_values(features.float())
    assert metrics.srank(single) == metrics.srank(metrics.singular_values(features))
    torch.testing.assert_close(
        metrics.effective_rank(single).double(),
        metrics.effective_rank(metrics.singular_values(features)),
        rtol=1e-4,
        atol=0,
    )


@given(spectra, st.sampled_from([0.0, 0.01, 0.1, 0.5]))
@settings(deadline=None)
def test_srank_is_a_slow_sum(sigma, delta):
    expected, gap = slow_srank(sigma.tolist(), delta)
    found = float(metrics.srank(torch.from_numpy(sigma), delta))
    if gap > 1e-12:  # at the threshold itself rounding decides
        assert found == expected
    assert 1 <= found <= len(sigma)


def test_a_share_that_is_just_reached_is_enough():
    assert metrics.srank(torch.tensor([0.5, 0.25, 0.25]), 0.5) == 1
    assert metrics.srank(torch.tensor([0.5, 0.25, 0.25]), 0.25) == 2


@given(spectra)
@settings(deadline=None)
def test_effective_rank_is_scipys_entropy(sigma):
    expected = np.exp(scipy.stats.entropy(sigma))
    found = float(metrics.effective_rank(torch.from_numpy(sigma)))
    assert found == pytest.approx(expected)
    assert 1 - 1e-9 <= found <= len(sigma) + 1e-9


@given(spectra, st.integers(1, 1000), st.sampled_from([0.01, 0.5]))
@settings(deadline=None)
def test_feature_rank_is_a_slow_count(sigma, samples, epsilon):
    expected = sum(value / samples**0.5 > epsilon for value in sigma.tolist())
    assert float(metrics.feature_rank(torch.from_numpy(sigma), samples, epsilon)) == expected


def test_feature_rank_counts_as_the_paper_does_on_the_matrix():
    """From features / sqrt(n) themselves, decomposed by SciPy; more samples of the same features change nothing."""
    features = with_spectrum(np.array([30.0, 3.0, 0.3, 0.03, 0.003]), 100)
    expected = np.count_nonzero(scipy.linalg.svdvals(features.numpy() / 10) > 0.01)
    found = metrics.feature_rank(metrics.singular_values(features), 100)
    twice = metrics.feature_rank(metrics.singular_values(torch.cat([features, features])), 200)
    assert float(found) == float(twice) == expected == 3


@given(seeds, st.integers(-10, 10))
@settings(max_examples=30, deadline=None)
def test_ranks_know_neither_rotation_nor_order_nor_scale(seed, exponent):
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(30, 8)) * np.logspace(0, -3, 8))
    rotation = torch.from_numpy(scipy.linalg.qr(rng.normal(size=(8, 8)))[0])
    changed = features[rng.permutation(30)][:, rng.permutation(8)] @ rotation * 10.0**exponent
    before, after = metrics.singular_values(features), metrics.singular_values(changed)
    torch.testing.assert_close(after, before * 10.0**exponent)
    assert metrics.srank(after) == metrics.srank(before)
    torch.testing.assert_close(metrics.effective_rank(after), metrics.effective_rank(before))
    order = torch.from_numpy(rng.permutation(8))
    for rank in RANKS:
        torch.testing.assert_close(rank(before[order]), rank(before))


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_ranks_of_equal_directions_are_their_number(rank):
    features = with_spectrum(np.array([2.0] * rank + [0.0] * (10 - rank)), 50).float()
    sigma = metrics.singular_values(features)
    assert metrics.srank(sigma) == rank
    assert metrics.feature_rank(sigma, 50) == rank
    assert float(metrics.effective_rank(sigma)) == pytest.approx(rank, rel=1e-4)


def test_no_features_have_no_rank():
    sigma = metrics.singular_values(torch.zeros(6, 4))
    assert [float(rank(sigma)) for rank in RANKS] == [0, 0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_diverged_features_have_no_value_and_raise_nothing(bad):
    features = torch.ones(6, 4)
    features[2, 1] = bad
    sigma = metrics.singular_values(features)
    assert sigma.isnan().all()
    assert all(rank(sigma).isnan() for rank in RANKS)
    gram = torch.eye(3)
    gram[0, 0] = bad
    assert metrics.ntk_rank(gram).isnan()
    assert metrics.gradient_covariance_rank(gram).isnan()


def test_too_few_samples_are_refused():
    metrics.check_samples(512, 512)
    with pytest.raises(UsageError, match="512 features takes at least 512 samples, got 128") as error:
        metrics.check_samples(128, 512)
    assert "\n" not in str(error.value)


def test_too_few_samples_would_have_understated_the_rank():
    """Why: of features whose rank is 64, 16 samples show at most 16."""
    features = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert metrics.srank(metrics.singular_values(features)) > 60
    assert metrics.srank(metrics.singular_values(features[:16])) <= 16


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_gradient_covariance_rank_is_that_of_normalised_gradients(seed):
    """Their squared singular values are the eigenvalues of the cosines; lengths do not matter, nor the order."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(6, 20)) + 2 * rng.normal(size=20)
    squares = scipy.linalg.svdvals(gradients / np.linalg.norm(gradients, axis=1, keepdims=True)) ** 2
    expected = np.exp(scipy.stats.entropy(squares))
    found = metrics.gradient_covariance_rank(metrics.gradient_gram(torch.from_numpy(gradients)))
    assert float(found) == pytest.approx(expected)
    changed = rng.permutation(gradients * 10.0 ** rng.uniform(-3, 3, size=(6, 1)))
    again = metrics.gradient_covariance_rank(metrics.gradient_gram(torch.from_numpy(changed)))
    assert float(again) == pytest.approx(expected)
    assert 1 <= expected <= 6


def test_gradient_covariance_rank_of_known_directions():
    one, other = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, -0.1])

    def rank(*gradients):
        return float(metrics.gradient_covariance_rank(metrics.gradient_gram(torch.stack(gradients))))

    assert rank(one, 2 * one, 0.1 * one) == pytest.approx(1)
    assert rank(one, -one) == pytest.approx(1)
    assert rank(one, other) == pytest.approx(2)
    assert rank(one, other, torch.zeros(3)) == pytest.approx(2)
    assert rank(torch.zeros(3), torch.zeros(3)) == 0


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_ntk_rank_is_scipys_entropy_of_the_eigenvalues(seed):
    factor = np.random.default_rng(seed).normal(size=(6, 4))  # two eigenvalues are 0, by rounding also less
    gram = factor @ factor.T
    expected = np.exp(scipy.stats.entropy(np.clip(scipy.linalg.eigh(gram, eigvals_only=True), 0, None)))
    found = float(metrics.ntk_rank(torch.from_numpy(gram)))
    assert found == pytest.approx(expected)
    assert 1 <= found <= 4
    assert float(metrics.ntk_rank(torch.from_numpy(1000 * gram))) == pytest.approx(expected)
    assert metrics.ntk_rank(torch.zeros(3, 3)) == 0

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from stablegrad.agents import tanh_gaussian

MOMENTS = [(0.0, 0.0), (1.5, -1.0), (-0.7, 0.8), (3.0, -2.0)]


def density(action, mean, log_std):
    """Of one number, through the function under test."""
    pre_tanh = torch.atanh(torch.tensor(action, dtype=torch.float64))
    noise = (pre_tanh - mean) / math.exp(log_std)
    log_prob = tanh_gaussian.log_probability(pre_tanh[None], torch.tensor([log_std], dtype=torch.float64), noise[None])
    return log_prob.exp().item()


@pytest.mark.parametrize(("mean", "log_std"), MOMENTS)
def test_the_density_integrates_to_1_and_to_the_gaussians_probabilities(mean, log_std):
    for low, high in [(-1.0, 1.0), (-0.5, 0.8), (0.3, 0.9)]:
        with np.errstate(all="ignore"):
            mass, _ = integrate.quad(density, low, high, args=(mean, log_std), limit=500)
        gaussian = stats.norm(mean, math.exp(log_std))
        expected = gaussian.cdf(np.arctanh(high) if high < 1 else np.inf) - gaussian.cdf(
            np.arctanh(low) if low > -1 else -np.inf
        )
        assert mass == pytest.approx(expected, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.floats(-3.0, 1.0))
def test_samples_and_log_probabilities_are_those_of_torch(seed, size, log_std):
    generator = torch.Generator().manual_seed(seed)
    mean, noise = torch.randn((2, 6, size), generator=generator, dtype=torch.float64)
    log_stds = torch.full_like(mean, log_std)
    action, log_prob = tanh_gaussian.sample(mean, log_stds, noise)
    distribution = TransformedDistribution(Normal(mean, log_stds.exp()), TanhTransform(cache_size=1))
    torch.testing.assert_close(action, torch.tanh(mean + log_stds.exp() * noise))
    interior = (action.abs() < 0.9999).all(dim=1)
    expected = distribution.log_prob(action.clone()).sum(dim=1)
    torch.testing.assert_close(log_prob[interior], expected[interior], rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_torchs_reparametrised_samples():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = torch.randn((3, 5, 2), generator=generator, dtype=torch.float64)
    mean, log_std = mean.requires_grad_(), log_std.requires_grad_()
    action, log_prob = tanh_gaussian.sample(mean, log_std, noise)
    own = torch.autograd.grad((log_prob + action.sum(dim=1)).sum(), [mean, log_std])
    pre_tanh = mean + log_std.exp() * noise
    action = pre_tanh.tanh()
    log_prob = (Normal(mean, log_std.exp()).log_prob(pre_tanh) - torch.log(1 - action.square())).sum(dim=1)
    expected = torch.autograd.grad((log_prob + action.sum(dim=1)).sum(), [mean, log_std])
    torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-10)


def test_far_from_0_values_and_gradients_stay_finite_and_exact():
    mean = torch.tensor([[40.0, -40.0]], requires_grad=True)
    log_std = torch.zeros(1, 2, requires_grad=True)
    action, log_prob = tanh_gaussian.sample(mean, log_std, torch.zeros(1, 2))
    assert action.tolist() == [[1.0, -1.0]]
    # log(1 - tanh(u)^2) is log 4 - 2 |u| for large |u|.
    assert log_prob.item() == pytest.approx(-math.log(2 * math.pi) - 2 * (math.log(4) - 80), rel=1e-6)
    log_prob.backward()
    assert mean.grad.tolist() == [[2.0, -2.0]]


def test_outputs_are_cut_into_means_and_bounded_log_standard_deviations():
    mean, log_std = tanh_gaussian.mean_and_log_std(torch.tensor([[1.0, 50.0, -30.0, 3.0], [0.0, -9.0, 1.0, -1.0]]))
    assert mean.tolist() == [[1.0, 50.0], [0.0, -9.0]]
    assert log_std.tolist() == [[-20.0, 2.0], [1.0, -1.0]]

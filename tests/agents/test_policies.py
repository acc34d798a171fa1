import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.policies import Categorical, DiagonalGaussian


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 5), scale=st.floats(0.01, 30.0))
def test_densities_and_entropies_are_those_of_torch_distributions(seed, size, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(7, size, generator=generator, dtype=torch.float64)
    action = torch.randint(size, (7,), generator=generator)
    expected = torch.distributions.Categorical(logits=logits)
    log_prob, entropy = Categorical().log_prob_and_entropy(logits, action)
    torch.testing.assert_close(log_prob, expected.log_prob(action))
    torch.testing.assert_close(entropy, expected.entropy())
    assert torch.equal(Categorical().mode(logits), logits.argmax(1))

    outputs = torch.randn(7, 2 * size, generator=generator, dtype=torch.float64)
    point = scale * torch.randn(7, size, generator=generator, dtype=torch.float64)
    normal = torch.distributions.Independent(torch.distributions.Normal(outputs[:, :size], outputs[:, size:].exp()), 1)
    log_prob, entropy = DiagonalGaussian().log_prob_and_entropy(outputs, point)
    torch.testing.assert_close(log_prob, normal.log_prob(point))
    torch.testing.assert_close(entropy, normal.entropy())
    assert torch.equal(DiagonalGaussian().mode(outputs), outputs[:, :size])


def test_a_choice_is_drawn_by_its_probability():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(200_000, 3) + 7.0
    action, log_prob = Categorical().sample(logits, torch.Generator().manual_seed(0))
    assert torch.bincount(action, minlength=3) / 200_000 == pytest.approx([0.5, 0.3, 0.2], abs=0.005)
    torch.testing.assert_close(log_prob, torch.tensor([0.5, 0.3, 0.2]).log()[action])


def test_a_gaussian_is_drawn_with_its_moments():
    outputs = torch.tensor([1.0, -2.0, 0.5, -1.0]).expand(200_000, 4)
    action, log_prob = DiagonalGaussian().sample(outputs, torch.Generator().manual_seed(0))
    assert action.mean(0) == pytest.approx([1.0, -2.0], abs=0.01)
    assert action.std(0).log() == pytest.approx([0.5, -1.0], abs=0.01)
    torch.testing.assert_close(
        log_prob, DiagonalGaussian().log_prob_and_entropy(outputs, action)[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("distribution", [Categorical(), DiagonalGaussian()])
def test_draws_follow_from_the_generator_alone(distribution):
    outputs = torch.randn(50, 4)
    first, again = (distribution.sample(outputs, torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, distribution.sample(outputs, torch.Generator().manual_seed(4))[0])

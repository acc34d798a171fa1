import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from stablegrad.agents import categorical
from stablegrad.agents.categorical import cross_entropy, entropy, expectation, hl_gauss, project, two_hot

ranges = st.sampled_from([(-10.0, 10.0), (-200.0, 200.0), (0.0, 1.0), (-3.0, 7.5)])


def atoms_of(ends, count):
    return torch.linspace(*ends, count, dtype=torch.float64)


def slow_projection(values, probabilities, atoms):
    """Algorithm 1 of Bellemare et al. 2017 for one row, with its neighbours written out."""
    spacing = float(atoms[1] - atoms[0])
    result = [0.0] * len(atoms)
    for value, probability in zip(values.tolist(), probabilities.tolist(), strict=True):
        clipped = min(max(value, float(atoms[0])), float(atoms[-1]))
        position = (clipped - float(atoms[0])) / spacing
        lower, upper = int(np.floor(position)), int(np.ceil(position))
        upper = min(upper, len(atoms) - 1)
        if lower >= upper:
            result[upper] += probability
        else:
            result[lower] += probability * (upper - position)
            result[upper] += probability * (position - lower)
    return result


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), ends=ranges, count=st.integers(2, 60), rows=st.integers(1, 4))
def test_the_projection_is_the_published_loop(seed, ends, count, rows):
    generator = torch.Generator().manual_seed(seed)
    atoms = atoms_of(ends, count)
    probabilities = torch.rand(rows, count, generator=generator, dtype=torch.float64)
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    # Rewards and discounts of Bellman targets, some of which leave the range or fall upon atoms.
    reward = (ends[1] - ends[0]) * torch.randn(rows, 1, generator=generator, dtype=torch.float64) / 3
    reward[0], discount = 0.0, torch.tensor([1.0, 0.0, 0.99, 0.5], dtype=torch.float64)[:rows, None]
    values = reward + discount * atoms
    projected = project(values, probabilities, atoms)
    places = (values.clamp(*ends) - ends[0]) / (atoms[1] - atoms[0])
    torch.testing.assert_close(categorical._by_formula(places, probabilities, count), projected)
    for row in range(rows):
        expected = slow_projection(values[row], probabilities[row], atoms)
        np.testing.assert_allclose(projected[row].numpy(), expected, atol=1e-9)
    torch.testing.assert_close(projected.sum(dim=1), torch.ones(rows, dtype=torch.float64))
    mean = (values.clamp(*ends) * probabilities).sum(dim=1)
    torch.testing.assert_close(projected @ atoms, mean)
    # Where nothing changes, nothing is spread.
    torch.testing.assert_close(projected[0], probabilities[0])


def test_the_projection_is_in_float32_what_it_is_in_float64():
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linspace(-10, 10, 51)
    probabilities = torch.randn(64, 51, generator=generator).softmax(dim=1)
    values = torch.randn(64, 1, generator=generator) + 0.97 * atoms
    exact = project(values.double(), probabilities.double(), atoms.double())
    torch.testing.assert_close(project(values, probabilities, atoms).double(), exact, rtol=0.0, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(value=st.floats(-500, 500), ends=ranges, count=st.integers(2, 60))
def test_two_hot_has_the_values_mean_on_two_neighbours(value, ends, count):
    atoms = atoms_of(ends, count)
    (target,) = two_hot(torch.tensor([value], dtype=torch.float64), atoms)
    places = np.flatnonzero(target.numpy() > 1e-9)  # of a value upon an atom rounding may leave something beside it
    assert 1 <= len(places) <= 2 and np.ptp(places) <= 1
    assert float(target.sum()) == pytest.approx(1.0)
    assert float(target @ atoms) == pytest.approx(min(max(value, ends[0]), ends[1]), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(value=st.floats(-12, 12), count=st.integers(2, 30), width=st.sampled_from([0.3, 0.75, 2.0]))
def test_hl_gauss_is_the_integral_of_a_gaussian_around_each_atom(value, count, width):
    atoms = atoms_of((-10.0, 10.0), count)
    spacing = 20.0 / (count - 1)
    sigma = width * spacing
    (target,) = hl_gauss(torch.tensor([value], dtype=torch.float64), atoms, sigma)
    centre = min(max(value, -10.0), 10.0)
    masses = []

    def density(x):
        return math.exp(-0.5 * ((x - centre) / sigma) ** 2) / (sigma * math.sqrt(2.0 * math.pi))

    for atom in atoms.tolist():
        points = [centre] if abs(centre - atom) < spacing / 2 else None
        masses.append(quad(density, atom - spacing / 2, atom + spacing / 2, points=points, epsabs=1e-12)[0])
    np.testing.assert_allclose(target.numpy(), np.array(masses) / sum(masses), atol=1e-8)
    assert float(target.sum()) == pytest.approx(1.0)


def test_hl_gauss_keeps_the_mean_away_from_the_ends_and_narrows_to_one_hot():
    atoms = atoms_of((-10.0, 10.0), 51)
    values = torch.linspace(-6.0, 6.0, 100, dtype=torch.float64)
    torch.testing.assert_close(hl_gauss(values, atoms, 0.3) @ atoms, values, rtol=0.0, atol=2e-2)
    narrow = hl_gauss(atoms, atoms, 1e-3)
    torch.testing.assert_close(narrow, torch.eye(51, dtype=torch.float64))
    # Far beyond the ends as at them, in numbers.
    far = hl_gauss(torch.tensor([1e6, -1e6]), atoms.float(), 0.3)
    torch.testing.assert_close(far, hl_gauss(torch.tensor([10.0, -10.0]), atoms.float(), 0.3))
    assert far.isfinite().all()


def test_cross_entropy_entropy_and_mean_are_torchs():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 3, 11, generator=generator)
    target = (3 * torch.randn(4, 3, 11, generator=generator)).softmax(dim=-1)
    target[0, 0] = torch.eye(11)[2]
    atoms = torch.linspace(-2, 3, 11)
    ours, theirs = torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(probs=target)
    divergence = torch.distributions.kl_divergence(theirs, ours)
    torch.testing.assert_close(cross_entropy(logits, target) - entropy(target), divergence, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(expectation(logits, atoms), (ours.probs * atoms).sum(dim=-1))
    assert entropy(torch.eye(3)).tolist() == [0.0, 0.0, 0.0]

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.diagnostics import metrics

seeds = st.integers(0, 2**31)


def tables(seed, count=2, states=17, actions=4):
    """Values of few levels, so that ties occur."""
    return torch.randint(-2, 3, (count, states, actions), generator=torch.Generator().manual_seed(seed)).float()


def slow_churn(before, after):
    changed = 0
    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        changed += old.index(max(old)) != new.index(max(new))  # the first of equal values
    return changed / len(before)


@given(seeds)
@settings(deadline=None)
def test_churn_is_a_slow_count(seed):
    before, after = tables(seed)
    assert float(metrics.policy_churn(before, after)) == pytest.approx(slow_churn(before, after))


@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
@settings(deadline=None)
def test_churn_laws(seed, scale, shift):
    before, after, between = tables(seed, 3)
    churn = metrics.policy_churn(before, after)
    assert 0 <= churn <= 1
    assert churn == metrics.policy_churn(after, before)
    assert metrics.policy_churn(before, before) == 0
    assert churn <= metrics.policy_churn(before, between) + metrics.policy_churn(between, after) + 1e-6
    order = torch.randperm(len(before), generator=torch.Generator().manual_seed(seed))
    assert metrics.policy_churn(before[order], after[order]) == churn
    assert metrics.policy_churn(before, scale * after.double() + shift) == churn


def test_churn_of_any_leading_shape_and_of_masked_actions():
    before, after = torch.tensor([[[1.0, 2.0], [3.0, 1.0]]]), torch.tensor([[[2.0, 1.0], [3.0, 1.0]]])
    assert metrics.policy_churn(before, after) == 0.5
    masked = torch.tensor([[[-torch.inf, 2.0], [3.0, -torch.inf]]])
    assert metrics.policy_churn(before, masked) == 0
    assert metrics.policy_churn(before, torch.full_like(before, torch.nan)).isnan()


@given(seeds, st.integers(2, 9), st.floats(-20, 20), st.floats(0.1, 50))
@settings(deadline=None)
def test_the_best_mean_of_distributions_does_not_depend_on_their_range(seed, atoms, lowest, width):
    logits = 3 * torch.randn(20, 4, atoms, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    places = metrics.expected_atoms(logits)
    assert places.shape == (20, 4) and places.min() >= 0 and places.max() <= atoms - 1
    values = torch.linspace(lowest, lowest + width, atoms, dtype=torch.float64)
    for row in range(20):
        for action in range(4):
            probabilities = torch.distributions.Categorical(logits=logits[row, action]).probs
            mean = sum(float(p) * float(z) for p, z in zip(probabilities, values, strict=True))
            spacing = width / (atoms - 1)
            assert lowest + float(places[row, action]) * spacing == pytest.approx(mean, rel=1e-4, abs=1e-4 * width)


def test_parts_are_those_of_networks_put_together_by_hand():
    torch.manual_seed(0)
    old = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
    new = copy.deepcopy(old)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    states = torch.randn(500, 3)
    outputs = [
        head(encoder(states)).detach()
        for encoder, head in (
            (old[:2], old[2]),
            (new[:2], old[2]),
            (old[:2], new[2]),
            (new[:2], new[2]),
        )
    ]
    found = metrics.churn_split(*outputs)
    expected = [np.mean(one.numpy().argmax(1) != outputs[0].numpy().argmax(1)) for one in (outputs[3], *outputs[1:3])]
    assert [float(part) for part in found] == pytest.approx(expected)
    assert min(expected) > 0
    assert len(set(expected)) == 3


def outputs_of_policies(seed, count=2, states=17, size=3):
    """Means and log standard deviations, or actions."""
    return 2 * torch.randn((count, states, 2 * size), generator=torch.Generator().manual_seed(seed))


#: By kind: the change of outputs, and the action of one row of them.
POLICIES = {
    "action": (metrics.action_churn, lambda row: row),
    "gaussian": (metrics.gaussian_churn, lambda row: row[: len(row) // 2]),
    "tanh_gaussian": (metrics.tanh_gaussian_churn, lambda row: np.tanh(row[: len(row) // 2])),
}
each_policy = pytest.mark.parametrize("kind", POLICIES)


def slow_action_churn(before, after, action_of):
    squares = [
        (old - new) ** 2
        for one, other in zip(before.tolist(), after.tolist(), strict=True)
        for old, new in zip(action_of(one), action_of(other), strict=True)
    ]
    return (sum(squares) / len(squares)) ** 0.5


@each_policy
@given(seed=seeds, size=st.integers(1, 4))
@settings(deadline=None)
def test_the_change_of_an_action_is_a_slow_root_mean_square(kind, seed, size):
    before, after = outputs_of_policies(seed, size=size)
    churn, action_of = POLICIES[kind]
    assert float(churn(before, after)) == pytest.approx(slow_action_churn(before, after, action_of), rel=1e-5)


@each_policy
@given(seed=seeds)
@settings(deadline=None)
def test_action_churn_laws(kind, seed):
    before, after, between = outputs_of_policies(seed, 3)
    change, _ = POLICIES[kind]
    churn = change(before, after)
    assert churn > 0
    assert churn == change(after, before)
    assert change(before, before) == 0
    assert churn <= change(before, between) + change(between, after) + 1e-6
    # Which state comes first does not count.
    order = torch.randperm(len(before), generator=torch.Generator().manual_seed(seed))
    assert change(before[order], after[order]) == pytest.approx(churn.item())


@pytest.mark.parametrize("churn", [metrics.gaussian_churn, metrics.tanh_gaussian_churn])
def test_how_wide_a_policy_is_does_not_count(churn):
    before, after = outputs_of_policies(0)
    wider = torch.cat([after[:, :3], after[:, 3:] + 5], dim=1)
    assert churn(before, wider) == churn(before, after)


def test_action_churn_goes_from_one_end_to_the_other_and_says_what_is_no_number():
    low, high = torch.tensor([[-50.0, 0.0]]), torch.tensor([[50.0, 0.0]])
    assert metrics.tanh_gaussian_churn(low, high) == 2
    assert metrics.gaussian_churn(low, high) == 100
    assert metrics.action_churn(low.tanh()[:, :1], high.tanh()[:, :1]) == 2
    for churn, _ in POLICIES.values():
        assert churn(low, torch.full_like(low, torch.nan)).isnan()
        assert churn(low.bfloat16(), high.bfloat16()).dtype == torch.float32


@given(seeds)
@settings(deadline=None)
def test_a_part_that_did_not_change_has_no_share(seed):
    before, after = tables(seed)
    total, encoder, head = metrics.churn_split(before, after, before, after)
    assert (encoder, head) == (total, 0)
    total, encoder, head = metrics.churn_split(before, before, after, after)
    assert (encoder, head) == (0, total)
    total, encoder, head = metrics.churn_split(before, before, after, after, metrics.action_churn)
    assert (encoder, head) == (0, metrics.action_churn(before, after))

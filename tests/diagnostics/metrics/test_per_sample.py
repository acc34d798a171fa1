import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stablegrad.diagnostics import metrics
from stablegrad.errors import UsageError


class Forks(nn.Module):
    """Takes another way where a sample is negative: control flow that vmap refuses."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.one, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        self.calls += 1
        return self.one(x) if x.sum() > 0 else self.other(x)


class Counts(nn.Sequential):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 1)

    def forward(self, observation, action):
        return self.linear(torch.cat([observation, action], dim=1)).tanh()


def mlp():
    torch.manual_seed(0)
    return Counts(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))


def by_backward(model, loss_of_sample, count):
    """Sample after sample through .grad of a copy."""
    model, rows = copy.deepcopy(model), []
    for number in range(count):
        model.zero_grad()
        loss_of_sample(model, number).backward()
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(one) if one.grad is None else one.grad).flatten()
                    for one in model.parameters()
                    if one.requires_grad
                ]
            )
        )
    return torch.stack(rows)


@pytest.mark.parametrize(("make", "calls"), [(mlp, 1), (Forks, 7)])
def test_gradients_are_those_of_backward_whether_or_not_vmap_takes_the_model(make, calls):
    torch.manual_seed(1)
    model, inputs, targets = make(), torch.randn(6, 4), torch.randn(6, 2)
    outputs = metrics.per_sample_gradients(model, inputs)
    # All at once, or one attempt and then one by one: else the model is not of the kind that the test says.
    assert model.calls == calls
    expected = by_backward(model, lambda net, i: net(inputs[i : i + 1]).sum(), 6)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-6)

    losses = metrics.per_sample_gradients(model, inputs, F.mse_loss, targets)
    expected = by_backward(model, lambda net, i: F.mse_loss(net(inputs[i : i + 1]), targets[i : i + 1]), 6)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
    assert not losses.requires_grad


def test_gradients_of_a_loss_average_to_its_gradient():
    model, inputs, targets = mlp(), torch.randn(8, 4), torch.randn(8, 2)
    each = metrics.per_sample_gradients(model, inputs, F.mse_loss, targets)
    whole = torch.autograd.grad(F.mse_loss(model(inputs), targets), list(model.parameters()))
    torch.testing.assert_close(each.mean(0), torch.cat([one.flatten() for one in whole]), rtol=1e-4, atol=1e-6)


def test_a_model_of_several_inputs():
    torch.manual_seed(0)
    model, observations, actions = TwoInputs(), torch.randn(5, 3), torch.randn(5, 2)
    found = metrics.per_sample_gradients(model, (observations, actions))
    expected = by_backward(model, lambda net, i: net(observations[i : i + 1], actions[i : i + 1]).sum(), 5)
    torch.testing.assert_close(found, expected)


def test_frozen_parameters_are_left_out():
    model = mlp()
    model[0].requires_grad_(False)
    inputs = torch.randn(3, 4)
    found = metrics.per_sample_gradients(model, inputs)
    torch.testing.assert_close(found, by_backward(model, lambda net, i: net(inputs[i : i + 1]).sum(), 3))
    with pytest.raises(UsageError, match="no parameter"):
        metrics.per_sample_gradients(model.requires_grad_(False), inputs)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    model.train(training)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model)
    inputs = torch.randn(4, 2, 5, 5)
    found = metrics.per_sample_gradients(model, inputs)
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert all(torch.equal(one.grad, torch.ones_like(one)) for one in model.parameters())
    assert all(module.training == training for module in model.modules())
    torch.testing.assert_close(
        found, by_backward(before, lambda net, i: net(inputs[i : i + 1]).sum(), 4), rtol=1e-4, atol=1e-5
    )


def test_an_error_of_the_model_is_the_models_own():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        metrics.per_sample_gradients(mlp(), torch.randn(3, 5))


def test_works_without_gradients_around():
    model, inputs = mlp(), torch.randn(3, 4)
    with torch.no_grad():
        found = metrics.per_sample_gradients(model, inputs)
        forked = metrics.per_sample_gradients(Forks(), inputs)
    torch.testing.assert_close(found, metrics.per_sample_gradients(model, inputs))
    assert forked.abs().sum() > 0


def test_the_kernel_of_a_linear_model_is_known():
    """f(x) = w x + b: K = X X' + 1, whatever the weights."""
    torch.manual_seed(0)
    inputs = torch.randn(7, 3)
    gram = metrics.gradient_gram(metrics.per_sample_gradients(nn.Linear(3, 1), inputs))
    torch.testing.assert_close(gram, inputs @ inputs.T + 1)
    augmented = np.hstack([inputs.numpy(), np.ones((7, 1))])
    eigenvalues = np.linalg.svd(augmented, compute_uv=False) ** 2
    shares = eigenvalues / eigenvalues.sum()
    assert float(metrics.ntk_rank(gram)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_a_dead_network_has_neither_kernel_nor_covariance():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2, bias=False))
    nn.init.constant_(model[0].bias, -100.0)
    gram = metrics.gradient_gram(metrics.per_sample_gradients(model, torch.randn(5, 4)))
    assert metrics.ntk_rank(gram) == metrics.gradient_covariance_rank(gram) == 0


@pytest.mark.parametrize("rows", [1, 8, 19])
def test_the_gram_matrix_is_that_of_gradients_taken_one_by_one(rows):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs, labels = torch.randn(rows, 4), torch.randint(0, 3, (rows,))
    dense = []
    for x, y in zip(inputs, labels, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), list(model.parameters()))
        dense.append(torch.cat([one.flatten() for one in gradients]))
    gram = metrics.per_sample_gram(model, inputs, F.cross_entropy, labels)
    torch.testing.assert_close(gram, torch.stack(dense) @ torch.stack(dense).T)
    torch.testing.assert_close(gram, metrics.gradient_gram(torch.stack(dense)))

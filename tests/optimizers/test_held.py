"""What optimizers keep for every entry of a parameter, found by what a change of one gradient's entry changes."""

import pytest
import torch
from torch import nn

from stablegrad.optimizers import OPTIMIZERS, make_optimizer
from stablegrad.optimizers.held import held_of

#: Tensors that each optimizer keeps of a matrix; Adam's two are the rule.
HELD = {"sgd": 0, "rmsprop": 1, "shampoo": 1, "soap": 1, "muon": 1, "apollo": 3}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(6, 4), (5, 3, 2, 2), (7,)], ids=["matrix", "convolution", "vector"])
def test_views_of_a_parameters_shape_that_follow_its_gradient(name, shape):
    pytest.importorskip("pytorch_optimizer")
    parameter = nn.Parameter(torch.ones(shape))
    other = nn.Parameter(torch.ones(70, 66))
    optimizer = make_optimizer(name, [other, parameter], 1e-3)
    assert held_of(optimizer, parameter) == []
    for _ in range(3):
        for one in (parameter, other):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()
    held = held_of(optimizer, parameter)
    if len(shape) == 2:
        assert len(held) == HELD.get(name, 2)
    assert not held or sum(one.abs().sum() for one in held) > 0
    for one in held:
        assert one.shape == parameter.shape
        one.zero_()
    assert all(one.abs().sum() == 0 for one in held_of(optimizer, parameter))
    assert not held or sum(one.abs().sum() for one in held_of(optimizer, other)) > 0
    optimizer.step()
    assert parameter.isfinite().all()


def test_kron_holds_a_running_mean_where_the_gradient_is():
    """One entry of the gradient in a matrix that is padded: its place in the momentum is the same."""
    for rule, shape in (("pro", (70, 5, 3, 3)), ("pro", (70, 130)), ("classic", (5, 4, 3, 3))):
        parameter = nn.Parameter(torch.zeros(shape))
        optimizer = make_optimizer("kron", [parameter], 1e-3, rule=rule)
        parameter.grad = torch.zeros(shape)
        place = tuple(size - 2 for size in shape)
        parameter.grad[place] = 1.0
        optimizer.step()
        momentum = held_of(optimizer, parameter)[0]
        assert momentum.nonzero().tolist() == [list(place)]

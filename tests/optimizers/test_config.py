import math

import pytest
import torch
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.optimizers import OptimizerConfig
from stablegrad.optimizers.catalogue import OPTIMIZERS
from stablegrad.optimizers.config import ADAMS, SCHEDULES


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5), 0]),
        ("cyclic", [0.1, 1, 0.1, 1, 0.1]),  # of ten cycles; a quarter of the run is the middle of the third
    ],
)
def test_schedules(schedule, factors):
    assert [SCHEDULES[schedule](share / 4) for share in range(5)] == pytest.approx(factors)


def test_a_cyclic_rate_is_torchs():
    """Against torch's own triangles, with a step a hundredth of the run."""
    parameter = nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    cycle = torch.optim.lr_scheduler.CyclicLR(theirs, 0.1, 1.0, step_size_up=5, cycle_momentum=False)
    for step in range(101):
        assert SCHEDULES["cyclic"](step / 100) == pytest.approx(cycle.get_last_lr()[0])
        theirs.step()
        cycle.step()


@pytest.mark.parametrize("name", ["adam", "kron"])
def test_clipped_weights_stay_within_their_bound_and_norms_are_left_alone(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3))
    optimizer = OptimizerConfig(name=name, learning_rate=0.5, weight_clip=1.5).build(network)
    for _ in range(5):
        optimizer.zero_grad()
        network(torch.randn(8, 2, 4, 4)).square().sum().backward()
        optimizer.step()
    for layer, inputs in ((network[0], 18), (network[3], 16)):
        for parameter in layer.parameters():
            assert parameter.detach().abs().max() <= 1.5 / math.sqrt(inputs) + 1e-7
    assert network[0].weight.detach().abs().max() == pytest.approx(1.5 / math.sqrt(18))  # it was reached
    assert network[2].weight.detach().abs().max() > 1.5 / 4


def test_what_was_not_clipped_is_as_without():
    def trained(**options):
        torch.manual_seed(0)
        network = nn.Linear(4, 4)
        optimizer = OptimizerConfig(name="adam", learning_rate=1e-3, **options).build(network)
        network(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        return network.weight

    assert torch.equal(trained(weight_clip=100.0), trained())
    assert not torch.equal(trained(weight_clip=0.1), trained())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_adams_eps_is_that_of_adam_adamw_and_radam_alone(name):
    plain, damped = (OptimizerConfig(name=name, **options) for options in ({}, {"adam_eps": 1.5e-4}))
    groups = [config.build(nn.Linear(4, 4)).param_groups[0] for config in (plain, damped)]
    assert [group.get("eps") for group in groups] == ([1e-8, 1.5e-4] if name in ADAMS else [groups[0].get("eps")] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "lineer"}, "unknown schedule 'lineer'; did you mean 'linear'"),
        ({"weight_clip": 0.0}, "weight-clip must be above 0, got 0.0"),
        ({"adam_eps": 0.0}, "adam-eps must be above 0, got 0.0"),
        ({"weight_clip": math.inf}, "weight-clip must be above 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        OptimizerConfig(**options)

"""What a network can still learn: the targets, what is lost when units die, and that nothing else is touched."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import Adam

from stablegrad.diagnostics import History, Monitor
from stablegrad.diagnostics.capacity import TARGETS, Capacity, draw_targets, measure_capacity, newest_capacities
from stablegrad.errors import UsageError


def make():
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def adam(model):
    return Adam(model.parameters(), lr=1e-3)


INPUTS = torch.randn(512, 6, generator=torch.Generator().manual_seed(1)) * 3.0 + 5.0


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("stablegrad.diagnostics.capacity.STEPS", 60)


def measured(weights):
    return measure_capacity(make, weights, INPUTS, adam)


def with_dead_units(share):
    model = make()
    for layer in (model[0], model[2]):
        with torch.no_grad():
            dead = int(share * 64)
            layer.weight[:dead], layer.bias[:dead] = 0.0, -1.0
    return model


def test_fresh_weights_have_lost_nothing():
    found = measured(make().state_dict())
    assert 0.8 < found.lost < 1.25
    assert found.fresh < 0.95
    assert found.small < found.fresh  # LayerNorm, and a rate of its own


def test_the_more_units_are_dead_the_less_is_learned():
    errors = [measured(with_dead_units(share).state_dict()).live for share in (0.0, 0.5, 0.9, 1.0)]
    assert errors == sorted(errors)
    # Without a single live unit only the readout's bias learns: the error of a constant.
    assert errors[-1] == pytest.approx(1.0, abs=0.1)
    assert "has lost ability to learn" in Capacity(errors[-1], 0.2, 0.2).in_words


def test_weights_that_are_no_numbers_have_an_infinite_error():
    broken = make()
    broken[0].weight.data[0, 0] = math.nan
    assert measured(broken.state_dict()).live == math.inf


def test_the_scale_of_features_does_not_matter():
    model = make()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        # ReLU is homogeneous: the same features, a thousand times as large; the steps of SGD would not be.
        scaled[2].weight *= 1000.0
        scaled[2].bias *= 1000.0
    found = [
        measure_capacity(make, one.state_dict(), INPUTS, lambda m: Adam(m.readout.parameters(), lr=1e-3)).live
        for one in (model, scaled)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@given(rows=st.integers(2, 40), features=st.integers(1, 90), seed=st.integers(0, 100), constant=st.booleans())
def test_targets_are_standardised_functions_of_the_rows(rows, features, seed, constant):
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(seed))
    if constant:
        x[:, 0] = 7.0
    x = torch.cat([x, x])
    targets = draw_targets(x, torch.Generator().manual_seed(seed))
    assert targets.shape == (2 * rows, TARGETS)
    assert torch.equal(targets[:rows], targets[rows:])
    assert targets.mean(0).abs().max() < 1e-5
    assert all(
        deviation == pytest.approx(1.0, abs=1e-4) or deviation == 0 for deviation in targets.std(0, correction=0)
    )


def test_targets_equal_a_slow_loop():
    x = INPUTS[:20].double()
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(6, 64, generator=generator, dtype=torch.float64).numpy() / math.sqrt(6)
    v = torch.randn(64, TARGETS, generator=generator, dtype=torch.float64).numpy()
    z = (x.numpy() - x.numpy().mean(0)) / x.numpy().std(0)
    raw = np.zeros((20, TARGETS))
    for row in range(20):
        for hidden in range(64):
            at = sum(z[row, feature] * w[feature, hidden] for feature in range(6))
            raw[row] += math.sin(2.0 * at) * v[hidden]
    expected = (raw - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(draw_targets(INPUTS[:20], torch.Generator().manual_seed(3)), expected, atol=1e-5)


def test_images_are_learned_from_as_well():
    def cnn():
        return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))

    found = measure_capacity(cnn, cnn().state_dict(), torch.randn(100, 2, 9, 9), adam)
    assert all(0 < error < 1.5 for error in found.figures().values())


def test_the_program_around_it_is_left_alone():
    """Weights, gradients, training mode and random numbers stay as they were, and the monitor keeps the figures."""
    model = make()
    optimizer = adam(model)
    monitor = Monitor(model, optimizer, every=2)
    for _ in range(4):
        model(INPUTS).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = monitor.measure_capacity(make, INPUTS, adam)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    monitor.fetch()
    assert newest_capacities(monitor.history)["network"].live == pytest.approx(found.live)
    assert "capacity: the network can still learn" in str(monitor.report())


def test_several_networks_are_told_apart():
    actor, critic = make(), make()
    monitor = Monitor({"actor": actor, "critic": critic}, [adam(actor), adam(critic)], every=2)
    with pytest.raises(UsageError, match="network= one of actor, critic"):
        monitor.measure_capacity(make, INPUTS, adam)
    monitor.measure_capacity(make, INPUTS, adam, network="critic")
    monitor.fetch()
    assert list(newest_capacities(monitor.history)) == ["critic"]


def test_what_cannot_be_measured_is_one_line():
    with pytest.raises(UsageError, match="at least 2 inputs, got 1"):
        measure_capacity(make, make().state_dict(), INPUTS[:1], adam)

    def sequence():
        return nn.Linear(6, 6)

    with pytest.raises(UsageError, match="not one row of features a sample"):
        measure_capacity(sequence, sequence().state_dict(), INPUTS.view(64, 8, 6), adam)


def test_nothing_is_said_of_what_was_not_measured():
    assert newest_capacities(History()) == {}
    assert newest_capacities(History([(1, {"refit_error/network": 0.1})])) == {}


def test_networks_may_have_been_measured_at_different_steps():
    rows = [
        (
            step,
            {f"{metric}/{site}": float(step) for metric in ("refit_error", "refit_error_fresh", "refit_error_small")},
        )
        for step, site in ((1, "actor"), (2, "critic"), (3, "critic"))
    ]
    assert newest_capacities(History(rows)) == {"actor": Capacity(1, 1, 1), "critic": Capacity(3, 3, 3)}

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.trial import paired_interval, training_bytes, verify, verify_training
from stablegrad.errors import StablegradError, UsageError
from stablegrad.hardware import flushes_denormals
from stablegrad.optimizers import Kron

SAMPLE = torch.zeros(2, 8)


def prescription(name):
    return Prescription(name, name.upper(), "why", ("rule",), "cost", 1.0, 1.0, {}, False)


def deep(layers=12, width=32):
    torch.manual_seed(1)
    parts = [nn.Linear(8, width), nn.Tanh()]
    for _ in range(layers - 1):
        parts += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(width, 4))


def test_what_helps_is_a_go_what_hurts_is_not_and_what_takes_a_person_is_not_tried():
    model = deep()
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    names = ["reconnect", "multi_skip", "raise_learning_rate", "recycle_dormant", "kron"]
    trials = verify(model, SAMPLE, [prescription(name) for name in names], seeds=2, phases=2)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    # Three are tried; what comes after them is not listed.
    assert [trial.name for trial in trials] == names[:4]
    person, skip, raised, recycled = trials
    assert (person.decision, person.effect, person.seeds) == ("not tried", None, 0)
    assert "cannot be applied by itself" in person.reason
    assert skip.decision == "go"
    assert skip.effect > 0.3
    assert 0 < skip.low < skip.effect < skip.high
    assert "2 pairs" in skip.reason
    # A projection, five blocks of two layers and an output layer, with a norm each, for twelve layers without.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert skip.memory == pytest.approx(1 + 12 * 2 * 32 / parameters, abs=0.01)
    assert skip.step_time > 0
    assert raised.decision == "no-go"
    assert recycled.effect is not None
    assert json.loads(json.dumps(skip.to_dict()))["title"] == "MULTI_SKIP"


def test_a_change_without_effect_is_a_no_go():
    """Clipping at a norm that is never reached, with a network that learns well, changes next to nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    (trial,) = verify(model, SAMPLE, [prescription("clip_gradients")], seeds=2, phases=2)
    assert trial.decision == "no-go"
    assert abs(trial.effect) < 0.05
    assert trial.memory == pytest.approx(1.0)


def test_kron_is_tried_at_a_third_of_the_rate(monkeypatch):
    rates = []
    step = Kron.step
    monkeypatch.setattr(Kron, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1])
    verify(
        nn.Linear(8, 4),
        SAMPLE,
        [prescription("kron")],
        seeds=2,
        phases=2,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-4),
    )
    assert rates == pytest.approx([1e-4] * len(rates))
    assert len(rates) > 2 * 2 * 120


def test_nothing_that_can_be_tried():
    (trial,) = verify(nn.Linear(8, 4), SAMPLE, [prescription("residual")])
    assert trial.decision == "not tried"
    assert "the shape of its input" in trial.reason
    assert verify(nn.Linear(8, 4), SAMPLE, []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "at least 2 seeds"),
        ({"top": 0}, "top must be at least 1"),
        ({"phases": 1}, "phases 2"),
        ({"seconds": 0.0}, "seconds above 0"),
        ({"seconds": 1e-3}, "the least that says something is"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        verify(deep(2), SAMPLE, [prescription("layer_norm")], **options)


def test_interval_against_scipy():
    differences = [0.1, 0.3, 0.15, 0.4]
    mean, low, high = paired_interval(differences)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(differences), expected.low, expected.high))


def test_bytes_of_a_training():
    model = nn.Linear(30, 20, bias=False)
    adam = torch.optim.Adam(model.parameters())
    assert training_bytes(model, adam) == 4 * 600
    model(torch.zeros(1, 30)).sum().backward()
    adam.step()
    assert training_bytes(model, adam) == 4 * 600 * 4 + 4  # weights, gradients, two moments; the step count
    kron = Kron(model.parameters(), lr=1e-3)
    kron.step()
    assert training_bytes(model, kron) > 4 * 600 * 3


def regression(change, seed, lr=0.3, steps=40):
    """Minus the final loss of a linear regression: learned at 0.3, no number at 1e4."""
    torch.manual_seed(seed)
    inputs = torch.randn(64, 4)
    targets = inputs.sum(1, keepdim=True)
    model = nn.Linear(4, 1)
    optimizer = change(model, torch.optim.SGD(model.parameters(), lr=lr))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
    return -loss.item()


def rate(name, factor):
    return dataclasses.replace(prescription(name), factor=factor)


def test_a_training_of_ones_own():
    """Too low a rate; what ends in no number counts as the worst of all, and what is no change at once is not tried."""
    better, broken = rate("raise_learning_rate", 100.0), rate("lower_learning_rate", 1e5)
    names = [prescription("recycle_dormant"), prescription("reconnect"), better, broken]
    trials = verify_training(partial(regression, lr=3e-3), names, seeds=(1, 2, 3), top=2)
    assert [trial.decision for trial in trials] == ["not tried", "not tried", "go", "no-go"]
    assert "again and again" in trials[0].reason
    assert trials[2].seeds == 3
    assert 0 < trials[2].low < trials[2].effect
    assert trials[2].reason.startswith("better: the score ")
    assert trials[3].effect <= 0.0


def test_a_training_that_ends_in_no_number_and_one_that_does_not():
    trials = verify_training(
        partial(regression, lr=1e4),
        [rate("lower_learning_rate", 1e-5), rate("raise_learning_rate", 10.0)],
        seeds=(1, 2),
    )
    assert [(trial.decision, trial.effect) for trial in trials] == [("go", None), ("no-go", None)]
    assert trials[0].reason == "no training without it returned a number, 2 of 2 with it"


def test_scores_that_are_equal_but_for_rounding_are_equal():
    def train(change, seed):
        model = nn.Linear(1, 1)
        optimizer = change(model, torch.optim.SGD(model.parameters(), lr=0.1))
        # 0.1 + 0.2 is not 0.3.
        return seed * (0.3 if optimizer.param_groups[0]["lr"] == 0.1 else 0.1 + 0.2)

    (trial,) = verify_training(train, [rate("raise_learning_rate", 10.0)], seeds=(1, 2, 3))
    assert (trial.decision, trial.effect) == ("no-go", 0.0)
    assert trial.reason.startswith("no difference")


def test_a_training_that_does_not_make_the_change_is_told_so():
    with pytest.raises(StablegradError, match="did not call change"):
        verify_training(lambda change, seed: 1.0, [prescription("kron")])
    with pytest.raises(UsageError, match="at least 2 seeds"):
        verify_training(regression, [prescription("kron")], seeds=(1, 1))
    with pytest.raises(StablegradError, match="no training of the trial returned a score"):
        verify_training(lambda change, seed: regression(change, seed) * float("nan"), [], seeds=(1, 2))


def test_trials_flush_denormals_and_the_process_does_not_afterwards():
    seen = []

    def train(change, seed):
        seen.append(flushes_denormals())
        return regression(change, seed)

    verify_training(train, [rate("lower_learning_rate", 0.5)], seeds=(1, 2))
    assert len(seen) == 4
    assert all(seen)
    assert not flushes_denormals()

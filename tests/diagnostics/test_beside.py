"""A training beside one of a smaller network: what tells them apart, and that seeds of one network are alike."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from stablegrad.diagnostics import History, Monitor, Report, judge
from stablegrad.diagnostics.page import view
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.errors import UsageError
from stablegrad.networks import MultiSkipTorso

LOOKS = 12

#: A healthy network that learns.
SMALL = {"gradient_norm/a": 1.0, "error_signal/network": 1.0, "update_ratio/a": 1e-3, "update_ratio/b": 2e-3,
         "effective_rank/network": 40.0, "dormant/x": 0.1, "dormant/y": 0.2, "dead/x": 0.1, "dead/y": 0.0,
         "churn/network": 0.02}  # fmt: skip


def history(figures, returns=(), looks=LOOKS, every=10):
    """The same figures at all looks, and returns of the looks."""
    made = History(order=["a", "x", "b", "y"])
    for look in range(looks):
        logged = {"episode_return/network": returns[look]} if len(returns) else {}
        made.add(every * (look + 1), figures | logged)
    return made


def line(start, end, looks=LOOKS):
    return [start + (end - start) * look / (looks - 1) for look in range(looks)]


def found(own, twin, thresholds=None):
    return {one.rule: one for one in judge(own, thresholds, beside=twin) if one.rule == "learns_less"}


@pytest.mark.parametrize(
    ("end", "level"), [(100.0, None), (60.0, None), (40.0, "at risk"), (5.0, "collapsing"), (-80.0, "collapsing")]
)
def test_the_share_of_the_way_that_was_made(end, level):
    findings = found(history(SMALL, [end] * LOOKS), history(SMALL, line(0.0, 100.0)))
    assert [finding.level for finding in findings.values()] == ([level] if level else [])
    assert all(finding.since == 90 for finding in findings.values()), "where the last third of the looks begins"


def test_less_of_a_loss_is_better():
    def trained(end):
        made = history(SMALL)
        for step, loss in zip(range(10, 130, 10), line(2.0, end), strict=True):
            made.add(step, {"loss/network": loss})
        return made

    assert set(found(trained(1.9), trained(0.1))) == {"learns_less"}
    assert found(trained(0.1), trained(1.9)) == {}
    assert found(trained(8.0), trained(4.0)) == {}, "neither learned"


def test_without_anything_logged_what_is_left_of_the_error_tells():
    own, twin = history(SMALL), history(SMALL)
    for step, error in zip(range(10, 130, 10), line(3.0, 0.1), strict=True):
        twin.add(step, {"error_signal/network": error, "gradient_norm/a": error})
    assert set(found(own, twin)) == {"learns_less"}


def test_a_twin_that_learned_nothing_beyond_its_noise_is_nothing_to_fall_behind():
    noisy = [20.0, 30.0, 10.0, 25.0, 15.0, 40.0, 5.0, 30.0, 10.0, 45.0, 20.0, 35.0]
    assert found(history(SMALL, [10.0] * LOOKS), history(SMALL, noisy)) == {}


def test_both_are_read_up_to_the_last_step_that_both_have():
    """A training that has just begun is held against the beginning of the other."""
    twin = history(SMALL, line(0.0, 100.0, 48), looks=48)
    assert found(history(SMALL, line(0.0, 25.0)), twin) == {}
    assert set(found(history(SMALL, [0.0] * LOOKS), twin)) == {"learns_less"}


KEYS = [*SMALL, "dormant/z", "gradient_dormant/x", "effective_rank/actor", "loss/network", "train/return"]
FIGURES = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([0.0, 1e-30, 0.5, 1e30, math.inf, -math.inf]))


@given(st.lists(FIGURES, max_size=8), st.lists(FIGURES, max_size=8))
@settings(deadline=None, max_examples=100)
def test_whatever_is_missing_or_infinite_there_is_a_verdict(looks, twins):
    own, twin = History(), History()
    twin.add(0, {"gradient_norm/a": 1.0})
    for made, figures in ((own, looks), (twin, twins)):
        for step, one in enumerate(figures):
            made.add(step, one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge(own, beside=twin)


def plain(depth):
    hidden = [part for _ in range(depth - 1) for part in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *hidden, nn.Linear(64, 10))


def skips():
    return nn.Sequential(MultiSkipTorso(64, 64, 4), nn.Linear(64, 10))


def train(make, seed):
    """A monitor of 300 steps of Adam on the digits."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16 - 0.3, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, every=20, probe_every=40) as monitor:
        for _ in range(300):
            rows = torch.randint(0, len(inputs), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return monitor


@pytest.fixture(scope="module")
def shallow():
    return [train(lambda: plain(2), seed) for seed in range(3)]


def test_seeds_of_one_network_are_not_told_apart(shallow):
    for own, twin in itertools.permutations(shallow, 2):
        assert own.report(beside=twin).verdict == "healthy"


def test_a_deep_network_that_learns_is_healthy_beside_a_shallow_one(shallow):
    report = train(skips, 0).report(beside=shallow[0])
    assert report.verdict == "healthy", str(report)


def test_a_deep_plain_network_beside_a_shallow_one(shallow):
    """Twenty layers learn nothing, two learn the digits."""
    deep = train(lambda: plain(20), 0)
    report = deep.report(beside=shallow[0])
    assert [one.level for one in report.findings if one.rule == "learns_less"] == ["collapsing"]
    assert report.prescriptions[0].name in ("layer_norm", "multi_skip", "residual")
    # A report of it alone has nothing of this.
    assert "learns_less" not in {one.rule for one in deep.report().findings}
    # What was measured is enough.
    assert deep.report(beside=shallow[0].history).findings == report.findings
    assert str(report).startswith(f"verdict: {report.verdict}, beside a training with 16 looks up to step 300")
    assert report.to_dict()["beside"] == report.beside
    assert report.beside in view(report).watched
    assert shallow[0].report(beside=deep).beside.endswith(", itself collapsed")


def test_recorded_runs():
    rows = [{"step": step, **figures} for step, figures in history(SMALL, [0.0] * LOOKS).rows]
    report = diagnose_recorded(rows, beside=history(SMALL, line(0.0, 100.0)))
    assert "learns_less" in {one.rule for one in report.findings}
    assert report.beside == "a training with 12 looks up to step 120"
    assert isinstance(report, Report)


def test_wrong_use(shallow):
    own = shallow[0]
    with pytest.raises(UsageError, match="cannot be judged beside itself"):
        own.report(beside=own)
    with pytest.raises(UsageError, match="has no looks"):
        own.report(beside=History())
    with pytest.raises(UsageError, match="beside must be a Monitor or a History, got Report"):
        own.report(beside=own.report())
    other = history(SMALL)
    other.step_name = "environment steps"
    with pytest.raises(UsageError, match="counts environment steps, this one optimizer steps"):
        own.report(beside=other)

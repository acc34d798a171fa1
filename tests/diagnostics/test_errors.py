"""What a person gives wrong: one line that says what was expected, and the nearest choice."""

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from stablegrad.diagnostics import History, Monitor, Report, Thresholds, diagnose, verify, verify_training
from stablegrad.diagnostics.arguments import number_of, thresholds_of
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.preflight import PreflightThresholds
from stablegrad.errors import Catalogue, StablegradError, UsageError


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


ADAM = torch.optim.Adam(network().parameters())
ROWS = torch.randn(4, 4)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: INTERVENTIONS["layernorm"], "unknown intervention 'layernorm'; did you mean 'layer_norm'?"),
        (lambda: INTERVENTIONS["lr"], "unknown intervention 'lr'"),
        (lambda: INTERVENTIONS[None], "unknown intervention 'None'"),
        (lambda: INTERVENTIONS["layer_norm"].apply(network(), None), "give the optimizer .* got NoneType"),
        (lambda: Thresholds(dormantt=0.5), "unknown threshold 'dormantt'; did you mean 'dormant'?"),
        (lambda: PreflightThresholds(relearn=0.5), "unknown threshold 'relearn'; did you mean 'relearning'?"),
        (lambda: Thresholds(dormant="0.5"), "dormant must be a number, got '0.5'"),
        (lambda: Thresholds(patience=None), "patience must be a number, got None"),
        (lambda: Thresholds(patience=True), "patience must be a number, got True"),
        (lambda: Monitor(network(), ADAM, thresholds={"dormant": 0.5}), "thresholds must be Thresholds"),
        (lambda: thresholds_of({"dormant": 0.5}), r"thresholds must be Thresholds\(name=value, ...\), got dict"),
        (lambda: number_of("loss", "x"), "loss must be a number or a tensor of one element, got 'x'"),
        (lambda: number_of("loss", None), "loss must be a number .* got None"),
        (lambda: number_of("loss", torch.ones(2)), r"loss must be a number .* got a tensor of \(2,\)"),
        (lambda: number_of("loss", [1.0, 2.0]), "loss must be a number .*"),
        (lambda: diagnose(network()), r"give a sample of the inputs .* such as torch.randn\(8, 4\)"),
        (lambda: diagnose(network(), (4,)), "sample_input must be one tensor"),
        (lambda: diagnose(network(), torch.randn(2, 7)), r"refuses inputs of shape \(\d+, 7\)"),
        (lambda: diagnose(network(), ROWS.double()), "its parameters are torch.float32: try sample.to"),
        (lambda: diagnose(network(), ROWS.long() * 0), "to a network that takes numbers, sample.float()"),
        (lambda: diagnose(network(), ROWS, optimizer=ADAM), "optimizer must be a function .* got a Adam"),
        (lambda: diagnose(network(), ROWS, seconds="9"), "seconds must be above 0 and finite, got '9'"),
        (lambda: diagnose(network(), ROWS, phases=2.5), "phases must be at least 2, .* got 2.5"),
        (lambda: diagnose(network(), ROWS, thresholds={}), "thresholds must be Thresholds"),
        (lambda: verify(network(), ROWS, ["layer_norm"]), "prescriptions must be those of a report"),
        (lambda: verify_training(lambda change, seed: 1.0, Report([], History())), "must be those of a report"),
        (lambda: verify_training(0.5, []), "train must be a function"),
        (lambda: History().series("dead").site("0"), "unknown site of dead '0'"),
        (lambda: Report([], History()).save_html(""), "path must name a file"),
        (lambda: Report([], History()).save_html(None), "path must name a file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(use, message):
    with pytest.raises(UsageError, match=message) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_a_page_that_cannot_be_written(tmp_path):
    report = Report([], History())
    with pytest.raises(UsageError, match=r"is a folder; give a file in it, such as '.*report.html'"):
        report.save_html(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StablegradError, match=r"cannot write '.*page.html'"):
        report.save_html(tmp_path / "file" / "page.html")
    assert (tmp_path / "file").read_text() == ""


def test_beside_something_else_and_a_loss_that_is_none():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            model(ROWS).square().mean().backward()
            optimizer.step()
    with pytest.raises(UsageError, match="loss must be a number or a tensor of one element, got 'x'"):
        monitor.log(loss="x")
    for other in (5, "runs/small", monitor.report()):
        with pytest.raises(UsageError, match=f"beside must be a Monitor or a History, got {type(other).__name__}"):
            monitor.report(beside=other)


def test_what_is_right_passes():
    assert thresholds_of(None) == Thresholds()
    assert number_of("loss", 3) == 3.0 and number_of("loss", torch.tensor([2.0])) == 2.0
    changed = dataclasses.replace(Thresholds(), dormant=0.5)
    assert pickle.loads(pickle.dumps(changed)) == changed == Thresholds(dormant=0.5)


def test_a_catalogue_is_a_dictionary_but_for_what_it_lacks():
    fruits = Catalogue("fruit", [("apple", 1), ("pear", 2)])
    assert dict(fruits) == {"apple": 1, "pear": 2} and fruits["pear"] == 2
    assert "aple" not in fruits and fruits.get("aple") is None
    with pytest.raises(UsageError, match=r"unknown fruit 'aple'; did you mean 'apple'\? \(valid: apple, pear\)"):
        fruits["aple"]

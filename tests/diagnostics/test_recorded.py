import pytest
import torch
from torch import nn

from stablegrad.diagnostics.monitor import Monitor
from stablegrad.diagnostics.recorded import NEEDED_FOR, diagnose_recorded
from stablegrad.errors import StablegradError


def test_a_run_that_was_watched_gets_the_monitors_own_verdict():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model[2:].parameters(), lr=1e-2)
    with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
        report = monitor.report()
    assert "no_update" in {finding.rule for finding in report.findings}
    rows = []
    for step, figures in report.history.rows:
        rows.append({"step": step, "wall_seconds": 1.0, "train/return": 5.0, **figures})
        # Lines between the looks hold gradients only, those of all updates.
        rows.append({"step": step + 1, **{key: 1e9 for key in figures if key.startswith("gradient_norm/")}})
    recorded = diagnose_recorded(rows)
    assert recorded.findings == report.findings
    assert recorded.notes == [f"not recorded, so not judged: {NEEDED_FOR['effective_rank']}; {NEEDED_FOR['churn']}"]


def test_an_old_run_has_gradient_norms_only():
    rows = [
        {"step": step, "loss/td": 1.0, "gradient_norm/encoder": 2.0, "gradient_norm/head": 0.0}
        for step in range(10, 60, 10)
    ]
    report = diagnose_recorded(rows)
    assert [(finding.rule, finding.site, finding.since) for finding in report.findings] == [("no_gradient", "head", 10)]
    (note,) = report.notes
    assert all(what in note for what in NEEDED_FOR.values())


@pytest.mark.parametrize("rows", [[], [{"step": 1, "train/return": 3.0}]])
def test_without_gradients_there_is_nothing_to_judge(rows):
    with pytest.raises(StablegradError, match="recorded no gradient norms"):
        diagnose_recorded(rows)


def test_of_equal_findings_the_first_in_the_network_is_named_first():
    figures = {"gradient_norm/a": 1.0, "gradient_norm/b": 1.0, "dead/a": 1.0, "dead/b": 1.0}
    rows = [{"step": step, **figures} for step in range(10, 130, 10)]
    for order in (["a", "b"], ["b", "a"]):
        findings = diagnose_recorded(rows, order=order).findings
        assert [one.site for one in findings if one.rule == "dead_units"] == order

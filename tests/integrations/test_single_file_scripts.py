"""The monitor in a script of CleanRL's shape: one line after the optimizer is made."""

import runpy
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "single_file_ppo.py"
LINE = (
    "import stablegrad.diagnostics; monitor = stablegrad.diagnostics.Monitor(agent, optimizer, every=8, probe_every=16)"
)


def run(script, tmp_path, name, monkeypatch):
    path, weights = tmp_path / f"{name}.py", tmp_path / f"{name}.pt"
    path.write_text(script)
    monkeypatch.setattr(sys, "argv", [str(path), str(weights)])
    return runpy.run_path(str(path), run_name="__main__"), torch.load(weights, weights_only=True)


def test_one_line_watches_both_networks_and_changes_nothing(tmp_path, monkeypatch):
    script = SCRIPT.read_text()
    assert script.count("# PATCH\n") == 1
    _, plain = run(script, tmp_path, "plain", monkeypatch)
    variables, watched = run(script.replace("# PATCH\n", LINE + "\n"), tmp_path, "watched", monkeypatch)
    assert all(torch.equal(plain[name], watched[name]) for name in plain)

    monitor = variables["monitor"]
    history = monitor.fetch()
    assert monitor.steps == 6 * 2 * 4
    assert set(history.series("gradient_norm").sites) == {"actor.0", "actor.2", "critic.0", "critic.2"}
    assert set(history.series("saturated").sites) == {"actor.1", "critic.1"}
    assert len(history.series("error_signal").steps) == 7
    # The critic's gradients are clipped from far above 0.5; what is reported is what they were before.
    assert history.series("gradient_norm").site("critic.2").max() > 0.5
    assert monitor.report().verdict in ("healthy", "at risk", "collapsing", "collapsed")

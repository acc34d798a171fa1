"""The progress of one run, as plain lines and as a bar."""

import sys

from stablegrad.training import progress as module
from stablegrad.training.progress import TrainingProgress


def test_every_time_has_a_name_and_the_last_line_says_how_long_it_took(monkeypatch, capsys):
    clock = iter([0.0, 20.0, 40.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    shown = TrainingProgress(1000)
    shown.update(250, None)
    shown.update(1010, 12.34)
    assert capsys.readouterr().err.splitlines() == [
        "250/1,000 steps  12 steps/s  return -  60 s left",
        "1,010/1,000 steps  25 steps/s  return 12.3  done in 40 s",
    ]


def test_the_bars_two_times_are_told_apart(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    shown = TrainingProgress(1000)
    shown.update(500, 3.0)
    shown.close()
    line = capsys.readouterr().err
    assert "elapsed" in line
    assert "left" in line

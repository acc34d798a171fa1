"""Time is counted once, however deep it is nested and whatever it ends with."""

from types import SimpleNamespace

import pytest

from stablegrad.diagnostics import stopwatch


def test_nested_time_counts_once_and_an_error_stops_the_watch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    watch = stopwatch.Stopwatch()

    def take(seconds):
        now[0] += seconds

    with watch:
        with watch:
            take(2)
        take(1)
    take(10)
    with pytest.raises(ValueError), watch:
        take(3)
        raise ValueError
    take(10)
    assert watch.seconds == 6

"""What TensorBoard reads is what was logged."""

import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stablegrad.training.metrics import MetricsWriter
from stablegrad.training.run_folder import RunFolder

DAY = 86_400 * 10**9


@pytest.mark.parametrize("clock", [[0, 0, 0], [0, -DAY, -2 * DAY], [0, DAY, -DAY], [0, 10**6, -1]])
def test_points_come_in_the_order_of_steps_wherever_the_clock_is(tmp_path, monkeypatch, clock):
    """Each part of the run is cut back to its middle by the next."""
    folder = RunFolder.create(tmp_path / "run", {})
    now, position, first = time.time_ns(), 0, 1
    for shift in clock:
        monkeypatch.setattr(time, "time_ns", lambda shift=shift: now + shift)
        writer = MetricsWriter(folder, resume_at=(position, first - 1))
        for step in range(first, first + 6):
            writer.write(step, 0.0, {"loss": 10.0 * step})
            if step == first + 2:
                position = writer.position()
        writer.close()
        first += 3
    shown = EventAccumulator(str(folder.path))
    shown.Reload()
    logged = [(row["step"], row["loss"]) for row in folder.read_metrics()]
    assert logged == [(step, 10.0 * step) for step in range(1, 13)]
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == logged


def test_another_programs_event_files_come_first(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", {})
    other = folder.path / "events.out.tfevents.1800000000.stubborn.1.0"
    other.touch()
    (folder.path / "events.out.tfevents.copy").touch()
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000 * 10**9)
    MetricsWriter(folder).close()
    assert sorted(path.name for path in folder.path.glob("events.*.*.*.*"))[0] == other.name

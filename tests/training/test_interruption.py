"""Signals that ask for a stop."""

import dataclasses
import os
import signal
import threading
import time

import pytest

from stablegrad.training import interruption
from stablegrad.training.interaction import train
from stablegrad.training.interruption import stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_collected_and_the_handlers_given_back(number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals() as received:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert received == [number, number]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_ends_at_once_where_that_is_asked(monkeypatch):
    monkeypatch.setattr(interruption, "SAME_REQUEST_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), stop_signals(second_ends=True) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)


def test_one_request_may_arrive_twice():
    """Where a whole group of processes is told to stop, a child hears of it from the system and from its parent."""
    with stop_signals(second_ends=True) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM] * 2


def test_a_thread_leaves_the_handlers_alone_and_trains(tiny_run, tmp_path):
    """Only the main thread may set handlers; training in another one used to raise for that."""
    before = signal.getsignal(signal.SIGTERM)
    summaries = []
    config = dataclasses.replace(tiny_run, total_steps=300)
    thread = threading.Thread(target=lambda: summaries.append(train(config, tmp_path / "run", quiet=True)))
    thread.start()
    thread.join()
    assert [summary["status"] for summary in summaries] == ["finished"]
    assert signal.getsignal(signal.SIGTERM) is before

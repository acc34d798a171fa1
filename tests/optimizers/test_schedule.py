from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.optimizers.schedule import refresh_due, refresh_rate


def refreshes(steps, warmup, floor):
    since, result = 0, []
    for step in range(steps):
        since += 1
        if refresh_due(step, since, warmup, floor):
            result.append(step)
            since = 0
    return result


def test_follows_kron_torch_for_6000_steps():
    kron_torch = pytest.importorskip("kron_torch.kron", reason="kron_torch, the witness, is a development dependency")
    schedule = kron_torch.precond_update_prob_schedule()
    counter, expected = torch.tensor(0, dtype=torch.int32), []
    for step in range(6000):
        counter += 1
        if counter >= 1 / schedule._schedule_fn(torch.tensor(float(step))):
            expected.append(step)
            counter.zero_()
    assert refreshes(6000, 500, 0.03) == expected


def test_every_step_at_first_then_at_the_floor():
    steps = refreshes(20000, 500, 0.1)
    assert steps[:501] == list(range(501))
    assert {later - earlier for earlier, later in zip(steps[-50:], steps[-49:], strict=False)} == {10}


@given(st.integers(0, 10**8), st.integers(1, 10**6), st.floats(0.001, 1))
def test_rate_lies_between_the_floor_and_one_and_never_rises(step, warmup, floor):
    assert floor <= refresh_rate(step + 1, warmup, floor) <= refresh_rate(step, warmup, floor) <= 1
    assert refresh_rate(min(step, warmup), warmup, floor) == 1

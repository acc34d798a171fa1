from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.optimizers import classic
from stablegrad.optimizers.schedule import KINDS, kind_of_step, long_run_shares, refresh_due, refreshes_before


def refreshes(steps, warmup, floor):
    return [step for step in range(steps) if refresh_due(step, warmup, floor)]


def test_the_classic_counter_follows_kron_torch_for_6000_steps():
    kron_torch = pytest.importorskip("kron_torch.kron", reason="kron_torch, the witness, is a development dependency")
    schedule = kron_torch.precond_update_prob_schedule()
    counter, since, expected, own = torch.tensor(0, dtype=torch.int32), 0, [], []
    for step in range(6000):
        counter += 1
        since += 1
        if counter >= 1 / schedule._schedule_fn(torch.tensor(float(step))):
            expected.append(step)
            counter.zero_()
        if classic.refresh_due(step, since, 500, 0.03):
            own.append(step)
            since = 0
    assert own == expected


def test_every_step_at_first_then_at_the_floor():
    steps = refreshes(20000, 500, 0.1)
    assert steps[:501] == list(range(501))
    assert {later - earlier for earlier, later in zip(steps[-50:], steps[-49:], strict=False)} == {10}


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.floats(0.001, 1))
def test_the_integral_is_that_of_the_rate(step, warmup, floor):
    """Simpson's rule, exact enough for an exponential; the kinks lie where a piece ends."""

    def rate(t):
        return min(1.0, max(floor, math.exp(-max(0.0, t - warmup) / (2 * warmup))))

    floor_at = warmup * (1 + 2 * math.log(1 / floor))
    kinks = [0.0, *(t for t in (float(warmup), floor_at) if t < step), float(step)]
    total = 0.0
    for low, high in itertools.pairwise(kinks):
        points = [low + (high - low) * i / 64 for i in range(65)]
        weights = [1, *([4, 2] * 31), 4, 1]
        total += (high - low) / 192 * sum(w * rate(t) for w, t in zip(weights, points, strict=True))
    assert refreshes_before(step, warmup, floor) == pytest.approx(total, rel=1e-4, abs=1e-6)


@given(st.integers(0, 10**8), st.integers(1, 10**6), st.floats(0.001, 1))
def test_a_step_refreshes_once_at_most_and_the_warm_up_always(step, warmup, floor):
    growth = refreshes_before(step + 1, warmup, floor) - refreshes_before(step, warmup, floor)
    assert floor - 1e-6 <= growth <= 1 + 1e-6
    assert refresh_due(min(step, warmup - 1), warmup, floor)


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.floats(0.001, 1), st.integers(1, 20))
def test_an_update_is_never_older_than_asked(step, warmup, floor, every):
    kinds = [kind_of_step(step + i, warmup, floor, every) for i in range(every)]
    assert set(kinds) - {"repeat"}
    assert (kinds[0] == "refresh") == refresh_due(step, warmup, floor)


@pytest.mark.parametrize(
    ("warmup", "floor", "every"), [(1, 0.1, 1), (1, 0.1, 2), (100, 0.1, 2), (7, 0.23, 3), (500, 0.03, 4), (3, 1.0, 2)]
)
def test_shares_in_the_long_run_are_those_counted(warmup, floor, every):
    kinds = [kind_of_step(step, warmup, floor, every) for step in range(20_000, 30_000)]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in KINDS}
    assert long_run_shares(floor, every) == pytest.approx(shares, abs=1e-3)

import numpy as np
import pytest
import torch

from stablegrad.networks.running_norm import RunningNorm


def test_moments_are_those_of_all_rows_that_count():
    """Far from 0, where float32 would lose the variance."""
    random = np.random.default_rng(0)
    batches = [random.normal(1e5, [0.5, 3.0], (n, 2)) for n in (1, 7, 300)]
    norm = RunningNorm((2,))
    for batch in batches:
        spoiled = np.concatenate([batch, np.full((2, 2), 1e9)])
        weight = torch.tensor([1.0] * len(batch) + [0.0, 0.0])
        norm.update(torch.from_numpy(spoiled), weight)
    rows = np.concatenate(batches)
    assert norm.mean.numpy() == pytest.approx(rows.mean(0), abs=0.1)
    # Its first mean, 0, counts as a ten-thousandth of a row.
    pull = 1e-4 / len(rows) * 1e10
    assert norm.variance.numpy() == pytest.approx(rows.var(0) + pull, rel=1e-3)


def test_it_is_stable_baselines3s():
    running = pytest.importorskip("stable_baselines3.common.running_mean_std").RunningMeanStd(shape=(3,))
    norm = RunningNorm((3,))
    random = np.random.default_rng(1)
    for n in (5, 1, 64):
        batch = random.normal([1.0, -20.0, 3.0], [1.0, 5.0, 0.1], (n, 3))
        running.update(batch)
        norm.update(torch.from_numpy(batch), torch.ones(n))
    assert norm.mean.numpy() == pytest.approx(running.mean)
    assert norm.variance.numpy() == pytest.approx(running.var)
    expected = np.clip((batch - running.mean) / np.sqrt(running.var + 1e-8), -10, 10)
    assert norm(torch.from_numpy(batch).float()).numpy() == pytest.approx(expected, abs=1e-4)


def test_it_clips_is_saved_and_a_constant_becomes_zero():
    norm = RunningNorm((2,))
    norm.update(torch.tensor([[3.0, 1.0], [3.0, 2.0]]), torch.ones(2))
    assert norm(torch.tensor([[3.0, 1e6]])).tolist() == [[pytest.approx(0.0, abs=0.02), 10.0]]
    other = RunningNorm((2,))
    other.load_state_dict(norm.state_dict())
    x = torch.randn(5, 2)
    assert torch.equal(norm(x), other(x))
    assert {"mean", "variance", "count"} <= norm.state_dict().keys()
    assert norm.mean.dtype == torch.float64


def test_processes_that_average_their_moments_have_those_of_all_rows():
    random = np.random.default_rng(2)
    parts = [torch.from_numpy(random.normal(2.0, 3.0, (n, 1))) for n in (3, 8)]
    whole = RunningNorm((1,))
    whole.update(torch.cat(parts), torch.ones(11))
    alone = RunningNorm((1,))
    collected = []
    for part in parts:
        RunningNorm((1,)).update(part, torch.ones(len(part)), lambda moments: collected.append(moments) or moments)
    alone.update(parts[0], torch.ones(3), lambda _: torch.stack(collected).mean(0))
    torch.testing.assert_close(alone.mean, whole.mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(alone.variance, whole.variance, rtol=1e-4, atol=0)

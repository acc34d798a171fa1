import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.targets import (
    clipped_q_target,
    polyak_update_,
    q_learning_target,
    smoothed_action,
    soft_q_target,
)


def transitions(seed, batch, outputs):
    generator = torch.Generator().manual_seed(seed)
    reward = torch.randn(batch, generator=generator)
    discount = 0.99 * (torch.rand(batch, generator=generator) < 0.7)
    first, second = torch.randn((2, batch, outputs), generator=generator)
    return reward, discount, first, second


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
def test_q_learning_targets_are_those_of_a_loop(seed, batch, actions):
    reward, discount, next_q, choosing_q = transitions(seed, batch, actions)
    plain, double = [], []
    for b in range(batch):
        plain.append(reward[b] + discount[b] * max(next_q[b]))
        best = max(range(actions), key=lambda action, b=b: choosing_q[b, action])
        double.append(reward[b] + discount[b] * next_q[b, best])
    torch.testing.assert_close(q_learning_target(reward, discount, next_q), torch.stack(plain))
    torch.testing.assert_close(q_learning_target(reward, discount, next_q, choosing_q), torch.stack(double))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 2))
def test_soft_targets_are_those_of_a_loop(seed, batch, critics):
    reward, discount, next_q, other = transitions(seed, batch, critics)
    log_prob, temperature = other[:, 0], torch.tensor(0.3)
    expected = [reward[b] + discount[b] * (min(next_q[b]) - 0.3 * log_prob[b]) for b in range(batch)]
    torch.testing.assert_close(soft_q_target(reward, discount, next_q, log_prob, temperature), torch.stack(expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 2))
def test_clipped_targets_are_those_of_a_loop(seed, batch, critics):
    reward, discount, next_q, _ = transitions(seed, batch, critics)
    expected = [reward[b] + discount[b] * min(next_q[b]) for b in range(batch)]
    torch.testing.assert_close(clipped_q_target(reward, discount, next_q), torch.stack(expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 3.0))
def test_smoothed_actions_are_those_of_a_loop(seed, clip):
    generator = torch.Generator().manual_seed(seed)
    action, noise = 2 * torch.rand(5, 3, generator=generator) - 1, torch.randn(5, 3, generator=generator)
    found = smoothed_action(action, noise, clip)
    for i in range(5):
        for j in range(3):
            expected = min(max(action[i, j] + min(max(noise[i, j].item(), -clip), clip), -1.0), 1.0)
            assert abs(found[i, j] - expected) < 1e-6
    assert torch.equal(smoothed_action(action, noise, 0.0), action)


def test_target_networks_move_by_tau_and_copy_exactly():
    generator = torch.Generator().manual_seed(0)
    online = [torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]
    target = [torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]
    expected = [0.9 * old + 0.1 * new for old, new in zip(target, online, strict=True)]
    polyak_update_(target, online, 0.1)
    torch.testing.assert_close(target, expected)
    polyak_update_(iter(target), iter(online), 1.0)
    assert all(torch.equal(one, other) for one, other in zip(target, online, strict=True))

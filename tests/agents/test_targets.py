import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.targets import polyak_update_, smoothed_action


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

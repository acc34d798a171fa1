import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.agents.returns import lambda_returns


def slow_lambda_returns(reward, value, bootstrap, terminated, truncated, valid, discount, lambda_):
    """Walk every episode of every environment on its own, from the definition: a weighted mean of n-step returns.

    Rows that only carry a reset are found through ``valid`` and cut the stream; nothing else is known about them.
    """
    num_steps, num_envs = reward.shape
    values = torch.cat([value, bootstrap[None]])
    target = torch.full_like(reward, float("nan"))
    for n in range(num_envs):
        for t in range(num_steps):
            if not valid[t, n]:
                continue
            # n-step returns until the episode, the rollout or the data of this episode ends.
            n_step, discounted, k = [], 0.0, 0
            while True:
                row = t + k
                discounted += discount**k * reward[row, n].item()
                tail = 0.0 if terminated[row, n] else discount ** (k + 1) * values[row + 1, n].item()
                n_step.append(discounted + tail)
                k += 1
                if terminated[row, n] or truncated[row, n] or row + 1 == num_steps:
                    break
                assert valid[row + 1, n], "a row without an end is followed by a transition"
            weights = [(1 - lambda_) * lambda_**i for i in range(len(n_step))]
            weights[-1] = lambda_ ** (len(n_step) - 1)
            target[t, n] = sum(weight * value for weight, value in zip(weights, n_step, strict=True))
    return target


@st.composite
def streams(draw):
    """Rows as a NEXT_STEP engine gives them: an ended row is followed by one that only carries a reset."""
    num_steps, num_envs = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    terminated = torch.zeros(num_steps, num_envs, dtype=torch.bool)
    truncated, valid = terminated.clone(), ~terminated
    for n in range(num_envs):
        reset = draw(st.booleans())  # the rollout may begin with a reset row
        for t in range(num_steps):
            valid[t, n] = not reset
            end = "no" if reset else draw(st.sampled_from(["no", "no", "terminated", "truncated"]))
            terminated[t, n], truncated[t, n] = end == "terminated", end == "truncated"
            reset = end != "no"
    numbers = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(numbers)
    reward, value = torch.randn(2, num_steps, num_envs, generator=generator, dtype=torch.float64)
    bootstrap = torch.randn(num_envs, generator=generator, dtype=torch.float64)
    return reward, value, bootstrap, terminated, truncated, valid


@settings(deadline=None, max_examples=200)
@given(stream=streams(), discount=st.floats(0, 1), lambda_=st.sampled_from([0.0, 0.3, 0.65, 0.95, 1.0]))
def test_equals_the_slow_loop_on_every_transition(stream, discount, lambda_):
    reward, value, bootstrap, terminated, truncated, valid = stream
    next_value = torch.cat([value[1:], bootstrap[None]])
    fast = lambda_returns(reward, next_value, terminated, truncated, discount=discount, lambda_=lambda_)
    slow = slow_lambda_returns(reward, value, bootstrap, terminated, truncated, valid, discount, lambda_)
    torch.testing.assert_close(fast[valid], slow[valid], rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(stream=streams(), lambda_=st.floats(0, 1), noise=st.floats(-1e6, 1e6))
def test_reset_rows_reach_no_transition(stream, lambda_, noise):
    """Neither the reward in a reset row (dm_control repeats the last one) nor what follows it changes a target."""
    reward, value, bootstrap, terminated, truncated, valid = stream
    next_value = torch.cat([value[1:], bootstrap[None]])
    before = lambda_returns(reward, next_value, terminated, truncated, discount=0.99, lambda_=lambda_)
    spoiled = torch.where(valid, reward, torch.full_like(reward, noise))
    after = lambda_returns(spoiled, next_value, terminated, truncated, discount=0.99, lambda_=lambda_)
    torch.testing.assert_close(before[valid], after[valid], rtol=0, atol=0)


def test_a_worked_example():
    """Three steps, discount 0.5, lambda 0.5: by hand, the last row first."""
    reward = torch.tensor([[1.0], [2.0], [3.0]])
    next_value = torch.tensor([[10.0], [20.0], [30.0]])
    no = torch.zeros(3, 1, dtype=torch.bool)
    kwargs = {"discount": 0.5, "lambda_": 0.5}
    # 3 + .5*30 = 18;  2 + .5*(.5*20 + .5*18) = 11.5;  1 + .5*(.5*10 + .5*11.5) = 6.375
    assert lambda_returns(reward, next_value, no, no, **kwargs).flatten().tolist() == [6.375, 11.5, 18.0]
    middle = torch.tensor([[False], [True], [False]])
    # terminated in the middle: 2, then 1 + .5*(.5*10 + .5*2) = 4
    assert lambda_returns(reward, next_value, middle, no, **kwargs).flatten().tolist() == [4.0, 2.0, 18.0]
    # truncated in the middle: 2 + .5*20 = 12, then 1 + .5*(.5*10 + .5*12) = 6.5
    assert lambda_returns(reward, next_value, no, middle, **kwargs).flatten().tolist() == [6.5, 12.0, 18.0]


def test_lambda_0_is_one_step_and_lambda_1_is_monte_carlo():
    torch.manual_seed(0)
    reward, next_value = torch.randn(2, 6, 4)
    no = torch.zeros(6, 4, dtype=torch.bool)
    one_step = lambda_returns(reward, next_value, no, no, discount=0.9, lambda_=0.0)
    torch.testing.assert_close(one_step, reward + 0.9 * next_value)
    monte_carlo = lambda_returns(reward, next_value, no, no, discount=0.9, lambda_=1.0)
    powers = 0.9 ** torch.arange(6)
    torch.testing.assert_close(monte_carlo[0], (powers[:, None] * reward).sum(0) + 0.9**6 * next_value[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype_and_writes_into_no_argument(dtype):
    reward, next_value = torch.ones(2, 3, 2, dtype=dtype)
    flags = torch.zeros(3, 2, dtype=torch.bool)
    target = lambda_returns(reward, next_value, flags, flags, discount=0.9, lambda_=0.5)
    assert target.dtype == dtype
    assert torch.equal(reward, torch.ones_like(reward))
    assert torch.equal(next_value, torch.ones_like(next_value))

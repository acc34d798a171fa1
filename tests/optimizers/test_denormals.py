"""No optimizer state holds numbers that a processor is slow with, and no other number changes for it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import Parameter

from stablegrad.hardware import denormals_flushed, flushes_denormals
from stablegrad.optimizers import Kron
from stablegrad.optimizers.denormals import floor_of_gradients, floor_of_updates, flush_
from stablegrad.optimizers.kron import RULES

#: With one thread the processor flushes; with two Kron does.
THREADS = [1, 2]


@pytest.fixture(params=THREADS)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def denormals(tensor):
    """How many, by their bits: a processor that flushes sees none."""
    bits, mantissa = {4: (torch.int32, 23), 2: (torch.int16, 7), 8: (torch.int64, 52)}[tensor.element_size()]
    raw = tensor.detach().contiguous().view(bits)
    exponent_bits = 8 * tensor.element_size() - 1 - mantissa
    exponent = (raw >> mantissa) & ((1 << exponent_bits) - 1)
    return int(((exponent == 0) & ((raw & ((1 << mantissa) - 1)) != 0)).sum())


def held(optimizer):
    """Denormal numbers in all that an optimizer holds: its state, and what it has laid out."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    for _, cohorts in optimizer._laid_out.values():
        tensors += [bank.P for cohort in cohorts for bank in cohort.banks]
    return sum(denormals(tensor) for tensor in tensors if tensor.is_floating_point())


def test_the_count_by_bits_is_the_count_by_value():
    smallest = torch.finfo(torch.float32).tiny
    values = torch.tensor([0.0, -smallest / 2, smallest, 1.0, float("inf"), -smallest])
    assert denormals(values) == int(((values != 0) & (values.abs() < smallest)).sum()) == 1
    assert denormals(values.double()) == 0
    assert denormals(values.bfloat16()) == 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_decays_ends_at_zero(rule, dtype, threads):
    """A unit that dies: after 140 steps of decay by 0.5 Adam's moments are denormal."""
    torch.manual_seed(0)
    weight, bias = Parameter(torch.randn(12, 20, dtype=dtype)), Parameter(torch.randn(12, dtype=dtype))
    optimizer = Kron([weight, bias], lr=1e-3, rule=rule, momentum=0.5)
    adam = torch.optim.Adam([Parameter(weight.detach().clone())], betas=(0.5, 0.9))
    for step in range(140):
        weight.grad, bias.grad = torch.randn_like(weight), torch.randn_like(bias)
        if step >= 10:
            weight.grad[4:8] = 0
            bias.grad[4:8] = 0
        adam.param_groups[0]["params"][0].grad = weight.grad
        optimizer.step()
        adam.step()
        assert held(optimizer) == 0
    assert sum(denormals(state["exp_avg"]) for state in adam.state.values()) > 0
    assert (optimizer.state[weight]["momentum"].view(-1)[:20] != 0).all()
    assert not flushes_denormals()


def test_masters_of_a_layer_that_gets_no_gradient_any_more_end_at_zero(threads):
    weight = Parameter(torch.ones(8, 8))
    optimizer = Kron([weight], lr=1e-3, momentum=0.5, block_size=4)
    for step in range(200):
        weight.grad = torch.randn(8, 8) if step < 5 else torch.zeros(8, 8)
        optimizer.step()
        assert held(optimizer) == 0
    assert not optimizer.state[weight]["momentum"].any()


@given(
    st.integers(0, 2**31),
    st.lists(st.integers(-149, 20), min_size=1, max_size=6),
    st.sampled_from(RULES),
    st.sampled_from(THREADS),
    st.sampled_from([0.0, 0.9]),
)
@settings(max_examples=40, deadline=None)
def test_gradients_of_any_size_leave_nothing_denormal(seed, exponents, rule, threads, momentum):
    torch.manual_seed(seed)
    params = [Parameter(torch.randn(5, 6)), Parameter(torch.randn(4)), Parameter(torch.randn(()))]
    optimizer = Kron(params, lr=1e-3, rule=rule, momentum=momentum)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for exponent in exponents:
            for param in params:
                spread = torch.randint(-30, 1, param.shape)
                param.grad = torch.ldexp(torch.randn(param.shape), exponent + spread)
            optimizer.step()
            assert held(optimizer) == 0
            assert all(param.isfinite().all() for param in params)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_else_changes(rule, monkeypatch):
    """Bit for bit, with and without, where no entry is small."""

    def trained(threads, flushing):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
        optimizer = Kron(model.parameters(), lr=1e-2, rule=rule, weight_decay=0.1)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with monkeypatch.context() as patch:
            if not flushing:
                patch.setattr("stablegrad.optimizers.denormals.torch.hardshrink", lambda tensor, floor, out: tensor)
            for _ in range(60):
                optimizer.zero_grad()
                model(torch.randn(8, 6)).square().mean().backward()
                optimizer.step()
        torch.set_num_threads(before)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    plain = trained(2, flushing=False)
    assert torch.equal(plain, trained(2, flushing=True))
    assert torch.equal(plain, trained(1, flushing=True))
    with denormals_flushed():
        assert torch.equal(plain, trained(1, flushing=True))


def test_weights_that_decay_end_at_zero(threads):
    weight = Parameter(torch.full((4, 4), 1e-34))
    optimizer = Kron([weight], lr=1e-3, weight_decay=100.0)
    for _ in range(120):
        weight.grad = torch.zeros(4, 4)
        optimizer.step()
    assert denormals(weight) == 0
    assert not weight.any()


@given(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.lists(st.integers(-1100, 100), max_size=20))
@settings(deadline=None)
def test_only_what_is_at_or_below_the_floor_becomes_zero(dtype, exponents):
    values = torch.tensor([(-1.0) ** i * 2.0**exponent for i, exponent in enumerate(exponents)], dtype=dtype)
    values = torch.cat([values, torch.tensor([0.0, float("inf"), -1.0], dtype=dtype)])
    for floor in (floor_of_gradients(dtype), floor_of_updates(dtype)):
        expected = [0.0 if abs(value) <= floor else value for value in values.tolist()]
        assert flush_(values.clone(), floor).tolist() == expected
    assert floor_of_updates(dtype) ** 2 >= torch.finfo(dtype).tiny
    assert flush_(torch.tensor([float("nan")], dtype=dtype), 1e-3).isnan().all()


def test_a_step_leaves_the_thread_as_it_was():
    weight = Parameter(torch.ones(4, 4))
    optimizer = Kron([weight], lr=1e-3)
    weight.grad = torch.ones(4, 4)
    seen = []
    optimizer.step(lambda: seen.append(flushes_denormals()))
    assert not seen[0]
    assert not flushes_denormals()
    with denormals_flushed():
        optimizer.step()
        assert flushes_denormals()
    weight.grad = torch.ones(4, 4).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    assert not flushes_denormals()


def test_a_copied_optimizer_and_an_old_state_come_clean():
    weight = Parameter(torch.ones(4, 4))
    optimizer = Kron([weight], lr=1e-3)
    weight.grad = torch.ones(4, 4)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["momentum"][0, 0] = 1e-40
    optimizer.load_state_dict(saved)
    weight.grad = torch.zeros(4, 4)
    optimizer.step()
    assert held(optimizer) == 0

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import Parameter

from stablegrad.errors import CheckpointError, UsageError
from stablegrad.optimizers import Kron
from stablegrad.optimizers import kron as kron_module
from stablegrad.optimizers.config import KronConfig, OptimizerConfig
from stablegrad.optimizers.schedule import KINDS, kind_of_step

RULES = ["pro", "classic"]

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


def network(dtype=torch.float32, device="cpu"):
    """A scalar, vectors, matrices of equal and of odd shapes and a convolution; blocks of 8 cut and pad them."""
    torch.manual_seed(0)
    shapes = [(), (6,), (6,), (11, 16), (16, 16), (16, 16), (1, 9), (9, 1), (4, 3, 2, 2), (17, 5), (0, 3)]
    return [Parameter(torch.randn(shape, device=device).to(dtype)) for shape in shapes]


def give_gradients(params, step, scale=1.0, skip=()):
    """Gradients that follow from the step and the parameters alone."""
    generator = torch.Generator().manual_seed(step)
    for i, param in enumerate(params):
        noise = torch.randn(param.shape, generator=generator).to(param)
        param.grad = None if i in skip else scale * (param.detach() + noise)


def train(params, optimizer, steps, **how):
    for step in steps:
        torch.manual_seed(step)  # the probes of the classic rule
        give_gradients(params, step, **how)
        optimizer.step()


def make(params, rule="pro", lr=0.01, **options):
    if rule != "classic":  # all kinds of step within a few
        options = {"block_size": 8, "refresh_warmup": 2, "refresh_floor": 0.3, "precondition_every": 2} | options
    return Kron(params, lr, rule=rule, **options)


def assert_same(params, others):
    for a, b in zip(params, others, strict=True):
        assert torch.equal(a, b)


# --- learning ---------------------------------------------------------------------------------------------------------


def loss_after(make_optimizer, steps=300):
    """Final loss of a linear regression whose inputs have a covariance of condition 1e4."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 16, generator=generator) * torch.logspace(-2, 0, 16)
    inputs = inputs @ torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    targets = inputs @ torch.randn(16, 12, generator=generator)
    model = nn.Linear(16, 12, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = make_optimizer(model.parameters())
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return loss.item()


@pytest.mark.parametrize("rule", RULES)
def test_beats_sgd_and_adam_on_ill_conditioned_regression(rule):
    """Each with its best rate of a grid, the same number of steps."""
    rates = [1.0, 0.3, 0.1, 0.03, 0.01]
    kron = min(loss_after(lambda params, lr=lr: Kron(params, lr, rule=rule)) for lr in rates)
    adam = min(loss_after(lambda params, lr=lr: torch.optim.Adam(params, lr)) for lr in rates)
    sgd = min(loss_after(lambda params, lr=lr: torch.optim.SGD(params, lr, 0.9)) for lr in [30.0, 10.0, 3.0, *rates])
    print(f"{rule} {kron:.2e}, adam {adam:.2e}, sgd {sgd:.2e}")
    assert kron < adam / 3
    assert kron < sgd / 3


# --- the update -------------------------------------------------------------------------------------------------------


def test_all_parameters_at_once_equal_each_alone():
    together, alone = network(), network()
    optimizers = [make([param], weight_decay=0.1) for param in alone]
    optimizer = make(together, weight_decay=0.1)
    for step in range(20):
        give_gradients(together, step)
        give_gradients(alone, step)
        optimizer.step()
        for one in optimizers:
            one.step()
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@given(st.integers(-25, 20))
@settings(max_examples=12, deadline=None)
def test_the_scale_of_the_gradients_does_not_matter(exponent):
    generator = torch.Generator().manual_seed(0)
    plain, scaled = ([Parameter(torch.ones(11, 16)), Parameter(torch.ones(6))] for _ in range(2))
    optimizers = make(plain), make(scaled)
    for _ in range(15):
        for a, b in zip(plain, scaled, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad * 2.0**exponent
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_updates_are_clipped_to_an_rms_of_1_1(rule):
    params = network()
    optimizer = make(params, rule, lr=1.0)
    seen = []
    for step in range(30):
        before = [param.detach().clone() for param in params]
        give_gradients(params, step, scale=100.0**step if step > 15 else 1.0)
        for param in params:
            if param.grad is not None:
                param.grad.clamp_(-1e10, 1e10)
        torch.manual_seed(step)
        optimizer.step()
        seen += [(a - b).square().mean().sqrt().item() for a, b in zip(params, before, strict=True) if a.numel()]
    assert max(seen) <= 1.1 * (1 + 1e-3)
    assert max(seen) > 1.09, "the clip was never reached"


@pytest.mark.parametrize("rule", RULES)
def test_weight_decay_shrinks_matrices_by_lr_times_decay(rule):
    weight, bias = Parameter(torch.full((4, 4), 2.0)), Parameter(torch.full((4,), 2.0))
    optimizer = make([weight, bias], rule, lr=0.1, weight_decay=0.5, momentum=0.0)
    weight.grad, bias.grad = torch.zeros(4, 4), torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 2.0 * (1 - 0.1 * 0.5)))
    assert torch.equal(bias.detach(), torch.full((4,), 2.0))


def test_first_update_of_pro_is_the_normalised_gradient():
    """Identity factors at the gradient's scale, then one refresh: about the gradient's direction, at unit size."""
    param = Parameter(torch.zeros(8, 8))
    param.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) * 1e-9
    Kron([param], 1.0).step()
    update = -param.detach()
    cosine = torch.nn.functional.cosine_similarity(update.flatten(), param.grad.flatten(), dim=0)
    assert cosine > 0.75
    assert 0.8 < update.square().mean().sqrt() < 1.15


def test_refreshes_follow_the_parameters_own_steps(monkeypatch):
    early, late = Parameter(torch.ones(4, 4)), Parameter(torch.ones(4, 4))
    optimizer = Kron([early])
    calls = []
    monkeypatch.setattr(kron_module, "kind_of_step", lambda step, *_: calls.append(step) or "refresh")
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": [late]})
        early.grad, late.grad = torch.ones(4, 4), torch.ones(4, 4)
        optimizer.step()
    assert calls == [0, 1, 2, 0, 3, 1]


@pytest.mark.parametrize("kind", ["precondition", "repeat"])
def test_steps_that_do_not_refresh_leave_the_preconditioner_alone(kind, monkeypatch):
    params = network()
    optimizer = make(params)
    train(params, optimizer, range(3))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    monkeypatch.setattr(kron_module, "kind_of_step", lambda *_: kind)
    train(params, optimizer, range(3, 6))
    after = optimizer.state_dict()["state"]
    for index, state in before.items():
        for key in {"Q1", "Q2", "q", "L", "L1", "L2"} & state.keys():
            assert torch.equal(state[key], after[index][key])
        assert not torch.equal(state["momentum"], after[index]["momentum"])


@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.05, 0.3]), st.floats(0, 0.95), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_steps_between_take_the_last_update_once_more(every, warmup, floor, momentum, seed):
    """Beside Kron that preconditions on every step, from the same gradients: its updates, every one until the next that
    is due. The running mean and the preconditioners are the same."""
    options = {"momentum": momentum, "refresh_warmup": warmup, "refresh_floor": floor}
    shapes = [(11, 16), (6,), (4, 3, 2, 2), ()]
    params, others = ([Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(2))
    optimizer, full = (
        make(params, lr=1.0, precondition_every=every, **options),
        make(others, lr=1.0, precondition_every=1, **options),
    )
    generator = torch.Generator().manual_seed(seed)
    directions: list[torch.Tensor] = []
    for step in range(20):
        moved = []
        for a, b in zip(params, others, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
            moved.append((a.detach().clone(), b.detach().clone()))
        optimizer.step()
        full.step()
        own = [old - a.detach() for (old, _), a in zip(moved, params, strict=True)]
        due = kind_of_step(step, warmup, floor, every) != "repeat"
        if due:
            directions = [old - b.detach() for (_, old), b in zip(moved, others, strict=True)]
        for update, direction in zip(own, directions, strict=True):
            # The same direction; its length is corrected for the step at which it is taken.
            scale = update.norm() / direction.norm()
            torch.testing.assert_close(update, scale * direction, rtol=1e-3, atol=1e-4)
            assert due is False or scale == pytest.approx(1, abs=1e-3)
        for a, b in zip(params, others, strict=True):
            for key in optimizer.state[a].keys() - {"update"}:
                assert torch.equal(optimizer.state[a][key], full.state[b][key])


def test_a_run_stopped_before_a_step_that_repeats_goes_on_bit_for_bit():
    params = network()
    options = {"refresh_warmup": 1, "refresh_floor": 0.1, "precondition_every": 3}
    optimizer = make(params, **options)
    kinds = [kind_of_step(step, 1, 0.1, 3) for step in range(20)]
    ends = []
    for step, kind in enumerate(kinds):
        if kind == "repeat":
            resumed = [Parameter(param.detach().clone()) for param in params]
            restored = make(resumed, **options)
            restored.load_state_dict(through_torch_save(optimizer.state_dict()))
            train(resumed, restored, range(step, 20))
            ends.append(resumed)
        train(params, optimizer, [step])
    for resumed in ends:
        assert_same(params, resumed)
    assert len(ends) > 5
    assert set(kinds) == set(KINDS)


@pytest.mark.parametrize(
    ("width", "options", "expected"),
    [
        (32, {}, (1, 100, 0.1)),
        (128, {}, (1, 100, 0.1)),
        (256, {}, (1, 100, 0.1)),
        (256, {"block_size": 128}, (2, 256, 0.1)),
        (2560, {}, (1, 100, 0.1)),
        (512, {"block_size": 256}, (4, 512, 0.05)),
        (2560, {"block_size": 256}, (4, 512, 0.05)),
        (1031, {"block_size": 1000}, (4, 512, 0.05)),
        (512, {"block_size": 256, "precondition_every": 2, "refresh_warmup": 7, "refresh_floor": 0.3}, (2, 7, 0.3)),
        (512, {"rule": "classic"}, (None, 500, 0.03)),
    ],
)
def test_what_is_done_how_often_follows_from_the_longest_block(width, options, expected):
    with torch.device("meta"):
        params = [Parameter(torch.ones(4, 32)), Parameter(torch.ones(width, width)), Parameter(torch.ones(width))]
    group = Kron(params, **options).param_groups[0]
    own = tuple(group.get(option) for option in ("precondition_every", "refresh_warmup", "refresh_floor"))
    assert own == expected
    options.pop("refresh_warmup", None)
    shares = Kron.estimate(params, **options).shares
    assert shares["refresh"] == expected[2]
    assert shares["precondition"] == pytest.approx((1 - expected[2]) / (expected[0] or 1))


@pytest.mark.parametrize(("momentum", "every"), [(0.9, 4), (0.95, 4), (0.8, 2), (0.5, 1), (0.0, 1)])
def test_updates_are_repeated_for_part_of_the_momentums_memory(momentum, every):
    weight = Parameter(torch.ones(512, 512))
    assert Kron([weight], block_size=256, momentum=momentum).param_groups[0]["precondition_every"] == every
    assert Kron.estimate([weight], block_size=256, momentum=momentum).shares["precondition"] == 0.95 / every


def test_groups_step_alike_unless_asked():
    """Weights and biases in groups of their own, as for weight decay, can be recorded as one graph a kind of step."""
    first, second, third, fourth = (
        {"params": [Parameter(torch.ones(shape))]} for shape in [(8,), (512, 512), (9,), (4,)]
    )
    optimizer = Kron([first, second], block_size=256)
    optimizer.add_param_group(third)
    optimizer.add_param_group(fourth | {"precondition_every": 3})
    copied = pickle.loads(pickle.dumps(optimizer))
    copied.add_param_group({"params": [Parameter(torch.ones(5))]})
    assert [group["precondition_every"] for group in copied.param_groups] == [4, 4, 4, 3, 4]
    optimizer = Kron(
        [{"params": group["params"]} for group in (first, second, third)], block_size=256, refresh_warmup=1
    )
    for step in range(8):
        for group in optimizer.param_groups:
            give_gradients(group["params"], step)
        if step == 0:
            optimizer.step()
        else:
            optimizer.apply(optimizer.advance())


def test_a_state_of_another_precision_loads():
    params = network()
    narrow = make(params, precision="bf16")
    train(params, narrow, range(3))
    wide = make(params, precision="fp32")
    wide.load_state_dict(narrow.state_dict())
    train(params, wide, range(3, 6))
    assert all(param.isfinite().all() for param in params)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_no_factor_is_larger_than_a_block():
    params = [Parameter(torch.zeros(64, 32, 4, 4)), Parameter(torch.zeros(512, 1030)), Parameter(torch.zeros(9000))]
    optimizer = Kron(params)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    for param in params:
        for key, value in optimizer.state[param].items():
            if key in ("Q1", "Q2"):
                longest = 64
                assert max(value.shape[1:]) <= longest
    factors = sum(state[key].numel() for state in optimizer.state.values() for key in ("Q1", "Q2") if key in state)
    assert factors <= 2 * sum(param.numel() for param in params)


def test_state_of_all_parameters_of_one_shape_is_one_allocation():
    params = [Parameter(torch.ones(16, 16)) for _ in range(5)]
    optimizer = make(params)
    train(params, optimizer, range(2))
    for key in ("momentum", "Q1", "Q2"):
        assert len({optimizer.state[param][key].untyped_storage().data_ptr() for param in params}) == 1


def tensors_of(optimizer):
    """Every storage that the optimizer keeps between steps, as {address: bytes}."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    for _, cohorts in optimizer._laid_out.values():
        for cohort in cohorts:
            kept += [cohort.sizes, cohort.step_counts, cohort.norms]
            for stack in (*cohort.stacks, *cohort.banks):
                kept += [value for value in vars(stack).values() if isinstance(value, torch.Tensor)]
                if hasattr(stack, "_products"):
                    kept += [out for _, _, products in stack._products for _, _, out in products]
    return {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("block_size", [256, 16, 128])
def test_the_estimate_is_what_the_state_takes(precision, block_size):
    shapes = [(512, 300), (512, 512), (512, 512), (512,), (64, 32, 4, 4), (18, 512), (1031, 40), (), (0, 3)]
    params = [Parameter(torch.randn(shape)) for shape in shapes]
    refreshes, preconditions = {256: (0.05, 0.2375), 16: (0.1, 0.9), 128: (0.1, 0.45)}[block_size]
    estimated = Kron.estimate(params, block_size=block_size, precision=precision)
    optimizer = Kron(params, block_size=block_size, precision=precision)
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    taken = sum(tensors_of(optimizer).values())
    assert estimated.parameters == sum(param.numel() for param in params)
    assert estimated.state_bytes == pytest.approx(taken, rel=0.03)
    assert estimated.multiply_adds == pytest.approx(
        preconditions * estimated.plain_multiply_adds + refreshes * estimated.refresh_multiply_adds
    )


def test_the_estimate_of_the_classic_rule_is_what_its_state_takes():
    params = [Parameter(torch.randn(shape)) for shape in [(96, 60), (64,), (16, 8, 4, 4), (), (1, 9), (5, 1), (0, 3)]]
    optimizer = Kron(params, rule="classic")
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    taken = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))
    assert Kron.estimate(params, rule="classic").state_bytes == taken


@pytest.mark.parametrize(("rule", "block_size"), [("pro", None), ("pro", 256), ("pro", 512), ("classic", None)])
def test_a_refresh_takes_no_more_in_passing_than_estimated(rule, block_size):
    """Allocations as torch's profiler sees them: a witness that knows nothing of the estimate."""
    params = [Parameter(torch.randn(512, 512)) for _ in range(12)] + [Parameter(torch.zeros(512))]
    optimizer = Kron(params, rule=rule, block_size=block_size)
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        optimizer.step()  # one of the first, which all refresh
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    estimated = Kron.estimate(params, rule=rule, block_size=block_size)
    assert 0 < peak <= estimated.transient_bytes < 3 * peak
    if block_size in (None, 256):
        assert estimated.state_bytes < 4.1 * sum(param.numel() * 4 for param in params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "classik"}, "did you mean 'classic'"),
        ({"rule": "classic", "block_size": 64}, "block_size needs rule"),
        ({"refresh_floor": 0.0}, r"refresh_floor must be in \(0, 1\]"),
    ],
)
def test_the_options_of_a_configuration_are_those_of_the_optimizer(options, message):
    with pytest.raises(UsageError, match=message):
        KronConfig(**options)
    layer = torch.nn.Linear(3, 2)
    config = OptimizerConfig(
        name="kron", kron=KronConfig(rule="pro", block_size=32, refresh_warmup=7, refresh_floor=0.05)
    )
    group = config.build(layer).param_groups[0]
    assert (group["block_size"], group["refresh_warmup"], group["refresh_floor"]) == (32, 7, 0.05)
    assert isinstance(dataclasses.replace(config, name="adam").build(layer), torch.optim.Adam)


def test_the_estimate_counts_the_products_of_a_dense_layer():
    """512 x 512 in blocks of 128: X P2 and P1 X are 512 * 512 * 128 each."""
    with torch.device("meta"):
        weight = torch.empty(512, 512)
    estimated = Kron.estimate([weight], block_size=128, refresh_floor=0.2, precision="fp32")
    assert estimated.plain_multiply_adds == 2 * 512 * 512 * 128
    second_moments, factors = 2 * 512 * 512 * 128, 2 * 4 * 128**3
    assert estimated.refresh_multiply_adds == 2 * 512 * 512 * 128 + second_moments + 5 * factors
    assert Kron.estimate([]).state_bytes == 0


def test_the_state_is_at_most_four_times_the_parameters_of_a_large_network():
    with torch.device("meta"):
        layers = [torch.empty(2560, 2560) for _ in range(10)] + [torch.empty(2560, 3136), torch.empty(2560)]
    bytes_of_parameters = 4 * sum(layer.numel() for layer in layers)
    assert Kron.estimate(layers, precision="fp32").state_bytes < 2.5 * bytes_of_parameters
    assert Kron.estimate(layers, precision="bf16").state_bytes < 2 * bytes_of_parameters


def test_advance_and_apply_are_step_and_nothing_moves_in_memory():
    """What recording each kind of step as a CUDA graph needs."""
    params, others = network(), network()
    optimizer, plain = (make(some, refresh_warmup=3, precondition_every=2) for some in (params, others))
    train(params, optimizer, range(1))
    train(others, plain, range(1))
    before = set(tensors_of(optimizer))
    kinds = []
    for step in range(1, 30):
        give_gradients(params, step)
        give_gradients(others, step)
        kinds.append(optimizer.advance())
        optimizer.apply(kinds[-1])
        plain.step()
    assert_same(params, others)
    assert set(tensors_of(optimizer)) == before
    assert kinds[:2] == ["refresh", "refresh"]
    assert set(kinds) == set(KINDS)
    with pytest.raises(UsageError, match="unknown kind of step 'refesh'; did you mean 'refresh'"):
        optimizer.apply("refesh")


def test_advance_says_when_it_cannot():
    params = network()
    optimizer = make(params, refresh_warmup=1, refresh_floor=0.01)
    with pytest.raises(UsageError, match="at least one step taken"):
        optimizer.advance()
    train(params, optimizer, range(20), skip=(4,))
    train(params, optimizer, range(20, 21))
    with pytest.raises(UsageError, match="some have missed steps"):
        optimizer.advance()


def test_bf16_products_follow_fp32():
    params, others = network(), network()
    wide, narrow = make(params, precision="fp32", lr=1e-3), make(others, precision="bf16", lr=1e-3)
    train(params, wide, range(30))
    train(others, narrow, range(30))
    for a, b, start in zip(params, others, network(), strict=True):
        if a.numel():
            moved = (a - start).norm()
            assert moved > 0
            assert (a - b).norm() < 0.1 * moved
    assert {state["momentum"].dtype for state in narrow.state.values()} == {torch.float32}


@pytest.mark.parametrize(("precision", "expected"), [(None, torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_fp32_on_any_hardware_unless_asked(precision, expected):
    params = network()
    optimizer = make(params, precision=precision)
    train(params, optimizer, range(1))
    banks = [bank for _, cohorts in optimizer._laid_out.values() for cohort in cohorts for bank in cohort.banks]
    assert {bank.P.dtype for bank in banks} == {expected}


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 7, 13]), max_size=4).map(tuple), min_size=1, max_size=6),
    st.integers(1, 9),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_any_shapes_get_finite_updates_of_bounded_size(shapes, block_size, seed):
    generator = torch.Generator().manual_seed(seed)
    params = [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = Kron(params, 1.0, block_size=block_size, weight_decay=0.0)
    for _ in range(4):
        before = [param.detach().clone() for param in params]
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
        for param, old in zip(params, before, strict=True):
            assert param.isfinite().all()
            if param.numel():
                assert (param - old).square().mean().sqrt() <= 1.1 * (1 + 1e-3)


def test_compiled_equals_eager():
    """What torch.compile makes of a step, run by the eager backend: nothing may depend on how it is traced."""
    # A scalar, vectors, two equal matrices and an odd one.
    params, others = ([network()[i] for i in (0, 1, 2, 4, 5, 9)] for _ in range(2))
    eager, compiled = make(params), make(others)
    step = torch.compile(compiled.step, backend="eager")
    for i in range(3):
        give_gradients(params, i)
        give_gradients(others, i)
        eager.step()
        step()
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b)


def _replica(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3)))
    optimizer = Kron(model.parameters(), 0.01, block_size=8, refresh_warmup=2, precondition_every=2)
    torch.manual_seed(1 + rank)  # each its own data
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(16, 12)).square().mean().backward()
        optimizer.step()
    torch.save([param.detach() for param in model.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_replicas_stay_identical_without_communication_of_their_own(tmp_path):
    torch.multiprocessing.spawn(_replica, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)


# --- torch's contract -------------------------------------------------------------------------------------------------


def through_torch_save(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def through_deepcopy(state):
    return copy.deepcopy(state)


def as_it_is(state):
    return state


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("carry", [through_torch_save, through_deepcopy, as_it_is])
def test_loaded_equals_never_stopped_bit_for_bit(rule, dtype, carry):
    params = network(dtype)
    optimizer = make(params, rule, weight_decay=0.01)
    train(params, optimizer, range(7), skip=(2, 4))
    train(params, optimizer, range(7, 9))
    resumed = [Parameter(param.detach().clone()) for param in params]
    restored = make(resumed, rule, lr=0.5)  # before its first step, with another rate
    restored.load_state_dict(carry(optimizer.state_dict()))
    assert restored.param_groups[0]["lr"] == 0.01
    for steps, skip in ((range(9, 14), ()), (range(14, 17), (3,)), (range(17, 20), ())):
        train(params, optimizer, steps, skip=skip)
        train(resumed, restored, steps, skip=skip)
    assert_same(params, resumed)


@pytest.mark.parametrize("rule", RULES)
def test_state_goes_through_safetensors_and_json_numbers(rule, tmp_path):
    params = network()
    optimizer = make(params, rule)
    train(params, optimizer, range(5))
    saved = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, state in saved["state"].items():
        for key, value in state.items():
            (tensors if isinstance(value, torch.Tensor) else numbers)[f"{index}.{key}"] = value
    assert all(type(value) in (int, float) for value in numbers.values())
    save_file(tensors, tmp_path / "state.safetensors")
    state = {}
    for name, value in {**load_file(tmp_path / "state.safetensors"), **numbers}.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    resumed = [Parameter(param.detach().clone()) for param in params]
    restored = make(resumed, rule)
    restored.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    train(params, optimizer, range(5, 9))
    train(resumed, restored, range(5, 9))
    assert_same(params, resumed)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_their_own_way_and_the_same_way(rule, duplicate):
    params = network()
    optimizer = make(params, rule)
    train(params, optimizer, range(4))
    copied_params, copied = duplicate((params, optimizer))
    train(copied_params, copied, range(4, 8))
    train(params, optimizer, range(4, 8))
    assert_same(params, copied_params)
    assert copied.rule == rule
    assert any(not torch.equal(a, b) for a, b in zip(params, network(), strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_loading_into_a_used_optimizer_replaces_its_state(rule):
    params = network()
    optimizer = make(params, rule)
    train(params, optimizer, range(3))
    saved, weights = copy.deepcopy(optimizer.state_dict()), [param.detach().clone() for param in params]
    train(params, optimizer, range(3, 6))
    first = [param.detach().clone() for param in params]
    with torch.no_grad():
        for param, weight in zip(params, weights, strict=True):
            param.copy_(weight)
    # Twice: loading leaves marks of torch's own in an optimizer, which a state saved before does not have.
    for _ in range(2):
        optimizer.load_state_dict(saved)
    train(params, optimizer, range(3, 6))
    assert_same(params, first)


@pytest.mark.parametrize("rule", RULES)
def test_a_cleared_state_is_that_of_a_new_optimizer(rule):
    params = network()
    optimizer = make(params, rule)
    train(params, optimizer, range(3))
    others = [Parameter(param.detach().clone()) for param in params]
    optimizer.state.clear()
    train(params, optimizer, range(3, 6))
    train(others, make(others, rule), range(3, 6))
    if rule != "classic":  # whose draws are the optimizer's, not a parameter's, and go on
        assert_same(others, params)
    steps = [int(state["step"]) for state in optimizer.state_dict()["state"].values()]
    assert steps == [3] * len(steps)


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_state_is_not_changed_by_the_optimizer_it_is_loaded_into(rule):
    params = network()
    optimizer = make(params, rule)
    train(params, optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    fresh = network()
    restored = make(fresh, rule)
    restored.load_state_dict(saved)
    train(fresh, restored, range(3))
    for index, state in kept["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(saved["state"][index][key]), torch.as_tensor(value))


@pytest.mark.parametrize("rule", RULES)
def test_masters_of_bfloat16_parameters_are_float32(rule):
    params = network(torch.bfloat16)
    optimizer = make(params, rule)
    train(params, optimizer, range(3))
    optimizer.load_state_dict(optimizer.state_dict())
    for state in optimizer.state.values():
        tensors = [value for key, value in state.items() if key != "step" and isinstance(value, torch.Tensor)]
        assert {value.dtype for value in tensors} == {torch.float32}
    assert all(param.dtype == torch.bfloat16 and param.isfinite().all() for param in params)


@pytest.mark.parametrize("rule", RULES)
def test_groups_have_their_own_options(rule):
    params = network()
    optimizer = make([{"params": params[:4], "lr": 0.0}, {"params": params[4:]}], rule)
    before = [param.detach().clone() for param in params]
    train(params, optimizer, range(3))
    assert_same(params[:4], before[:4])
    assert not torch.equal(params[4], before[4])


@pytest.mark.parametrize("rule", RULES)
def test_a_parameter_without_gradient_is_passed_over(rule):
    params = network()
    optimizer = make(params, rule, weight_decay=0.1)
    train(params, optimizer, range(3), skip=(4, 9))
    assert params[4] not in optimizer.state
    start = params[4].detach().clone()
    assert_same([params[4]], [network()[4]])
    train(params, optimizer, range(3, 6), skip=(9,))
    assert not torch.equal(params[4], start)
    assert optimizer.state[params[4]]["step"] == 3
    assert optimizer.state[params[5]]["step"] == 6
    before = params[5].detach().clone(), copy.deepcopy(optimizer.state[params[5]])
    train(params, optimizer, range(6, 8), skip=(5,))
    assert torch.equal(params[5], before[0])
    for key, value in before[1].items():
        assert torch.equal(torch.as_tensor(optimizer.state[params[5]][key]), torch.as_tensor(value))


def test_gaps_do_not_change_the_other_parameters():
    params, others = network(), network()
    optimizer, without = make(params), make([p for i, p in enumerate(others) if i != 4])
    for step in range(8):
        give_gradients(params, step, skip=(4,) if step % 2 else ())
        give_gradients(others, step, skip=(4,))
        optimizer.step()
        without.step()
    for i, (a, b) in enumerate(zip(params, others, strict=True)):
        if i != 4:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_zero_gradients_move_nothing_and_break_nothing(rule):
    params = network()
    optimizer = make(params, rule)
    for _ in range(520):  # a tenth more on each would be beyond float32
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
    assert_same(params, network())
    train(params, optimizer, range(5))
    assert all(param.isfinite().all() for param in params)
    if rule != "classic":
        assert not torch.equal(params[3], network()[3])


@pytest.mark.parametrize(
    ("rule", "options"),
    # The fault meets the fourth step, which refreshes, repeats an update or only preconditions.
    [
        ("classic", {}),
        ("pro", {}),
        ("pro", {"refresh_warmup": 1, "refresh_floor": 0.1, "precondition_every": 2}),
        ("pro", {"refresh_warmup": 1, "refresh_floor": 0.1, "precondition_every": 1}),
    ],
)
@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_leaves_its_parameter_alone(rule, fault, options):
    params = network()
    optimizer = make(params, rule, weight_decay=0.1, **options)
    train(params, optimizer, range(3))
    weight, bias = params[4], params[1]
    kept = {p: (p.detach().clone(), copy.deepcopy(optimizer.state[p])) for p in (weight, bias)}
    neighbour = params[5].detach().clone()
    give_gradients(params, 3)
    weight.grad[3, 5], bias.grad[0] = fault, fault
    optimizer.step()
    for param, (value, state) in kept.items():
        assert torch.equal(param, value)
        for key, old in state.items():
            if isinstance(old, torch.Tensor) and key not in ("step", "update"):
                torch.testing.assert_close(optimizer.state[param][key], old, rtol=1e-6, atol=0)
    assert not torch.equal(params[5], neighbour)
    train(params, optimizer, range(4, 8))
    assert all(param.isfinite().all() for param in params)
    assert not torch.equal(weight, kept[weight][0])


@pytest.mark.parametrize("rule", RULES)
def test_a_tensor_learning_rate_is_read_on_every_step(rule):
    params, others = network(), network()
    lr = torch.tensor(0.01)
    optimizer, plain = make(params, rule, lr=lr, weight_decay=0.1), make(others, rule, weight_decay=0.1)
    train(params, optimizer, range(3))
    train(others, plain, range(3))
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    lr.zero_()
    before = [param.detach().clone() for param in params]
    train(params, optimizer, range(3, 5))
    assert_same(params, before)


def test_closure_scheduler_hooks_and_zero_grad():
    param = Parameter(torch.ones(3, 3))
    optimizer = Kron([param], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(3):
        losses.append(optimizer.step(closure).item())
        schedule.step()
    assert losses[0] == 9.0
    assert losses[2] < losses[1] < losses[0]
    assert seen == [0.1, 0.05, 0.025]
    optimizer.zero_grad()
    assert param.grad is None


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_grad_scaler_skips_overflows_and_unscales(device):
    param = Parameter(torch.ones(4, 4, device=device))
    optimizer = Kron([param], lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**16)
    scaler.scale(param.square().sum()).backward()
    scaler.unscale_(optimizer)
    torch.testing.assert_close(param.grad, torch.full_like(param, 2.0))
    scaler.step(optimizer)
    scaler.update()
    moved = param.detach().clone()
    assert (moved < 1).all()
    param.grad = torch.full_like(param, math.inf)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(param, moved)
    assert optimizer.state[param]["step"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", RULES)
def test_cuda_follows_the_cpu_without_waiting_for_the_device(rule):
    params = network(torch.float64, "cuda")
    optimizer = make(params, rule)
    train(params, optimizer, range(3))
    if rule != "classic":
        give_gradients(params, 3)
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        others = network(torch.float64)
        train(others, make(others, rule), range(4))
        for a, b in zip(params, others, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-8)


def test_channels_last_convolutions():
    plain = Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    other = Parameter(plain.detach().clone(memory_format=torch.channels_last))
    for param in (plain, other):
        optimizer = make([param])
        for _ in range(4):
            param.grad = param.detach().clone()
            optimizer.step()
    assert torch.equal(plain, other)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"lr": math.nan}, "lr must be at least 0, got nan"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"precondition_lr": 0.0}, r"precondition_lr must be in \(0, 1\)"),
        ({"refresh_floor": 0.0}, r"refresh_floor must be in \(0, 1\]"),
        ({"refresh_warmup": 0}, r"refresh_warmup must be a whole number of at least 1"),
        ({"block_size": 0}, "block_size must be a whole number of at least 1, got 0"),
        ({"block_size": 2.5}, "block_size must be a whole number"),
        ({"precondition_every": 0}, "precondition_every must be a whole number of at least 1, got 0"),
        ({"rule": "classic", "precondition_every": 2}, "precondition_every needs rule='pro'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"precision": "fp32", "rule": "classic"}, "precision needs rule='pro'"),
        ({"rule": "qro"}, "unknown Kron rule 'qro'; did you mean 'pro'"),
        ({"compat": True}, "compat needs rule='classic'"),
        ({"rule": "classic", "block_size": 8}, "block_size needs rule='pro'"),
        ({"lr": torch.ones(2)}, "lr must be a number"),
        ({"momentum": None}, r"momentum must be in \[0, 1\), got None"),
        ({"params": [{"params": [Parameter(torch.ones(2))], "refresh_floor": None}], "rule": "classic"}, "got None"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        Kron(**{"params": [Parameter(torch.ones(2, 2))]} | options)
    assert "\n" not in str(caught.value)


def test_complex_parameters_and_sparse_gradients():
    with pytest.raises(UsageError, match=r"real, dense parameters, got parameter 0 of shape \(2,\) of torch.complex64"):
        Kron([Parameter(torch.ones(2, dtype=torch.complex64))])
    model = nn.Embedding(5, 3, sparse=True)
    model(torch.tensor([1])).sum().backward()
    optimizer = Kron(model.named_parameters())
    with pytest.raises(UsageError, match=r"dense gradients, got torch.sparse_coo for weight of shape \(5, 3\)"):
        optimizer.step()
    assert not optimizer.state


def test_a_refused_group_is_not_added():
    optimizer = Kron([Parameter(torch.ones(2, 2))])
    with pytest.raises(UsageError):
        optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: make([Parameter(torch.ones(3, 3))]), r"groups of \[1\] parameters, expected \[2\]"),
        (lambda: make([Parameter(torch.ones(3, 4)), Parameter(torch.ones(3))]), r"parameter 0 of shape \(3, 3\) needs"),
        (lambda: make([Parameter(torch.ones(3, 3)), Parameter(torch.ones(3))], "classic"), "it lacks block_size"),
        (lambda: torch.optim.Adam([Parameter(torch.ones(3, 3)), Parameter(torch.ones(3))]), "it lacks momentum"),
    ],
)
def test_state_of_another_network_is_refused_and_nothing_changes(other, message):
    params = [Parameter(torch.ones(3, 3)), Parameter(torch.ones(3))]
    optimizer = make(params)
    train(params, optimizer, range(2))
    before = copy.deepcopy(optimizer.state_dict())
    foreign = other()
    train(foreign.param_groups[0]["params"], foreign, range(2))
    with pytest.raises(CheckpointError, match=message) as caught:
        optimizer.load_state_dict(foreign.state_dict())
    assert "\n" not in str(caught.value)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(after["state"][index][key]), torch.as_tensor(value))

"""What torch's own optimizers allow in a training loop, for the whole catalogue."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import Parameter

from stablegrad.errors import UsageError
from stablegrad.optimizers import OPTIMIZERS, Kron, clip_gradient_norm_, default_learning_rate, make_optimizer

#: "classic" is Kron's other rule.
NAMES = [*OPTIMIZERS, "classic"]
each_optimizer = pytest.mark.parametrize("name", NAMES)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3)).to(dtype)


def build(name, params):
    options = {"rule": "classic"} if name == "classic" else {}
    name = "kron" if name == "classic" else name
    return make_optimizer(name, params, default_learning_rate(name, 1e-3), **options)


def train(model, optimizer, steps, **zero_grad):
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad(**zero_grad)
        model(torch.randn(5, 6, dtype=model[0].weight.dtype)).square().mean().backward()
        optimizer.step()


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_equal(model, other):
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def assert_all_moved(model, before):
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.isfinite().all()
        assert (parameter != old).any()


@each_optimizer
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_with_its_model_goes_the_same_way_and_its_own(name, steps, duplicate):
    model = network()
    optimizer = build(name, model.parameters())
    train(model, optimizer, steps)
    other, copied = duplicate((model, optimizer))
    train(model, optimizer, 3)
    train(other, copied, 3)
    assert_equal(model, other)
    kept = weights(other)
    train(model, optimizer, 1)
    assert all(map(torch.equal, other.parameters(), kept))


@each_optimizer
def test_an_optimizer_that_a_scheduler_has_hold_of_can_be_copied(name):
    model = network()
    optimizer = build(name, model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    train(model, optimizer, 1)
    scheduler.step()
    other, copied = copy.deepcopy((model, optimizer))
    train(model, optimizer, 2)
    train(other, copied, 2)
    assert_equal(model, other)


@each_optimizer
@pytest.mark.parametrize("steps", [0, 2])
def test_a_group_that_is_added_is_trained(name, steps):
    model = network()
    optimizer = build(name, model[0].parameters())
    train(model, optimizer, steps)
    optimizer.add_param_group({"params": model[2:].parameters(), "lr": 1e-4})
    before = weights(model)
    train(model, optimizer, 2)
    assert_all_moved(model, before)


@each_optimizer
def test_a_group_of_one_tensor_and_of_another_dtype_can_be_added(name):
    model, head = network(), nn.Linear(3, 2).double()
    optimizer = build(name, model.parameters())
    train(model, optimizer, 1)
    optimizer.add_param_group({"params": head.weight})
    before = head.weight.detach().clone()
    for _ in range(2):  # SOAP's first step only sets up its state
        optimizer.zero_grad()
        head(model(torch.randn(5, 6)).double()).square().mean().backward()
        optimizer.step()
    assert head.weight.isfinite().all()
    assert (head.weight != before).any()


@each_optimizer
def test_a_refused_group_leaves_the_optimizer_as_it_was(name):
    model = network()
    optimizer = build(name, model[0].parameters())
    groups = len(optimizer.param_groups)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [model[3].weight, model[0].bias]})
    assert len(optimizer.param_groups) == groups
    train(model, optimizer, 1)


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_state_goes_on_in_a_model_of_another_dtype(name, dtype):
    model, other = network(), network(dtype)
    optimizer, restored = build(name, model.parameters()), build(name, other.parameters())
    train(model, optimizer, 2)
    restored.load_state_dict(optimizer.state_dict())
    before = weights(other)
    train(other, restored, 3)
    assert all(parameter.isfinite().all() and parameter.dtype == dtype for parameter in other.parameters())
    assert any((parameter != old).any() for parameter, old in zip(other.parameters(), before, strict=True))


@pytest.mark.parametrize("rule", ["pro", "classic"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_kron_goes_on_when_the_model_changes_its_dtype(rule, dtype):
    """Where parameters are then laid out anew as well."""
    model = network()
    optimizer = Kron(model.parameters(), lr=1e-2, rule=rule)
    train(model, optimizer, 2)
    model.to(dtype)
    before = weights(model)
    train(model, optimizer, 2)
    model[0].requires_grad_(False)
    train(model, optimizer, 2)
    assert_all_moved(model, before)
    wide = torch.promote_types(dtype, torch.float32)
    assert {state["momentum"].dtype for state in optimizer.state.values()} == {wide}


def test_a_float32_state_in_float64_is_the_same_numbers():
    model, other = network(), network(torch.float64)
    optimizer, restored = (Kron(each.parameters(), lr=1e-2) for each in (model, other))
    train(model, optimizer, 3)
    restored.load_state_dict(optimizer.state_dict())
    for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value.double(), restored.state[twin][key].double())


@each_optimizer
def test_parameters_without_gradients_stay_until_they_have_one(name):
    model = network()
    optimizer = build(name, model.parameters())
    before = weights(model)
    optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))
    for _ in range(2):
        optimizer.zero_grad()
        model[0](torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    assert torch.equal(model[3].weight, before[-2])
    train(model, optimizer, 2)
    assert_all_moved(model, before)
    for step in range(4):
        model[0].requires_grad_(step % 2 == 0)
        train(model, optimizer, 1)


@each_optimizer
def test_empty_scalar_and_transposed_parameters(name):
    empty, scalar, square = Parameter(torch.zeros(0, 4)), Parameter(torch.tensor(1.0)), Parameter(torch.ones(1, 1))
    transposed = Parameter(torch.randn(6, 4).t())
    members = [empty, scalar, square, transposed]
    optimizer = build(name, members)
    for _ in range(3):
        optimizer.zero_grad()
        sum(member.square().sum() for member in members).backward()
        optimizer.step()
    assert scalar < 1
    assert square < 1
    assert all(member.isfinite().all() for member in members)


@each_optimizer
def test_zero_gradients_move_nothing(name):
    model = network()
    optimizer = build(name, model.parameters())
    before = weights(model)
    for _ in range(2):
        optimizer.zero_grad()
        (0 * model(torch.randn(4, 6))).sum().backward()
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))
    train(model, optimizer, 2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@each_optimizer
def test_zero_grad_both_ways_closures_tensor_rates_and_schedulers(name):
    models = network(), network()
    optimizers = [build(name, model.parameters()) for model in models]
    for model, optimizer, to_none in zip(models, optimizers, (True, False), strict=True):
        train(model, optimizer, 3, set_to_none=to_none)
    assert_equal(*models)
    calls = []

    def closure():
        calls.append(1)
        optimizers[0].zero_grad()
        loss = models[0](torch.ones(2, 6)).square().mean()
        loss.backward()
        return loss

    assert optimizers[0].step(closure) > 0
    assert len(calls) == 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizers[0], max_lr=1e-2, total_steps=9, cycle_momentum=False)
    for _ in range(3):
        train(models[0], optimizers[0], 1)
        schedule.step()
    optimizer = make_optimizer("kron" if name == "classic" else name, models[1].parameters(), torch.tensor(1e-3))
    train(models[1], optimizer, 2)
    assert all(parameter.isfinite().all() for model in models for parameter in model.parameters())


@each_optimizer
def test_a_saved_state_loads_without_running_code(name):
    model = network()
    optimizer = build(name, model.parameters())
    train(model, optimizer, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(model)
    restored = build(name, other.parameters())
    restored.load_state_dict(torch.load(file, weights_only=True))
    train(model, optimizer, 2)
    train(other, restored, 2)
    assert_equal(model, other)


@each_optimizer
def test_the_parameters_of_a_group_may_be_a_generator(name):
    model = network()
    optimizer = build(name, [{"params": model[0].parameters(), "lr": 1e-4}, {"params": model[2:].parameters()}])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    before = weights(model)
    train(model, optimizer, 2)
    assert_all_moved(model, before)


@each_optimizer
def test_groups_in_another_order_are_refused(name):
    model, other = network(), network()
    optimizer = build(name, [{"params": model[0].parameters()}, {"params": model[2:].parameters()}])
    restored = build(name, [{"params": other[2:].parameters()}, {"params": other[0].parameters()}])
    train(model, optimizer, 1)
    with pytest.raises(Exception, match="group"):
        restored.load_state_dict(optimizer.state_dict())
    train(other, restored, 1)


@each_optimizer
def test_sparse_gradients_are_refused_in_a_line(name):
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = build(name, table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(Exception, match="sparse") as caught:  # each library has its own
        optimizer.step()
    assert "\n" not in str(caught.value)


def test_kron_names_a_parameter_on_the_meta_device():
    members = [Parameter(torch.ones(3, 2)), Parameter(torch.ones(4, 2, device="meta"))]
    optimizer = Kron(members, lr=1e-3)
    for member in members:
        member.grad = torch.ones_like(member)
    with pytest.raises(UsageError, match=r"meta device, where parameter 1 of shape \(4, 2\)"):
        optimizer.step()
    assert torch.equal(members[0], torch.ones(3, 2))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    store = tmp_path_factory.mktemp("mesh") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sharded_parameters_are_stepped_or_refused_in_a_line(name, mesh):
    model = network()
    fully_shard(model, mesh=mesh)
    if not OPTIMIZERS[name].sharded:
        with pytest.raises(UsageError, match=r"whole tensors.*\(8, 6\).*adam") as caught:
            build(name, model.parameters())
        assert "\n" not in str(caught.value)
        return
    optimizer = build(name, model.parameters())
    before = [parameter.full_tensor().detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 6)).square().mean().backward()
        optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert (parameter.full_tensor() != old).any()


def test_kron_itself_refuses_sharded_parameters(mesh):
    model = network()
    optimizer = Kron(model.parameters(), lr=1e-3)
    shards = nn.Linear(6, 4)
    fully_shard(shards, mesh=mesh)
    for refused in (lambda: Kron(shards.parameters()), lambda: optimizer.add_param_group({"params": shards.weight})):
        with pytest.raises(UsageError, match=r"whole tensors, got parameter 0 of shape \(4, 6\) as a DTensor"):
            refused()
    train(model, optimizer, 1)


GRADIENTS = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
        st.lists(st.integers(0, 3), max_size=2),
        st.sampled_from([0.0, 1e-3, 1.0, 50.0, float("inf"), float("nan")]),
    ),
)


@given(st.lists(GRADIENTS, max_size=5), st.sampled_from([0.0, 0.5, 10.0, float("inf")]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_clipping_is_torchs_with_a_norm_for_every_parameter(drawn, max_norm, lazily):
    def parameters():
        torch.manual_seed(0)
        result = []
        for one in drawn:
            dtype, shape, scale = one or (torch.float32, [2], None)
            result.append(Parameter(torch.ones(shape, dtype=dtype)))
            if scale is not None:
                result[-1].grad = (scale * torch.randn(shape)).to(dtype)
        return result

    own, torchs = parameters(), parameters()
    before = [None if member.grad is None else member.grad.clone() for member in own]
    total, norms = clip_gradient_norm_((member for member in own) if lazily else own, max_norm)
    torch.testing.assert_close(total, torch.nn.utils.clip_grad_norm_(torchs, max_norm), equal_nan=True)
    assert norms.shape == (len(own),)
    for norm, old, member, other in zip(norms, before, own, torchs, strict=True):
        assert (member.grad is None) == (old is None)
        if old is None:
            assert norm == 0
        else:
            torch.testing.assert_close(norm, old.norm().to(norm.dtype), equal_nan=True, rtol=1e-2, atol=0)
            torch.testing.assert_close(member.grad, other.grad, equal_nan=True)


def test_clipping_takes_one_tensor():
    single = Parameter(torch.ones(4))
    single.grad = torch.full((4,), 3.0)
    total, norms = clip_gradient_norm_(single, 1.0)
    assert total == 6
    assert norms.tolist() == [6.0]
    torch.testing.assert_close(single.grad.norm(), torch.tensor(1.0))


def test_without_a_largest_norm_gradients_are_measured_and_stay():
    single = Parameter(torch.ones(2))
    single.grad = torch.tensor([3e19, 4e19])
    total, norms = clip_gradient_norm_([single], None)
    torch.testing.assert_close(total, norms[0])
    assert single.grad.tolist() == torch.tensor([3e19, 4e19]).tolist()

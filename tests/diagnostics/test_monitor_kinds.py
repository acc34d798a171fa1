"""The monitor on what other people's networks return, how they are called, and what trains them."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Normal, TanhTransform, TransformedDistribution
from torch.overrides import _len_torch_function_stack
from torch.utils.checkpoint import checkpoint

from stablegrad.diagnostics import Monitor
from stablegrad.diagnostics import monitor as monitor_module
from stablegrad.diagnostics.activations import ActivationWatch
from stablegrad.diagnostics.graph import node_key, upstream
from stablegrad.diagnostics.outputs import first_tensor, tensors_in
from stablegrad.diagnostics.updates import UpdateWatch
from stablegrad.errors import UsageError

UNWATCHED = nn.Module.__call__


class Agent(nn.Module):
    """A network whose functions are called by its methods."""

    def __init__(self, dead=0):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 2)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.bias[:dead] = -100.0

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.first(x)))))

    evaluate = forward


def train(model, steps, call=None, rows=16, optimizers=None, loss=lambda y: y.square().mean()):
    optimizers = optimizers or [torch.optim.Adam(model.parameters(), 1e-3)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(rows, 8, generator=generator) if rows else torch.randn(8, generator=generator)
        for one in optimizers:
            one.zero_grad()
        loss((call or model)(x)).backward()
        for one in optimizers:
            one.step()


def watched(model, steps=8, every=4, **options):
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], 1e-3)
    with Monitor(model, optimizer, every=every, probe_every=0) as monitor:
        train(model, steps, optimizers=[optimizer], **options)
    return monitor


def last(monitor):
    return monitor.fetch().rows[-1][1]


def stopped(monitor):
    return [note for note in monitor.notes if "the monitor stopped" in note]


class TestOutputs:
    @pytest.mark.parametrize(
        ("wrap", "loss"),
        [
            (lambda y: TransformedDistribution(Normal(y, 1.0), [TanhTransform()]), lambda d: -d.base_dist.mean.mean()),
            (lambda y: Normal(y, 1.0), lambda d: -d.mean.mean()),
            (lambda y: SimpleNamespace(name="x", values=y), lambda o: -o.values.mean()),
            (lambda y: {"deep": [(y, "text")]}, lambda o: -o["deep"][0][0].mean()),
        ],
        ids=["tanh", "normal", "namespace", "nested"],
    )
    def test_the_error_that_enters_is_found_in_any_structure(self, wrap, loss):
        class Wrapped(Agent):
            def forward(self, x):
                return wrap(super().forward(x))

        monitor = watched(Wrapped(), loss=loss)
        # The mean of 16 x 2 values gives each of them the gradient 1 / 32.
        assert last(monitor)["error_signal/network"] == pytest.approx(32**-0.5, rel=1e-5)
        assert not monitor.notes

    def test_a_property_that_raises_is_not_read(self):
        class Odd:
            @property
            def mean(self):
                raise AssertionError("a property was read")

        assert tensors_in(Odd()) == [] and first_tensor({"a": Odd(), "b": torch.zeros(2, 3)}).shape == (2, 3)

    def test_what_a_lazy_distribution_has_not_computed_is_not_computed(self):
        probabilities = torch.full((4, 3), 1 / 3)
        found = Categorical(probs=probabilities)
        assert torch.equal(tensors_in(found)[0], probabilities) and "logits" not in vars(found)

    def test_an_output_that_others_are_computed_from_is_inside_the_network(self):
        class Values(Agent):
            def forward(self, x):
                features = F.relu(self.first(x))
                return features, self.head(features)

        monitor = watched(Values(), loss=lambda y: y[1].sum())
        assert last(monitor)["error_signal/network"] == pytest.approx(32**0.5, rel=1e-6)  # ones, [16, 2]

    def test_each_layer_is_held_against_the_error_that_can_reach_it(self):
        class ActorCritic(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.pi, self.v = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 1)

            def forward(self, x):
                h = torch.tanh(self.body(x))
                return self.pi(h), self.v(h).squeeze(-1)

        monitor = watched(ActorCritic(), loss=lambda y: y[0].sum() + 10 * y[1].sum())
        figures = last(monitor)
        policy, value = (16 * 3) ** 0.5, (100 * 16) ** 0.5
        assert figures["layer_error/pi"] == pytest.approx(policy, rel=1e-6)
        assert figures["layer_error/v"] == pytest.approx(value, rel=1e-6)
        assert figures["layer_error/body"] == pytest.approx((policy**2 + value**2) ** 0.5, rel=1e-6)
        assert figures["error_signal/network"] == figures["layer_error/body"]

    def test_a_loss_is_no_output(self):
        class Loss(Agent):
            def forward(self, x):
                return super().forward(x).square().mean()

        monitor = watched(Loss(), loss=lambda y: y)
        assert "error_signal/network" not in last(monitor) and "output_size/network" not in last(monitor)
        assert any("it returns no floating-point tensor of rows" in note for note in monitor.notes)

    def test_values_without_a_last_dimension_are_rows(self):
        class Value(nn.Module):
            def __init__(self):
                super().__init__()
                self.v = nn.Linear(8, 1)

            def forward(self, x):
                return self.v(x).squeeze(-1)

        figures = last(watched(Value(), loss=lambda y: y.sum()))
        assert figures["error_signal/network"] == pytest.approx(4.0)  # 16 ones
        assert figures["output_spread/network"] > 0

    def test_one_row_has_no_spread(self):
        assert "output_spread/network" not in last(watched(Agent(), rows=1))


class TestCalls:
    @pytest.mark.parametrize("how", ["forward", "evaluate"])
    def test_a_method_is_seen_through_its_parts_and_what_is_between_them_is_said(self, how):
        seen = {}
        for name in ("__call__", how):
            torch.manual_seed(0)
            model = Agent()
            seen[name] = watched(model, call=lambda x, model=model, name=name: getattr(model, name)(x))
        whole, parts = (last(one) for one in seen.values())
        for key in ("error_signal/network", "output_size/network", "output_spread/network", "input_std/network"):
            assert parts[key] == pytest.approx(whole[key], rel=1e-6), key
        assert not any(key.startswith("dormant") for key in parts)
        assert any("activations between layers of the network are not seen" in note for note in seen[how].notes)
        assert not seen["__call__"].notes

    def test_single_rows_are_rows(self):
        batched, single = (watched(Agent(dead=28), steps=40, every=2, rows=rows) for rows in (16, 0))
        for monitor in (batched, single):
            assert monitor.fetch().series("dead").values[-1].min() >= 28 / 32
        assert single.notes == [
            "activations of the network are judged over several looks, as one look sees fewer than 8 rows"
        ]

    def test_pictures_without_a_batch_dimension(self):
        class Picture(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.head = nn.Conv2d(1, 5, 3), nn.Linear(20, 2)

            def forward(self, x):
                x = x.reshape(*x.shape[:-1], 1, 4, 4)
                return self.head(F.relu(F.relu(self.conv(x)).flatten(-3)))

        model = Picture()
        watch = ActivationWatch(model)
        watch.start()
        x = torch.randn(7, 16)
        one_by_one = [model(row) for row in x]
        watch.stop()
        assert [len(one.mean_abs) for one in watch.seen.values()] == [5, 20]
        again = ActivationWatch(model)
        again.start()
        assert torch.allclose(model(x), torch.stack(one_by_one), atol=1e-6)
        again.stop()
        for one, other in zip(watch.seen.values(), again.seen.values(), strict=True):
            assert torch.allclose(one.mean_abs, other.mean_abs, atol=1e-6) and one.rows == other.rows

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_what_a_checkpoint_computes_anew_is_seen_once(self, reentrant):
        class Saving(Agent):
            def forward(self, x):
                body = lambda x: F.relu(self.second(F.relu(self.first(x))))  # noqa: E731
                return self.head(checkpoint(body, x.requires_grad_(), use_reentrant=reentrant))

        figures = []
        for kind in (Agent, Saving):
            torch.manual_seed(0)
            monitor = watched(kind())
            figures.append({key: value for key, value in last(monitor).items() if "gradient_dormant" not in key})
            assert not monitor.notes
        assert figures[0] == pytest.approx(figures[1], rel=1e-5)

    def test_transforms_of_torch_func_are_said(self):
        model = Agent()
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        parameters = {name: one.detach() for name, one in model.named_parameters()}

        def loss(given, row):
            return torch.func.functional_call(model, given, (row[None],)).square().mean()

        with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
            for _ in range(4):
                each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, torch.randn(8, 8))
                for name, one in model.named_parameters():
                    one.grad = each[name].mean(0)
                optimizer.step()
        assert "passes inside transforms of torch.func are not seen, nor are their activations" in monitor.notes
        assert last(monitor)["gradient_norm/first"] > 0 and not stopped(monitor)

    def test_passes_of_several_threads_at_once(self):
        model = Agent()
        barrier = threading.Barrier(4)

        def one(x):
            def run():
                barrier.wait()
                with torch.enable_grad():
                    found.append(model(x))

            return run

        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
            for _ in range(6):
                found = []
                threads = [threading.Thread(target=one(torch.randn(16, 8))) for _ in range(4)]
                [thread.start() for thread in threads]
                [thread.join() for thread in threads]
                optimizer.zero_grad()
                torch.cat(found).sum().backward()
                optimizer.step()
        assert last(monitor)["error_signal/network"] == pytest.approx((4 * 16 * 2) ** 0.5)
        assert not monitor.notes and monitor.fetch().series("dead").sites == ["relu", "relu#2"]

    def test_a_module_that_is_watched_by_two(self):
        shared = nn.Linear(8, 4)
        one, other = nn.Sequential(shared, nn.ReLU()), ActivationWatch(shared)
        watch = ActivationWatch(one)
        watch.start()
        other.start()
        one(torch.randn(9, 8))
        watch.stop()
        assert nn.Module.__call__ is not UNWATCHED
        one(torch.randn(9, 8))
        other.stop()
        assert nn.Module.__call__ is UNWATCHED
        assert watch.seen["1"].calls == 1 and list(watch.order) == ["0", "1"]

    def test_ctrl_c_in_a_pass_leaves_nothing_on(self):
        class Interrupted(Agent):
            on = False

            def forward(self, x):
                y = super().forward(x)
                if self.on:
                    raise KeyboardInterrupt
                return y

        model = Interrupted()
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
            train(model, 3, optimizers=[optimizer])
            model.on = True
            with pytest.raises(KeyboardInterrupt):
                model(torch.randn(16, 8))
            assert _len_torch_function_stack() == 0
            model.on = False
            train(model, 3, optimizers=[optimizer])
        assert [step for step, _ in monitor.fetch().rows] == [2, 4, 6]
        assert nn.Module.__call__ is UNWATCHED


class TestParameters:
    def test_complex_weights_have_the_norms_of_their_parts(self):
        class Complex(nn.Module):
            def __init__(self, apart):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(8, 2, 2) if apart else torch.zeros(8, 2, dtype=torch.complex64))

            def forward(self, x):
                weight = torch.view_as_complex(self.weight) if self.weight.ndim == 3 else self.weight
                return torch.view_as_real(x.to(weight.dtype) @ weight).flatten(1)

        apart = Complex(True)
        together = Complex(False)
        with torch.no_grad():
            together.weight.copy_(torch.view_as_complex(apart.weight))
        one, other = (last(watched(model)) for model in (apart, together))
        for key in ("gradient_norm", "weight_norm", "update_ratio", "gradient_cosine", "normalised_step"):
            assert one[f"{key}/"] == pytest.approx(other[f"{key}/"], rel=1e-4), key

    def test_sparse_gradients_are_those_of_dense_ones(self):
        figures = []
        for sparse in (False, True):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Embedding(20, 8, sparse=sparse), nn.Linear(8, 2))
            optimizer = torch.optim.SGD(model.parameters(), 1e-2)
            with Monitor(model, optimizer, every=3, probe_every=0) as monitor:
                for _ in range(9):
                    optimizer.zero_grad()
                    model(torch.randint(20, (16,))).square().mean().backward()
                    optimizer.step()
            figures.append(last(monitor))
            assert not monitor.notes and monitor.report().verdict == "healthy"
        assert figures[0] == pytest.approx(figures[1], rel=1e-3)

    @pytest.mark.parametrize("extra", [torch.tensor(3), torch.ones(4) > 0, torch.zeros(4, 4, dtype=torch.int8)])
    def test_parameters_that_are_no_numbers_to_train_are_left_out(self, extra):
        model = Agent()
        model.extra = nn.Parameter(extra, requires_grad=False)
        monitor = watched(model)
        assert monitor.layers.names == ["first", "second", "head"] and not stopped(monitor)

    def test_lazy_layers_without_weights_are_one_line(self):
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
        with pytest.raises(UsageError, match=r"^0 is lazy and has no weights yet; call the model once on a batch"):
            Monitor(model, torch.optim.SGD(model.parameters(), 0.1))

    def test_a_layer_that_was_replaced_is_watched_as_it_is(self):
        torch.manual_seed(0)
        model = Agent()
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
            train(model, 4, optimizers=[optimizer])
            model.head = nn.Linear(32, 2)
            optimizer.add_param_group({"params": list(model.head.parameters()), "lr": 0.5})
            norm = torch.cat([one.detach().flatten() for one in model.head.parameters()]).norm()
            train(model, 2, optimizers=[optimizer])
        assert last(monitor)["weight_norm/head"] != pytest.approx(norm.item(), rel=1e-6)  # it has been trained,
        assert last(monitor)["effective_learning_rate/head"] * last(monitor)["weight_norm/head"] ** 2 == pytest.approx(
            0.5
        )
        assert monitor.notes == ["parameters were replaced or added around step 5; layers are watched as they are now"]

    def test_a_layer_that_was_replaced_and_is_in_no_optimizer_is_found(self):
        model = Agent()
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
            train(model, 4, optimizers=[optimizer])
            model.head = nn.Linear(32, 2)
            train(model, 12, optimizers=[optimizer])
        assert ("no_update", "head") in {(one.rule, one.site) for one in monitor.report().findings}

    def test_sharded_parameters_are_measured_where_they_are(self, tmp_path):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'meeting'}")
        try:
            figures = []
            for sharded in (False, True):
                torch.manual_seed(0)
                model = Agent()
                if sharded:
                    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
                optimizer = torch.optim.SGD(model.parameters(), 1e-2)
                with Monitor(model, optimizer, every=2, probe_every=0) as monitor:
                    train(model, 4, optimizers=[optimizer])
                figures.append(last(monitor))
                assert not stopped(monitor)
        finally:
            dist.destroy_process_group()
        assert any(
            "norms of weights, gradients and updates are of this process's shards" in one for one in monitor.notes
        )
        for key in ("gradient_norm/first", "weight_norm/head", "update_ratio/second", "error_signal/network"):
            assert figures[1][key] == pytest.approx(figures[0][key], rel=1e-5), key


class Bare(torch.optim.Optimizer):
    """A wrapper as Accelerate's, which never calls Optimizer.__init__."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.optimizer.step(closure)


class TestOptimizers:
    @pytest.mark.parametrize("wrap", [Bare, lambda one: Bare(Bare(one)), lambda one: SimpleNamespace(optimizer=one)])
    def test_the_optimizer_inside_a_wrapper_is_watched(self, wrap):
        model = Agent()
        optimizer = torch.optim.Adam(model.parameters())
        with Monitor(model, wrap(optimizer), every=2) as monitor:
            train(model, 4, optimizers=[optimizer])
        assert monitor.steps == 4

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (None, "got NoneType"),
            ([], "got an empty list"),
            (nn.Linear(1, 1), "got Linear"),
            (Bare(None), "got Bare; pass the optimizer that it wraps"),
        ],
    )
    def test_no_optimizer_is_one_line(self, given, message):
        with pytest.raises(UsageError, match=message) as caught:
            Monitor(Agent(), given)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("order", ["critic first", "actor first", "both cleared", "generator"])
    def test_a_critic_through_which_another_loss_goes_back_has_nothing_left_over(self, order):
        torch.manual_seed(0)
        actor = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
        critic = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        one, other = (torch.optim.Adam(network.parameters(), 1e-3) for network in (actor, critic))
        monitor = Monitor({"actor": actor, "critic": critic}, [one, other], every=4, probe_every=0)

        def learn_critic(s):
            loss = critic(torch.cat([s, actor(s).detach()], 1)).square().mean()
            (one.zero_grad(), other.zero_grad()) if order == "both cleared" else other.zero_grad()
            loss.backward()
            if order == "generator":  # a second batch adds to the first
                critic(torch.cat([s, s[:, :1]], 1)).mean().backward()
            other.step()

        def learn_actor(s):
            loss = -critic(torch.cat([s, actor(s)], 1)).mean()
            one.zero_grad()
            loss.backward()
            one.step()

        for _ in range(40):
            for part in (learn_actor, learn_critic) if order == "actor first" else (learn_critic, learn_actor):
                part(torch.randn(16, 3))
        assert "leftover_gradient" not in {finding.rule for finding in monitor.report().findings}
        assert monitor.fetch().series("leftover_gradient").values.size

    def test_a_gradient_that_only_the_other_optimizer_clears_is_left_over(self):
        torch.manual_seed(0)
        actor, critic = nn.Linear(3, 1), nn.Linear(4, 1)
        one, other = (torch.optim.SGD(network.parameters(), 1e-4) for network in (actor, critic))
        monitor = Monitor({"actor": actor, "critic": critic}, [one, other], every=4, probe_every=0)
        for _ in range(40):
            s = torch.randn(16, 3)
            critic(torch.cat([s, actor(s).detach()], 1)).square().mean().backward()
            other.step()  # the critic's gradients are never cleared
            loss = -critic(torch.cat([s, actor(s)], 1)).mean()
            one.zero_grad()
            loss.backward()
            one.step()
        found = {(finding.rule, finding.site) for finding in monitor.report().findings}
        assert ("leftover_gradient", "critic") in found and ("leftover_gradient", "actor") not in found


class TestErrors:
    """Whatever breaks inside the monitor, the training ends as if it was not there."""

    PLACES = [  # noqa: RUF012
        (ActivationWatch, "_enter"),
        (ActivationWatch, "_end_pass"),
        (ActivationWatch, "see"),
        (monitor_module.metrics, "unit_mean_abs"),
        (UpdateWatch, "_accumulate"),
        (UpdateWatch, "_see_leftover"),
        (UpdateWatch, "_attach"),
        (UpdateWatch, "_before_update"),
        (UpdateWatch, "_figures"),
        (Monitor, "_after_step"),
        (Monitor, "_read"),
        (Monitor, "_refresh"),
    ]

    @pytest.mark.parametrize("closure", [False, True])
    @pytest.mark.parametrize(("place", "name"), PLACES)
    def test_an_error_is_a_note_and_takes_the_hooks_off(self, place, name, closure, monkeypatch):
        original, broken = getattr(place, name), []

        def fails(*args, **kwargs):
            if broken:
                raise ZeroDivisionError("on purpose")
            return original(*args, **kwargs)

        monkeypatch.setattr(place, name, fails)

        def run(watch):
            torch.manual_seed(0)
            model = Agent()
            optimizer = torch.optim.Adam(model.parameters(), 1e-3)
            monitor = Monitor(model, optimizer, every=2, probe_every=0) if watch else None
            # Hooks that somebody else has registered after the monitor's are still called.
            calls = []
            optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
            optimizer.register_step_post_hook(lambda *_: calls.append("after"))
            for step in range(8):
                if step == 4:
                    broken.append(watch)

                def passes():
                    optimizer.zero_grad()
                    loss = model(torch.ones(16, 8)).square().mean()
                    loss.backward()
                    return loss

                if closure:
                    optimizer.step(passes)
                else:
                    passes()
                    optimizer.step()
            return model, optimizer, monitor, calls

        alone = run(False)[0]
        broken.clear()
        model, optimizer, monitor, calls = run(True)
        broken.clear()
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))
        assert calls == ["before", "after"] * 8
        (note,) = stopped(monitor)
        assert "ZeroDivisionError: on purpose" in note and "fails, line" in note
        assert _len_torch_function_stack() == 0 and nn.Module.__call__ is UNWATCHED
        assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
        assert not any(one._post_accumulate_grad_hooks or one._backward_hooks for one in model.parameters())
        assert not any(one._forward_pre_hooks for one in model.modules())
        assert monitor.report().notes == monitor.notes

    def test_a_report_where_nothing_was_measured_before_the_error_says_why(self, monkeypatch):
        monkeypatch.setattr(UpdateWatch, "_figures", lambda *_: 1 / 0)
        model = Agent()
        monitor = watched(model)
        with pytest.raises(UsageError, match=r"the monitor stopped after step 2.*division by zero"):
            monitor.report()


def test_upstream_is_what_a_tensor_was_computed_from():
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    middle = torch.tanh(a * b)
    y = torch.relu(middle + c)
    found = upstream(y, {})
    assert found.parameters == {id(a), id(b), id(c)} and found.whole
    assert {"ReluBackward0", "TanhBackward0", "AddBackward0"} <= found.functions
    stopped_at = upstream(y, {node_key(middle): None})
    assert stopped_at.parameters == {id(c)} and stopped_at.reached == {node_key(middle)}
    assert "TanhBackward0" not in stopped_at.functions
    assert upstream(a, {}).parameters == {id(a)} and node_key(a) is None
    assert upstream(torch.ones(2), {}).parameters == set()
    assert np.isfinite(y.sum().item())

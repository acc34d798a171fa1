"""Random trainings with and without a monitor: none is ended, none is changed by a bit, nothing stays registered.

``STABLEGRAD_FUZZ=2000 python -m pytest tests/diagnostics/test_monitor_fuzz.py`` draws that many (`make fuzz`).
"""

import copy
import os
import pickle
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, TanhTransform
from torch.distributions import TransformedDistribution as Transformed
from torch.overrides import _len_torch_function_stack
from torch.utils.checkpoint import checkpoint

from stablegrad.diagnostics import Monitor
from stablegrad.optimizers import Kron

EXAMPLES = int(os.environ.get("STABLEGRAD_FUZZ", "150"))
UNWATCHED = nn.Module.__call__
IN, OUT, ROWS = 4, 3, 6


@dataclass
class Output:
    text: str
    values: torch.Tensor


class Raises:
    """Somebody's own kind of output."""

    def __init__(self, values):
        self.values = values

    @property
    def mean(self):
        raise NotImplementedError

    logits = mean


class Slots:
    __slots__ = ("values",)

    def __init__(self, values):
        self.values = values


OUTPUTS = {
    "tensor": (lambda y: y, lambda y: y),
    "tuple": (lambda y: (y, y.sum(1)), lambda y: y[0] + y[1][:, None]),
    "features first": (lambda y: (y, 2 * y), lambda y: y[1]),
    "nested": (lambda y: {"a": [{"b": (y,)}], "n": None}, lambda y: y["a"][0]["b"][0]),
    "data class": (lambda y: Output("x", y), lambda y: y.values),
    "namespace": (lambda y: SimpleNamespace(y=y), lambda y: y.y),
    "raises": (Raises, lambda y: y.values),
    "slots": (Slots, lambda y: y.values),
    "loss only": (lambda y: y.square().mean(), lambda y: y[None, None]),
    "flat": (lambda y: y[:, 0], lambda y: y[:, None]),
    "complex": (lambda y: torch.complex(y, y), lambda y: y.real + y.imag),
    "categorical": (lambda y: Categorical(logits=y), lambda y: y.log_prob(torch.zeros(y.batch_shape))[:, None]),
    "probabilities": (lambda y: Categorical(y.softmax(1)), lambda y: y.entropy()[:, None]),
    "normal": (lambda y: Normal(y, 1.0), lambda y: y.mean),
    "independent": (lambda y: Independent(Normal(y, y.exp()), 1), lambda y: y.log_prob(torch.ones(OUT))[:, None]),
    "tanh": (lambda y: Transformed(Normal(y, 1.0), TanhTransform()), lambda y: y.log_prob(torch.full((OUT,), 0.3))),
    "mixture": (
        lambda y: MixtureSameFamily(Categorical(logits=y), Normal(y, 1.0)),
        lambda y: y.log_prob(torch.zeros(y.batch_shape))[:, None],
    ),
}
ACTIVATIONS = [F.relu, torch.tanh, F.gelu, torch.sigmoid, F.silu, F.softplus, lambda x: F.glu(torch.cat([x, x], -1))]


class Net(nn.Module):
    """Embedding or linear first layer, a stack, and what else the draw has put in."""

    def __init__(self, plan):
        super().__init__()
        width = 8
        self.plan, self.calls = plan, 0
        self.first = {
            "linear": lambda: nn.Linear(IN, width),
            "sparse": lambda: nn.Embedding(9, width, sparse=True),
            "embedding": lambda: nn.Embedding(9, width),
            "conv1d": lambda: nn.Sequential(nn.Unflatten(-1, (1, IN)), nn.Conv1d(1, 2, 1), nn.Flatten(-2)),
            "conv2d": lambda: nn.Sequential(nn.Unflatten(-1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.Flatten(-3)),
            "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(IN, width)),
            "lazy": lambda: nn.LazyLinear(width),
        }[plan["first"]]()
        self.norm = {"none": nn.Identity, "layer": lambda: nn.LayerNorm(width), "dropout": lambda: nn.Dropout(0.2)}[
            plan["norm"]
        ]()
        self.middle = nn.GRUCell(width, width) if plan["recurrent"] else nn.Linear(width, width)
        self.head = nn.Linear(width, OUT)
        if plan["tied"] and not plan["recurrent"]:
            self.twin = nn.Linear(width, width)
            self.twin.weight = self.middle.weight
        extra = plan["extra"]
        if extra == "counter":
            self.extra = nn.Parameter(torch.tensor(3), requires_grad=False)
        elif extra == "mask":
            self.extra = nn.Parameter(torch.ones(width, dtype=torch.bool), requires_grad=False)
        elif extra == "int8":
            self.extra = nn.Parameter(torch.zeros(width, width, dtype=torch.int8), requires_grad=False)
        elif extra == "complex":
            self.extra = nn.Parameter(torch.randn(width, width, dtype=torch.complex64) / 3)
        elif extra == "empty":
            self.extra = nn.Parameter(torch.zeros(0, width))
        elif extra == "scalar":
            self.extra = nn.Parameter(torch.tensor(1.0))
        elif extra == "unused":
            self.extra = nn.Linear(3, 3)
        if plan["frozen"]:
            self.middle.requires_grad_(False)

    def body(self, x):
        activation = ACTIVATIONS[self.plan["activation"]]
        x = activation(self.norm(self.first(x)))
        if self.plan["extra"] == "complex":
            x = (x.to(self.extra.dtype) @ self.extra).real
        if self.plan["extra"] == "scalar":
            x = x * self.extra
        x = activation(x + self.middle(x))
        return activation(self.twin(x)) if hasattr(self, "twin") else x

    def forward(self, x):
        self.calls += 1
        # A probe calls the network as well, so that calls can be counted only without one.
        if self.calls == self.plan["interrupt"] and not self.plan["probe_every"] and self.plan["call"] != "thread":
            raise KeyboardInterrupt
        return OUTPUTS[self.plan["output"]][0](self.head(self.body(x)))

    evaluate = forward

    def checkpointed(self, x):
        return OUTPUTS[self.plan["output"]][0](self.head(checkpoint(self.body, x, use_reentrant=False)))


class Wrapper(torch.optim.Optimizer):
    """As Accelerate's: an optimizer that never called Optimizer.__init__."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.optimizer.step(closure)


def optimizers_of(model, plan):
    trained = [one for one in model.parameters() if one.requires_grad]
    sparse = list(model.first.parameters()) if plan["first"] == "sparse" else []
    dense = [one for one in trained if all(one is not other for other in sparse)]
    made = [torch.optim.SparseAdam(sparse, 1e-2)] if sparse else []
    kind = plan["optimizer"]
    if kind == "kron" and plan["extra"] != "complex":
        made.append(Kron(dense, lr=1e-3))
    elif kind == "lbfgs" and not sparse and plan["extra"] != "complex":
        made.append(torch.optim.LBFGS(dense, max_iter=2))
    elif kind == "two":
        made += [torch.optim.AdamW(dense[:2], 1e-2), torch.optim.SGD(dense[2:], 1e-2, momentum=0.9)]
    elif kind == "groups":
        made.append(
            torch.optim.RMSprop([{"params": dense[:1], "lr": 1e-3}, {"params": dense[1:]}], lr=torch.tensor(1e-2))
        )
    elif kind == "adam":
        made.append(torch.optim.Adam(dense, 1e-2))
    else:
        made.append(torch.optim.SGD(dense, 1e-2))
    return [Wrapper(one) for one in made] if kind == "wrapper" else made


def loss_of(model, plan, x):
    call = {"method": model.evaluate, "forward": model.forward, "checkpoint": model.checkpointed}.get(
        plan["call"], model
    )
    take = OUTPUTS[plan["output"]][1]
    if plan["call"] == "rows" and plan["first"] != "sparse" and plan["output"] in ("tensor", "data class", "normal"):
        return torch.stack([take(call(row)) for row in x]).square().mean()
    if plan["call"] == "functional":
        given = dict(model.named_parameters())
        return take(torch.func.functional_call(model, given, (x,))).square().mean()
    if plan["call"] == "thread":
        found = []
        thread = threading.Thread(target=lambda: found.append(take(model(x))))
        thread.start()
        thread.join()
        return found[0].square().mean()
    if plan["call"] == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            return take(call(x)).float().square().mean()
    if plan["call"] == "parts":
        return model.head(F.relu(model.middle(F.relu(model.first(x))))).square().mean()
    if plan["call"] == "twice":
        return (take(call(x)) + take(call(x))).square().mean()
    return take(call(x)).square().mean()


def vmapped_gradients(model, x):
    parameters = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}

    def loss(given, row):
        return torch.func.functional_call(model, given, (row[None],)).square().mean()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")(parameters, x)
    for name, one in model.named_parameters():
        if name in each:
            one.grad = each[name].mean(0)


def train(plan, watched):
    torch.manual_seed(plan["seed"])
    model = Net(plan)
    tokens = plan["first"] in ("sparse", "embedding")
    inputs = [torch.randint(9, (ROWS,)) if tokens else torch.randn(ROWS, IN) for _ in range(plan["steps"])]
    if plan["first"] == "lazy":
        model.first(inputs[0])
    if plan["dtype"] == "float64" and not tokens:
        model, inputs = model.double(), [one.double() for one in inputs]
    made = optimizers_of(model, plan)
    monitor = Monitor(model, made, every=plan["every"], probe_every=plan["probe_every"]) if watched else None
    vmap = plan["call"] == "vmap" and plan["output"] == "tensor" and plan["first"] == "linear" and not plan["recurrent"]
    for step, x in enumerate(inputs):
        try:
            with torch.no_grad():
                model(x)  # acting

            def closure(x=x, step=step):
                if plan["zero"] == "before":
                    for one in made:
                        one.zero_grad(set_to_none=step % 2 == 0)
                for _ in range(plan["accumulate"]):
                    if vmap:
                        vmapped_gradients(model, x)
                    else:
                        loss_of(model, plan, x).backward()
                if plan["clip"]:
                    dense = [one for one in model.parameters() if one.grad is not None and not one.grad.is_sparse]
                    nn.utils.clip_grad_norm_(dense, 0.1)
                return torch.tensor(0.0)

            if plan["optimizer"] == "lbfgs" and isinstance(made[-1], torch.optim.LBFGS):
                made[-1].step(closure)
            else:
                closure()
                for one in made:
                    one.step()
            if plan["zero"] == "after":
                for one in made:
                    one.zero_grad()
        except KeyboardInterrupt:
            assert _len_torch_function_stack() == 0
        if step == plan["change"]:
            if plan["how"] == "copy":
                copy.deepcopy(model).body(x)
            elif plan["how"] == "pickle":
                pickle.loads(pickle.dumps(model)).body(x)
            elif plan["how"] == "replace":
                model.head = nn.Linear(8, OUT, dtype=model.head.weight.dtype)
                if not isinstance(made[-1], torch.optim.LBFGS):
                    inner = getattr(made[-1], "optimizer", made[-1])
                    inner.add_param_group({"params": list(model.head.parameters())})
            elif plan["how"] == "freeze":
                model.middle.requires_grad_(False)
            elif plan["how"] == "report" and monitor is not None and monitor.looks:
                monitor.report()
    if monitor is not None:
        assert not [note for note in monitor.notes if "the monitor stopped" in note], monitor.notes
        monitor.close()
    left = [
        *(hook for module in model.modules() for hook in (module._forward_hooks, module._forward_pre_hooks)),
        *(one._post_accumulate_grad_hooks for one in model.parameters()),
        *(one._backward_hooks for one in model.parameters()),
        *(getattr(one, "optimizer", one)._optimizer_step_pre_hooks for one in made),
        *(getattr(one, "optimizer", one)._optimizer_step_post_hooks for one in made),
    ]
    assert not any(left) and _len_torch_function_stack() == 0 and nn.Module.__call__ is UNWATCHED
    return [one.detach().clone() for one in model.parameters()], torch.get_rng_state()


PLANS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "steps": st.integers(3, 7),
        "every": st.integers(2, 4),
        "probe_every": st.just(0),
        "first": st.sampled_from(["linear", "linear", "sparse", "embedding", "conv1d", "conv2d", "spectral", "lazy"]),
        "norm": st.sampled_from(["none", "layer", "dropout"]),
        "activation": st.integers(0, len(ACTIVATIONS) - 1),
        "recurrent": st.booleans(),
        "tied": st.booleans(),
        "frozen": st.booleans(),
        "extra": st.sampled_from(["none", "none", "counter", "mask", "int8", "complex", "empty", "scalar", "unused"]),
        "dtype": st.sampled_from(["float32", "float32", "float64"]),
        "output": st.sampled_from(list(OUTPUTS)),
        "call": st.sampled_from(
            [
                *("call", "call", "method", "forward", "checkpoint", "rows", "functional", "thread", "autocast"),
                *("parts", "twice", "vmap"),
            ]
        ),
        "optimizer": st.sampled_from(["sgd", "adam", "kron", "lbfgs", "two", "groups", "wrapper"]),
        "zero": st.sampled_from(["before", "after", "never"]),
        "accumulate": st.integers(1, 2),
        "clip": st.booleans(),
        "interrupt": st.integers(0, 12),
        "change": st.integers(0, 6),
        "how": st.sampled_from(["nothing", "copy", "pickle", "replace", "freeze", "report"]),
    }
).flatmap(lambda plan: st.sampled_from([0, plan["every"]]).map(lambda probe: plan | {"probe_every": probe}))


def is_possible(plan):
    """Whether the training itself works: without a monitor."""
    try:
        return train(plan, watched=False)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError):
        return None


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="STABLEGRAD_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(PLANS)
def test_a_monitor_ends_no_training_and_changes_none_by_a_bit(plan):
    note(repr(plan))
    alone = is_possible(plan)
    if alone is None:
        return
    watched = train(plan, watched=True)
    assert all(((a == b) | ((a != a) & (b != b))).all() for a, b in zip(alone[0], watched[0], strict=True))
    assert torch.equal(alone[1], watched[1])


@pytest.mark.parametrize("output", OUTPUTS)
def test_most_of_what_is_drawn_is_a_training(output):
    """So that the test above does not pass because nothing trains."""
    plan = dict.fromkeys(["seed", "activation", "interrupt", "recurrent", "tied", "frozen", "clip"], 0) | {
        "steps": 4, "every": 2, "probe_every": 0, "first": "linear", "norm": "none", "extra": "none",
        "dtype": "float32", "output": output, "call": "call", "optimizer": "sgd", "zero": "before", "accumulate": 1,
        "change": 9, "how": "nothing",
    }  # fmt: skip
    assert is_possible(plan) is not None

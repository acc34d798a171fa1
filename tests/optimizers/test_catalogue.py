from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.optimizers import OPTIMIZERS, Kron, default_learning_rate, make_optimizer


def mlp():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 1)), torch.Size([8]), 1


def convolutional():
    layers = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 3)]
    return nn.Sequential(*layers), torch.Size([2, 9, 9]), 3


def losses(name, build, steps=40, **options):
    torch.manual_seed(0)
    model, inputs, outputs = build()
    x, y = torch.randn(32, *inputs), torch.randn(32, outputs)
    optimizer = make_optimizer(name, model.parameters(), default_learning_rate(name, 3e-3), **options)
    result = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        result.append(loss.item())
    return result


@pytest.mark.parametrize("build", [mlp, convolutional])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name, build):
    curve = losses(name, build, weight_decay=1e-4)
    assert curve[-1] < 0.95 * curve[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_resumes_from_its_state(name):
    """Only what trainers need: a state that loads, and steps that go on as before."""
    torch.manual_seed(0)
    model, inputs, outputs = mlp()
    x, y = torch.randn(16, *inputs), torch.randn(16, outputs)

    def train(network, optimizer, steps):
        for step in range(steps):
            torch.manual_seed(step)  # Shampoo draws
            optimizer.zero_grad()
            (network(x) - y).square().mean().backward()
            optimizer.step()

    optimizer = make_optimizer(name, model.parameters(), 1e-3)
    train(model, optimizer, 5)
    other = copy.deepcopy(model)
    restored = make_optimizer(name, other.parameters(), 1e-3)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 5)
    train(other, restored, 5)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("radam", torch.optim.RAdam),
        ("sgd", torch.optim.SGD),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_torchs_own_give_torchs_plain_results(name, plain):
    results = []
    for make in (
        lambda params: make_optimizer(name, params, 1e-3, weight_decay=0.01),
        lambda params: plain(params, lr=1e-3, weight_decay=0.01, foreach=False),
    ):
        torch.manual_seed(0)
        model, inputs, _ = mlp()
        x, optimizer = torch.randn(16, *inputs), make(model.parameters())
        for _ in range(10):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        results.append(torch.cat([param.detach().flatten() for param in model.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_apollo_is_the_quasi_newton_method_and_muon_splits():
    model, _, _ = convolutional()
    assert type(make_optimizer("apollo", model.parameters(), 1e-2)).__name__ == "ApolloDQN"
    muon = make_optimizer("muon", model.parameters(), 1e-3, weight_decay=0.1)
    matrices, others = muon.param_groups
    assert matrices["use_muon"] and all(param.dim() >= 2 for param in matrices["params"])
    assert not others["use_muon"] and all(param.dim() == 1 for param in others["params"])
    assert [group["lr"] for group in muon.param_groups] == [1e-3, 1e-3]
    assert [group["weight_decay"] for group in muon.param_groups] == [0.1, 0.1]
    assert sum(len(group["params"]) for group in muon.param_groups) == len(list(model.parameters()))


def test_muon_keeps_groups_that_say_what_they_are():
    model, _, _ = mlp()
    head = list(model[-1].parameters())
    body = list(model[:-1].parameters())
    muon = make_optimizer("muon", [{"params": body, "lr": 0.02}, {"params": head, "use_muon": False}], 1e-3)
    assert [group["use_muon"] for group in muon.param_groups] == [True, False, False]
    assert [group["lr"] for group in muon.param_groups] == [0.02, 0.02, 1e-3]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameter_groups_and_named_parameters(name):
    model, inputs, _ = mlp()
    groups = [{"params": list(model[0].parameters()), "lr": 1e-4}, {"params": list(model[2:].parameters())}]
    optimizer = make_optimizer(name, groups, 1e-3)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4, 1e-3}
    named = make_optimizer(name, model.named_parameters(), 1e-3)
    model(torch.randn(4, *inputs)).sum().backward()
    named.step()
    assert sum(len(group["params"]) for group in named.param_groups) == 6


def test_options_are_passed_on():
    model, _, _ = mlp()
    kron = make_optimizer("kron", model.parameters(), 1e-3, rule="pro", block_size=16)
    assert isinstance(kron, Kron)
    assert (kron.rule, kron.param_groups[0]["block_size"]) == ("pro", 16)
    assert make_optimizer("radam", model.parameters(), 1e-3, eps=1e-3).param_groups[0]["eps"] == 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda params: make_optimizer("krom", params, 1e-3), "unknown optimizer 'krom'; did you mean 'kron'?"),
        (lambda params: default_learning_rate("adamm", 1e-3), "unknown optimizer 'adamm'; did you mean 'adam'?"),
        (lambda params: make_optimizer("soap", params, 1e-3, frequency=3), "unknown option of optimizer soap"),
        (lambda params: make_optimizer("adam", params, -1.0), "optimizer adam: lr must be at least 0, got -1.0"),
        (lambda params: make_optimizer("muon", params, -1.0), "optimizer muon: lr must be at least 0, got -1.0"),
        (lambda params: make_optimizer("adam", params, 1.0, betas=(2.0, 0.9)), "optimizer adam: Invalid beta"),
        (lambda params: make_optimizer("soap", params, 1.0, betas=(2.0, 0.9)), "optimizer soap: "),
        (lambda params: make_optimizer("shampoo", params, 1.0, statistics_compute_steps=-1), "optimizer shampoo: "),
        (lambda params: make_optimizer("kron", params, 1.0, momentum=2.0), "Kron option momentum must be in"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_line(call, message):
    with pytest.raises(UsageError, match="(?s)^" + message.replace("?", r"\?")) as caught:
        call(nn.Linear(2, 2).parameters())
    assert "\n" not in str(caught.value)


def test_pytorch_optimizer_is_imported_only_on_use():
    code = (
        "import sys, torch; from stablegrad.optimizers import make_optimizer; p = [torch.nn.Parameter(torch.ones(2))]; "
        "make_optimizer('kron', p, 1e-3); make_optimizer('adam', p, 1e-3); "
        "assert 'pytorch_optimizer' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

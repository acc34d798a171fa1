"""The classic rule against kron_torch 0.3.3 itself, step for step."""

from __future__ import annotations

import random

import pytest
import torch

from stablegrad.optimizers import Kron, classic

kron_torch = pytest.importorskip("kron_torch", reason="kron_torch, the witness, is a development dependency")

SHAPES = {
    "vector": [(7,)],
    "matrix": [(6, 9)],
    "row": [(1, 8)],
    "column": [(8, 1)],
    "convolution": [(6, 3, 2, 2)],
    "network": [(5, 3, 3, 3), (5,), (4, 20), (4,)],
}


@pytest.fixture(autouse=True)
def eager():
    """kron_torch compiles its inner functions; eager execution is what its numbers mean."""
    previous = torch._dynamo.config.disable
    torch._dynamo.config.disable = True
    yield
    torch._dynamo.config.disable = previous


def problem(shapes, seed):
    """Parameters and an endless, seeded stream of ill-conditioned gradients that depend on the parameters."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    scales = [torch.logspace(-2, 1, max(1, p.numel())).reshape(p.shape) for p in params]

    def gradients():
        for p, scale in zip(params, scales, strict=True):
            p.grad = scale * (p.detach() + torch.randn(p.shape, generator=generator))

    return params, gradients


def trajectory(make, shapes, steps):
    params, gradients = problem(shapes, seed=3)
    optimizer = make(params)
    torch.manual_seed(11)
    path = []
    for _ in range(steps):
        gradients()
        optimizer.step()
        path.append(torch.cat([p.detach().flatten() for p in params]).clone())
    return torch.stack(path), optimizer, params


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_compat_follows_kron_torch(shapes, capsys):
    weight_decay = 0.1
    steps = 60
    theirs, witness, _ = trajectory(
        lambda params: kron_torch.Kron(params, lr=0.01, weight_decay=weight_decay), shapes, steps
    )
    ours, optimizer, _ = trajectory(
        lambda params: Kron(params, lr=0.01, weight_decay=weight_decay, rule="classic", compat=True), shapes, steps
    )
    capsys.readouterr()
    draws = random.Random(42)
    assert any(draws.random() < 0.01 for _ in range(steps)), "no balance would be tested"
    assert (theirs[-1] - theirs[0]).abs().max() > 0.1, "nothing moved"
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for mine, other in zip(optimizer.state.values(), witness.state.values(), strict=True):
        for name, Q in zip(("Q1", "Q2"), other["Q"], strict=False):
            torch.testing.assert_close(mine[name].reshape(Q.shape), Q, rtol=1e-3, atol=1e-4)


def test_scalars_are_taken_where_kron_torch_raises():
    param = torch.nn.Parameter(torch.tensor(3.0))
    optimizer = Kron([param], lr=0.05, rule="classic", compat=True)
    for _ in range(100):
        optimizer.zero_grad()
        (param**2).backward()
        optimizer.step()
    assert abs(param.item()) < 0.5


def test_balance_draws_are_pythons_generator_with_seed_42():
    draws, generator = classic.BalanceDraws(), random.Random(42)
    expected = [generator.random() < 0.01 for _ in range(2000)]
    assert [draws.due(step) for step in range(2000)] == expected
    assert [classic.BalanceDraws().due(step) for step in (19, 124, 125)] == [True, True, False]


def test_merge_is_the_most_square_unless_compatible():
    assert classic.merged_shape((64, 32, 4, 4), compat=False) == (64, 512)
    assert classic.merged_shape((64, 32, 4, 4), compat=True) == (8192, 4)
    for shape in [(3, 5, 7), (8, 2, 3, 3), (2, 2, 9, 4)]:
        param = torch.nn.Parameter(torch.zeros(shape))
        param.grad = torch.ones(shape)
        witness = kron_torch.Kron([param], lr=0.1)
        witness.step()
        assert classic.merged_shape(shape, compat=True) == tuple(witness.state[param]["merged_shape"])


def test_sides_over_8192_are_diagonal():
    param = torch.nn.Parameter(torch.zeros(2, 8193))
    param.grad = torch.ones_like(param)
    optimizer = Kron([param], rule="classic")
    optimizer.step()
    assert optimizer.state[param]["Q1"].shape == (2, 2)
    assert optimizer.state[param]["Q2"].shape == (8193,)

"""Shampoo is pytorch_optimizer's; what is ours is that its state is tensors."""

import copy
import io

import pytest
import torch
from pytorch_optimizer import ScalableShampoo
from torch import nn

from stablegrad.optimizers.catalogue import OPTIMIZERS, make_optimizer
from stablegrad.optimizers.shampoo import Shampoo


def network(width=6, seed=0):
    """Matrices and convolutions of blocks of equal and of different sizes, vectors, and a layer without a gradient."""
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 4, 3),
            "square": nn.Linear(16, 16),
            "head": nn.Linear(16, width),
            "unused": nn.Linear(3, 3),
        }
    )


def train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 2, 4, 4, generator=generator)
        model["head"](torch.tanh(model["square"](model["conv"](x).flatten(1)))).square().mean().backward()
        torch.manual_seed(2)  # roots draw from the global stream
        optimizer.step()


def make(model):
    return make_optimizer("shampoo", model.parameters(), 1e-2, block_size=8, preconditioning_compute_steps=3)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_steps_are_those_of_pytorch_optimizer():
    ours, theirs = network(), network()
    options = {**OPTIMIZERS["shampoo"].options, "block_size": 8, "preconditioning_compute_steps": 3}
    train(ours, make(ours), 10)
    train(theirs, ScalableShampoo(theirs.parameters(), lr=1e-2, **options), 10)
    assert same(ours, theirs)
    assert not same(ours, network())


def test_a_state_loaded_from_a_file_that_can_run_no_code_goes_on_as_if_it_had_not_stopped():
    model = network()
    optimizer = make(model)
    train(model, optimizer, 7)  # after roots, and between them
    file = io.BytesIO()
    torch.save({"network": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    restored = network(seed=5)
    restored.load_state_dict(saved["network"])
    other = make(restored)
    other.load_state_dict(saved["optimizer"])
    assert all(parameter.grad is None for parameter in restored.parameters())
    train(model, optimizer, 7)
    train(restored, other, 7)
    assert same(model, restored)


@pytest.mark.parametrize("width", [5, 7])
def test_a_state_of_another_network_is_refused_and_changes_nothing(width):
    model, stranger = network(), network(width)
    optimizer, others = make(model), make(stranger)
    train(model, optimizer, 4)
    train(stranger, others, 4)
    before, kept = copy.deepcopy(model), network()
    kept.load_state_dict(model.state_dict())
    undisturbed = make(kept)
    undisturbed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(ValueError, match="another network"):
        optimizer.load_state_dict(others.state_dict())
    assert same(model, before)
    train(model, optimizer, 4)
    train(kept, undisturbed, 4)
    assert same(model, kept)


def test_a_state_of_another_optimizer_is_refused():
    model = network()
    adam = torch.optim.Adam(model.parameters())
    train(model, adam, 1)
    with pytest.raises(ValueError, match="another network or optimizer"):
        make(model).load_state_dict(adam.state_dict())


def test_it_is_shampoo():
    assert isinstance(make(network()), Shampoo)

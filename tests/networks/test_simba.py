"""SimBa's network against its equations, written out in NumPy, and its first weights against their law."""

import numpy as np
import pytest
import torch

from stablegrad.errors import UsageError
from stablegrad.networks import SimbaTorso, TorsoConfig, make_torso
from stablegrad.networks.running_norm import RunningNorm


def arrays(torso):
    return {name: value.detach().double().numpy() for name, value in torso.named_parameters()}


def layer_norm(x, scale, shift):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6) * scale + shift


def by_hand(torso, x, blocks):
    w = arrays(torso)
    x = x @ w["project.weight"].T + w["project.bias"]
    for n in range(blocks):
        h = layer_norm(x, w[f"blocks.{n}.norm.weight"], w[f"blocks.{n}.norm.bias"])
        h = np.maximum(h @ w[f"blocks.{n}.linear1.weight"].T + w[f"blocks.{n}.linear1.bias"], 0.0)
        x = x + h @ w[f"blocks.{n}.linear2.weight"].T + w[f"blocks.{n}.linear2.bias"]
    return layer_norm(x, w["norm.weight"], w["norm.bias"])


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_pass_is_that_of_the_equations(blocks):
    torch.manual_seed(0)
    torso = make_torso(TorsoConfig(kind="simba", depth=blocks, width=12, norm="layer"), 5)
    with torch.no_grad():
        for parameter in torso.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # gains and biases too
    x = np.random.default_rng(0).normal(size=(7, 5)) * 3
    found = torso(torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(found, by_hand(torso, x, blocks), atol=1e-5)


def test_the_first_weights_are_those_of_the_authors_code():
    torch.manual_seed(0)
    torso = SimbaTorso(64, 128, 2)
    project = torso.project.weight.detach()
    torch.testing.assert_close(project.T @ project, torch.eye(64), atol=1e-5, rtol=0)  # orthogonal, gain 1
    for block in torso.blocks:
        for layer in (block.linear1, block.linear2):
            assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.02)
            # He normal of flax is cut at two of its deviations before it is scaled.
            assert layer.weight.abs().max() <= 2 * (2 / layer.in_features) ** 0.5 / 0.8796
            assert not layer.bias.any()
    assert [layer.out_features for layer in torso.modules() if isinstance(layer, torch.nn.Linear)] == [
        128, *(512, 128) * 2,
    ]  # fmt: skip


def test_it_ends_at_its_width():
    for make in (
        lambda: SimbaTorso(4, 8, 1, out_features=9),
        lambda: TorsoConfig(kind="simba", width=8, out_features=9),
    ):
        with pytest.raises(UsageError, match="ends at its width"):
            make()
    assert SimbaTorso(4, 8, 1, out_features=8).out_features == 8


def test_statistics_of_a_million_rows_are_those_of_numpy_in_float64():
    """Far from 0 and of a small deviation, where float32 loses all digits."""
    rows = np.random.default_rng(0).normal([1000.0, -3.0], [0.01, 5.0], (1_000_000, 2)).astype(np.float32)
    norm = RunningNorm((2,), clip=None)
    for part in np.array_split(rows, 200):
        norm.update(torch.from_numpy(part), torch.ones(len(part)))
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(norm.mean.numpy(), exact.mean(0), rtol=1e-9)
    # The first variance of 1 has the weight of a ten-thousandth of a row, and the first mean of 0 too.
    pulled = exact.var(0) + 1e-10 * (1 + exact.mean(0) ** 2)
    np.testing.assert_allclose(norm.variance.numpy(), pulled, rtol=1e-6)
    assert norm(torch.tensor([[1000.0, 997.0]]))[0, 1].item() == pytest.approx(200.0, rel=1e-2)

"""SimbaV2's network against its equations, written out in NumPy."""

import numpy as np
import pytest
import torch

from stablegrad.errors import UsageError
from stablegrad.networks import (
    EncoderConfig,
    GaussianActor,
    QNetwork,
    SimbaV2Torso,
    TorsoConfig,
    make_torso,
    parameter_count,
)
from stablegrad.optimizers.row_projection import project_rows


def l2(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-8)


def arrays(module):
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def by_hand(torso, x, width, blocks):
    """The published forward pass; a scaler's parameter counts init / scale times."""
    w = arrays(torso)
    x = l2(np.concatenate([x, np.full((len(x), 1), 3.0)], axis=1))
    x = l2(x @ w["project.weight"].T * w["scaler.scaler"])
    for n in range(blocks):
        h = x @ w[f"blocks.{n}.linear1.weight"].T * w[f"blocks.{n}.scaler.scaler"]
        h = l2((np.maximum(h, 0.0) + 1e-8) @ w[f"blocks.{n}.linear2.weight"].T)
        alpha = w[f"blocks.{n}.step.scaler"] * (1 / (blocks + 1)) * np.sqrt(width)
        x = l2(x + alpha * (h - x))
    return x


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_pass_is_that_of_the_equations(blocks):
    torch.manual_seed(0)
    torso = make_torso(TorsoConfig(kind="simba_v2", depth=blocks, width=12, norm="none"), 5)
    x = np.random.default_rng(0).normal(size=(7, 5)) * 3
    for _ in range(2):
        found = torso(torch.from_numpy(x).float()).detach().numpy()
        np.testing.assert_allclose(found, by_hand(torso, x, 12, blocks), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
        with torch.no_grad():
            for parameter in torso.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_first_values_of_scalers_and_weights_are_published():
    torso = SimbaV2Torso(6, 32, 2)
    assert torso.scaler.scaler.tolist() == pytest.approx([(2 / 32) ** 0.5] * 32)
    for block in torso.blocks:
        assert block.scaler.scaler.tolist() == pytest.approx([(2 / 32) ** 0.5 / 2] * 128)
        assert (block.step.scaler * block.step.ratio).tolist() == pytest.approx([1 / 3] * 32)
        assert block.step.scaler[0].item() == pytest.approx(32**-0.5)
    for layer in torso.modules():
        if isinstance(layer, torch.nn.Linear):
            assert layer.bias is None
            torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(len(layer.weight)))


def test_heads_have_a_hidden_layer_for_each_group_and_one_bias():
    torch.manual_seed(0)
    torso = TorsoConfig(kind="simba_v2", depth=1, width=8, norm="none")
    actor = GaussianActor((3,), 2, encoder=EncoderConfig(), torso=torso)
    with torch.no_grad():
        for parameter in actor.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(5, 3)
    w, features = arrays(actor.head), actor.torso(x).detach().double().numpy()
    parts = [
        (features @ w[f"hidden.{group}.weight"].T * w[f"scalers.{group}.scaler"]) @ w[f"outputs.{group}.weight"].T
        for group in (0, 1)
    ]
    np.testing.assert_allclose(actor(x).detach(), np.concatenate(parts, 1) + w["bias"], atol=1e-5)
    critic = QNetwork((3,), 1, encoder=EncoderConfig(), torso=torso, is_image=False, num_atoms=7)
    assert critic(x).shape == (5, 1, 7)
    # W (8 + 7) x 8, scaler 8, bias 7.
    assert parameter_count(lambda: critic.head) == 15 * 8 + 8 + 7


def test_rows_stay_on_the_sphere_after_steps():
    torch.manual_seed(0)
    torso = TorsoConfig(kind="simba_v2", depth=1, width=8, norm="none")
    critic = QNetwork((3,), 1, encoder=EncoderConfig(), torso=torso, is_image=False, num_atoms=7)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.1)
    project_rows(critic, optimizer, "unit")
    for _ in range(3):
        critic(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    layers = [layer for layer in critic.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(len(layer.weight)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"out_features": 9}, "ends at its width"), ({"norm": "layer"}, "normalises its features itself")],
)
def test_options_that_it_has_not_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        SimbaV2Torso(4, 8, 1, **options)
    with pytest.raises(UsageError, match=message):
        TorsoConfig(kind="simba_v2", width=8, **{"norm": "none", **options})

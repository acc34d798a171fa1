import copy

import pytest
import torch
from torch import nn

from stablegrad.networks import EncoderConfig, NoisyLinear, QNetwork, TorsoConfig, make_noisy, noise
from stablegrad.networks.config import TORSOS


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weight_with_noise(layer):
    """The matrix that a layer multiplies with now, by its products with unit vectors."""
    with torch.no_grad():
        bias = layer(torch.zeros(1, layer.in_features))
        return (layer(torch.eye(layer.in_features)) - bias).T, bias[0]


def test_noise_is_an_outer_product_times_sigma_by_the_published_formula():
    torch.manual_seed(0)
    layer = NoisyLinear(5, 3, sigma=0.4)
    with torch.no_grad():
        layer.weight_sigma.uniform_(0.1, 1.0)
        layer.bias_sigma.uniform_(0.1, 1.0)
    with noise(layer, generator(7)):
        weight, bias = weight_with_noise(layer)
    drawn = torch.randn(8, generator=generator(7))
    factors = [float(x.sign() * x.abs().sqrt()) for x in drawn]
    inputs, outputs = factors[:5], factors[5:]
    for j in range(3):
        assert float(bias[j]) == pytest.approx(float(layer.bias[j] + layer.bias_sigma[j] * outputs[j]), abs=1e-5)
        for i in range(5):
            expected = layer.weight[j, i] + layer.weight_sigma[j, i] * outputs[j] * inputs[i]
            assert float(weight[j, i]) == pytest.approx(float(expected), abs=1e-5)
    added = (weight - layer.weight.detach()) / layer.weight_sigma.detach()
    assert torch.linalg.matrix_rank(added, rtol=1e-4) == 1


def test_sigma_starts_at_its_share_of_the_root_of_the_inputs():
    layer = NoisyLinear(16, 3, sigma=0.5)
    assert torch.equal(layer.weight_sigma, torch.full((3, 16), 0.125))
    assert torch.equal(layer.bias_sigma, torch.full((3,), 0.125))


def test_factors_have_the_moments_of_signed_roots_of_gaussians():
    layer = NoisyLinear(5000, 5000)
    with noise(layer, generator()):
        for factor in layer.noise:
            assert float(factor.mean()) == pytest.approx(0.0, abs=0.05)
            # E f(x)^2 = E |x| = sqrt(2 / pi), and E f(x)^4 = 1.
            assert float(factor.square().mean()) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.05)
            assert float(factor.pow(4).mean()) == pytest.approx(1.0, rel=0.1)


def test_outside_there_is_no_noise_also_after_an_error():
    layer = NoisyLinear(4, 2)
    x = torch.randn(3, 4)
    means = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), means)
    with noise(layer, generator()):
        assert not torch.allclose(layer(x), means)
        assert torch.equal(layer(x), layer(x))  # one draw, as long as it lasts
    assert torch.equal(layer(x), means)
    with pytest.raises(ValueError, match="over"), noise(layer, generator()):
        raise ValueError("over")
    assert torch.equal(layer(x), means)


def test_every_layer_has_factors_of_its_own_and_every_draw_is_new():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    make_noisy(network, 0.5)
    drawn = generator()
    seen = []
    for _ in range(2):
        with noise(network, drawn):
            seen += [factor for layer in (network[0], network[2]) for factor in layer.noise]
    assert len(seen) == 8
    for number, one in enumerate(seen):
        assert all(not torch.equal(one, other) for other in seen[:number])
    again = generator()
    with noise(network, again):
        assert torch.equal(network[2].noise[1], seen[3])


def test_a_network_without_noisy_layers_draws_nothing():
    drawn = generator()
    with noise(nn.Linear(3, 3), drawn):
        pass
    assert torch.equal(drawn.get_state(), generator().get_state())


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("kind", TORSOS)
def test_every_linear_layer_of_every_torso_becomes_noisy_and_its_weights_the_means(kind, dueling):
    torch.manual_seed(0)
    torso = TorsoConfig(kind=kind, depth=2, width=8, norm="none" if kind == "simba_v2" else "layer")
    plain = QNetwork((4,), 3, encoder=EncoderConfig(), torso=torso, is_image=False, dueling=dueling, num_atoms=5)
    noisy = copy.deepcopy(plain)
    make_noisy(noisy, 0.5)
    layers = {name: module for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    # The torso's, and the head's.
    assert len(layers) == (5 if "simba" in kind else 6) + (4 if dueling else 2 if kind == "simba_v2" else 1)
    for name, module in noisy.named_modules():
        assert isinstance(module, NoisyLinear) == (name in layers)
        if name in layers:
            assert torch.equal(module.weight, layers[name].weight)
            bias = layers[name].bias
            assert module.bias is None if bias is None else torch.equal(module.bias, bias)
    assert sum(isinstance(module, nn.LayerNorm) for module in noisy.modules()) == sum(
        isinstance(module, nn.LayerNorm) for module in plain.modules()
    )
    x = torch.randn(7, 4)
    assert torch.equal(noisy(x), plain(x))
    with noise(noisy, generator()):
        outputs = noisy(x)
    assert not torch.allclose(outputs, plain(x))
    outputs.square().sum().backward()
    for name, parameter in noisy.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert noisy.head.state_dict().keys() > plain.head.state_dict().keys()


def test_convolutions_stay_as_they_are():
    network = QNetwork((4, 84, 84), 3, encoder=EncoderConfig(), torso=TorsoConfig(depth=0, width=8), is_image=True)
    make_noisy(network, 0.5)
    assert not any(isinstance(module, NoisyLinear) for module in network.encoder.modules())
    assert sum(isinstance(module, NoisyLinear) for module in network.modules()) == 3


def test_noise_is_no_part_of_the_state_or_of_a_copy():
    layer = NoisyLinear(4, 2)
    assert set(layer.state_dict()) == {"weight", "bias", "weight_sigma", "bias_sigma"}
    with torch.device("meta"):
        assert NoisyLinear(4, 2).weight_sigma.is_meta

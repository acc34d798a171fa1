import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.networks import (
    DenseNetTorso,
    MLPTorso,
    MultiSkipTorso,
    ResidualTorso,
    SimbaTorso,
    TorsoConfig,
    make_torso,
    parameter_count,
)
from stablegrad.networks.encoders import ImpalaCNN, NatureCNN
from stablegrad.networks.torsos import skip_scales

TORSOS = [MLPTorso, ResidualTorso, MultiSkipTorso, DenseNetTorso]

# Millions of parameters, depth S/M/L by width S/M/L (arXiv 2506.15544, Table of network sizes).
PAPER_TABLE = {
    ("small", "small"): 2.39,
    ("small", "medium"): 11.9,
    ("small", "large"): 27.7,
    ("medium", "small"): 3.45,
    ("medium", "medium"): 21.35,
    ("medium", "large"): 53.93,
    ("large", "small"): 4.5,
    ("large", "medium"): 30.79,
    ("large", "large"): 80.15,
}


@pytest.mark.parametrize(("size", "millions"), PAPER_TABLE.items())
@pytest.mark.parametrize("torso", [MLPTorso, ResidualTorso, MultiSkipTorso])
def test_parameter_count_is_the_papers(torso, size, millions):
    depth, width = size
    count = parameter_count(lambda: torso(3136, width, depth, norm="none"))
    # The table has two decimals, and seems to be cut and rounded in turn.
    assert count / 1e6 == pytest.approx(millions, abs=0.011)


def test_parameter_count_allocates_nothing_and_counts_shared_parameters_once():
    assert parameter_count(lambda: MLPTorso(3136, 10**6, 10)) > 10**13
    shared = nn.Linear(4, 4)
    assert parameter_count(nn.Sequential(shared, shared)) == 20


@settings(deadline=None, max_examples=30)
@given(
    kind=st.sampled_from(["mlp", "residual", "multi_skip", "densenet"]),
    depth=st.integers(0, 4),
    width=st.integers(1, 17),
    out_features=st.one_of(st.none(), st.integers(1, 9)),
    norm=st.sampled_from(["layer", "none"]),
    activation=st.sampled_from(["relu", "gelu", "silu", "tanh", "elu", "leaky_relu"]),
)
def test_any_size_maps_features_to_out_features(kind, depth, width, out_features, norm, activation):
    config = TorsoConfig(
        kind=kind, depth=depth, width=width, out_features=out_features, norm=norm, activation=activation
    )
    torso = make_torso(config, 5)
    assert torso.out_features == (out_features or width)
    output = torso(torch.randn(3, 5))
    assert output.shape == (3, torso.out_features)
    linears = [module for module in torso.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 2 * depth + 2
    norms = [module for module in torso.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == (2 * depth + 2 if norm == "layer" else 0)
    # Rows are independent of each other.
    torch.testing.assert_close(torso(torch.ones(1, 5)), torso(torch.ones(4, 5))[2:3])


def test_multi_skip_is_the_equation():
    """x_{k+1} = x_k + LN(W2 act(LN(W1 act(x_k)))) + g, written out by hand from the weights."""
    torso = MultiSkipTorso(6, 8, 3)
    # Norms that do something, so that leaving one out would be seen.
    for parameter in torso.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(10, 6)

    def layer_norm(values, norm):
        mean = values.mean(-1, keepdim=True)
        variance = ((values - mean) ** 2).mean(-1, keepdim=True)
        return (values - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias

    def linear(values, layer):
        return values @ layer.weight.T + layer.bias

    g = layer_norm(linear(x, torso.project), torso.project_norm)
    stream = g
    for block in torso.blocks:
        hidden = layer_norm(linear(stream.clamp(min=0), block.linear1), block.norm1)
        stream = stream + layer_norm(linear(hidden.clamp(min=0), block.linear2), block.norm2) + g
    expected = layer_norm(linear(stream.clamp(min=0), torso.output.linear), torso.output.norm).clamp(min=0)
    torch.testing.assert_close(torso(x), expected, rtol=1e-4, atol=1e-4)


def test_residual_is_multi_skip_without_skips_and_k_blocks_receive_it():
    torch.manual_seed(0)
    residual = ResidualTorso(6, 8, 3)
    partial = MultiSkipTorso(6, 8, 3, skip_blocks=2)
    partial.load_state_dict(residual.state_dict())
    x = torch.randn(4, 6)
    plain = MultiSkipTorso(6, 8, 3, skip_blocks=0)
    plain.load_state_dict(residual.state_dict())
    torch.testing.assert_close(plain(x), residual(x), rtol=0, atol=0)

    skip = partial.project_norm(partial.project(x))
    stream = skip
    for number, block in enumerate(partial.blocks):
        stream = stream + block(stream) + (skip if number < 2 else 0)
    torch.testing.assert_close(partial.stream(x), stream)


def test_unscaled_stream_grows_as_measured_on_the_published_code_and_the_scaled_one_does_not():
    """Standard deviation 2.2 to 11 from 1 to 10 blocks with LayerNorm (measured on the authors' code)."""
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    stds = {depth: MultiSkipTorso(64, 256, depth).stream(x).std().item() for depth in (1, 10)}
    assert stds[1] == pytest.approx(2.2, abs=0.3)
    assert stds[10] == pytest.approx(11, abs=1.0)
    for depth in (1, 3, 10, 30):
        for torso in (MultiSkipTorso, ResidualTorso):
            std = torso(64, 256, depth, variance_preserving=True).stream(x).std().item()
            assert std == pytest.approx(1.0, abs=0.1), (depth, torso)


@given(depth=st.integers(0, 20), skips=st.integers(0, 20))
def test_skip_scales_keep_unit_variance_in_the_model_they_assume(depth, skips):
    """Follow the covariance of (x, g) with explicit vectors of independent branch components."""
    scales = skip_scales(depth, min(skips, depth))
    stream = [1.0] + [0.0] * depth  # coordinates on the orthonormal basis (g, f_0, f_1, ...)
    for number, scale in enumerate(scales):
        stream[number + 1] += 1.0
        if number < skips:
            stream[0] += 1.0
        stream = [scale * value for value in stream]
        assert math.sqrt(sum(value**2 for value in stream)) == pytest.approx(1.0)


def test_densenet_layers_read_everything_before_them():
    torso = DenseNetTorso(3, 8, 2)
    assert [layer.linear.in_features for layer in torso.layers] == [8, 12, 16, 20]
    assert torso.output.linear.in_features == 24


def test_initialisation_is_orthogonal_with_gain_sqrt_2_and_zero_bias():
    torso = MultiSkipTorso(32, 32, 2)
    for module in torso.modules():
        if isinstance(module, nn.Linear):
            torch.testing.assert_close(module.weight @ module.weight.T, 2 * torch.eye(32), atol=1e-5, rtol=0)
            assert not module.bias.any()


def test_gradient_reaches_the_encoder_with_skips_and_fades_without_norm_in_a_plain_stack():
    torch.manual_seed(0)

    def input_gradient(torso):
        x = torch.randn(16, 32, requires_grad=True)
        torso(x).sum().backward()
        return x.grad.norm().item()

    assert input_gradient(MultiSkipTorso(32, 64, 10)) > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "multiskip"}, "did you mean 'multi_skip'"),
        ({"depth": "huge"}, "unknown torso depth 'huge'"),
        ({"depth": "larg"}, "did you mean 'large'"),
        ({"depth": -1}, "at least 0"),
        ({"width": 0}, "at least 1"),
        ({"width": "lagre"}, "did you mean 'large'"),
        ({"norm": "instance"}, "unknown norm"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"kind": "mlp", "skip_blocks": 1}, "multi_skip torso"),
        ({"kind": "multi_skip", "depth": 2, "skip_blocks": 3}, "from 0 to the depth"),
        ({"kind": "densenet", "variance_preserving": True}, "residual and multi_skip"),
        ({"out_features": 0}, "out_features"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        TorsoConfig(**arguments)


def test_sizes_given_as_digits_are_numbers():
    assert parameter_count(MLPTorso(3, "16", "2")) == parameter_count(MLPTorso(3, 16, 2))


@pytest.mark.parametrize("torso", TORSOS)
def test_crelu_passes_on_both_signs_at_the_same_widths(torso):
    """Shang et al. 2016: of every unit one half of what it passes on has a slope, whatever its sign."""
    network = torso(12, 16, 2, out_features=10, activation="crelu", norm="none")
    x = torch.randn(32, 12, requires_grad=True)
    features = network(x)
    assert features.shape == (32, 10)
    assert ((features[:, :5] == 0) != (features[:, 5:] == 0)).all()  # relu(h) beside relu(-h)
    with pytest.raises(UsageError, match="even number of units; one has 9"):
        torso(12, 16, 2, out_features=9, activation="crelu")


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("make", [*TORSOS, SimbaTorso, "nature", "impala"])
def test_relus_that_overwrite_their_input_change_nothing(make, norm):
    """The same weights with ReLUs that all write to memory of their own, bit for bit."""
    torch.manual_seed(0)
    if isinstance(make, str):
        network = {"nature": NatureCNN, "impala": ImpalaCNN}[make]((2, 36, 36), norm=norm)
        inputs = torch.rand(3, 2, 36, 36, requires_grad=True)
    else:
        network, inputs = make(5, 8, 2, norm=norm), torch.randn(3, 5, requires_grad=True)
    slow = copy.deepcopy(network)
    relus = [module for module in slow.modules() if isinstance(module, nn.ReLU)]
    assert any(relu.inplace for relu in relus)
    for relu in relus:
        relu.inplace = False
    given, outputs, gradients = inputs.detach().clone(), [], []
    for one in (network, slow):
        outputs.append(one(inputs))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), [inputs, *one.parameters()]))
    assert torch.equal(inputs, given)
    assert torch.equal(*outputs)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))

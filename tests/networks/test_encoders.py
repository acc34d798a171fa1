import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.networks import (
    EncoderConfig,
    HadamaxCNN,
    ImpalaCNN,
    NatureCNN,
    QNetwork,
    TorsoConfig,
    VectorEncoder,
    make_encoder,
    parameter_count,
)

CNNS = [NatureCNN, ImpalaCNN, HadamaxCNN]


@pytest.mark.parametrize(("size", "features"), [("small", 1568), ("medium", 3136), ("large", 6272)])
def test_nature_cnn_sizes(size, features):
    encoder = NatureCNN((4, 84, 84), size=size)
    assert encoder.out_features == features
    assert encoder(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2, features)


def test_nature_cnn_is_the_published_network():
    """Against the layers written out with torch's functions; LayerNorm over channels, height and width."""
    encoder = NatureCNN()
    pixels = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    x = pixels.double() / 255
    for number, stride in ((0, 4), (3, 2), (6, 1)):
        conv, norm = encoder.layers[number], encoder.layers[number + 1]
        x = nn.functional.conv2d(x, conv.weight.double(), conv.bias.double(), stride=stride)
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        x = (x * norm.weight.double() + norm.bias.double()).clamp(min=0)
    torch.testing.assert_close(encoder(pixels).double(), x.flatten(1), rtol=1e-4, atol=1e-4)


def test_impala_cnn_has_the_published_features_and_layers():
    encoder = ImpalaCNN(norm="none")
    assert encoder.out_features == 3872
    assert sum(isinstance(module, nn.Conv2d) for module in encoder.modules()) == 15
    # 4 -> 16 -> 32 -> 32: per stage one convolution and four of constant width.
    expected = 9 * (4 * 16 + 4 * 16 * 16 + 16 * 32 + 4 * 32 * 32 + 32 * 32 + 4 * 32 * 32) + 5 * (16 + 32 + 32)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    for shape in ((4, 84, 84), (3, 64, 64), (1, 9, 13)):
        assert ImpalaCNN(shape)(torch.rand(2, *shape)).shape == (2, ImpalaCNN(shape).out_features)


@pytest.mark.parametrize("encoder", [NatureCNN(), ImpalaCNN(), HadamaxCNN(), ImpalaCNN(pool="average")])
def test_bytes_and_scaled_floats_are_the_same_observation(encoder):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8))
    torch.testing.assert_close(encoder(pixels), encoder(pixels.float() / 255))


def test_vector_encoder_flattens_and_normalises_where_asked():
    encoder = VectorEncoder((2, 3))
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert encoder.out_features == 6
    torch.testing.assert_close(encoder(x), x.flatten(1).float())
    assert list(encoder.parameters()) == []
    normalised = VectorEncoder((6,), norm="layer")(x.flatten(1))
    torch.testing.assert_close(normalised.mean(1), torch.zeros(4), atol=1e-6, rtol=0)


def test_q_network_picks_the_encoder_by_observation():
    torso = TorsoConfig(width=16)
    image = QNetwork((4, 84, 84), 6, encoder=EncoderConfig(), torso=torso, is_image=True)
    vector = QNetwork((8,), 3, encoder=EncoderConfig(), torso=torso, is_image=False)
    assert isinstance(image.encoder, NatureCNN)
    assert isinstance(vector.encoder, VectorEncoder)
    assert image(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2, 6)
    assert vector(torch.zeros(2, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NatureCNN((8,)), "use the vector encoder"),
        (lambda: NatureCNN((4, 20, 20)), "height >= 36"),
        (lambda: NatureCNN(size="big"), "unknown Nature CNN size"),
        (lambda: NatureCNN(size=(1, 2)), "three convolutions"),
        (lambda: EncoderConfig(kind="natur"), "did you mean 'nature'"),
        (lambda: EncoderConfig(kind="impala", size="large"), "one size"),
        (lambda: EncoderConfig(kind="hadamax", size="small"), "'hadamax' has one size"),
        (lambda: EncoderConfig(kind="hadamx"), "did you mean 'hadamax'"),
        (lambda: EncoderConfig(kind="impoola"), "encoder.kind 'impala' with encoder.pool 'average'"),
        (lambda: EncoderConfig(pool="averge"), "unknown encoder pool 'averge'; did you mean 'average'"),
        (lambda: EncoderConfig(activation="rellu"), "did you mean 'relu'"),
        (lambda: make_encoder(EncoderConfig(pool="average"), (8,), is_image=False), "'average' is for CNNs"),
        (lambda: make_encoder(EncoderConfig(kind="hadamax"), (8,), is_image=False), "needs image observations"),
        (lambda: HadamaxCNN((4, 7, 84)), "height >= 8"),
        (lambda: HadamaxCNN(norm="instance"), "unknown norm"),
        (lambda: HadamaxCNN(norm="batch"), "norm 'batch' is for state vectors"),
        (lambda: NatureCNN(norm="batch"), "norm 'batch' is for state vectors"),
        (lambda: NatureCNN(pool="max"), "unknown encoder pool"),
        (lambda: make_encoder(EncoderConfig(kind="impala"), (8,), is_image=False), "needs image observations"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def same_padded(x, kernel, stride, value):
    """XLA's SAME, written out: ceil(side / stride) outputs, half the padding before and the rest after."""
    for axis in (2, 3):
        side = x.shape[axis]
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        shape = list(x.shape)
        parts = []
        for length in (total // 2, total - total // 2):
            shape[axis] = length
            parts.append(torch.full(shape, value, dtype=x.dtype))
        x = torch.cat([parts[0], x, parts[1]], dim=axis)
    return x


@pytest.mark.parametrize(("shape", "features"), [((4, 84, 84), 7744), ((3, 21, 10), 64 * 3 * 2), ((1, 13, 8), 64 * 2)])
def test_hadamax_is_the_published_jax_network(shape, features):
    """Against the layers written out in float64: windows one by one, LayerNorm over the channels of every place."""
    torch.manual_seed(0)
    encoder = HadamaxCNN(shape)
    assert encoder.out_features == features
    for norm in (module for module in encoder.modules() if isinstance(module, nn.LayerNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    pixels = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    x = pixels.double() / 255
    for block, (kernel, pool, stride) in zip(encoder.layers, ((8, 4, 4), (4, 2, 2), (3, 3, 1)), strict=True):
        branches = []
        for conv, norm in ((block.conv_a, block.norm_a), (block.conv_b, block.norm_b)):
            h = F.conv2d(same_padded(x, kernel, 1, 0.0), conv.weight.double(), conv.bias.double())
            mean, variance = h.mean(1, keepdim=True), h.var(1, keepdim=True, unbiased=False)
            scale, shift = (one.double()[:, None, None] for one in (norm.weight, norm.bias))
            h = (h - mean) / (variance + 1e-6).sqrt() * scale + shift
            branches.append(h * 0.5 * (1 + torch.erf(h / math.sqrt(2))))
        windows = same_padded(branches[0] * branches[1], pool, stride, -math.inf)
        x = windows.unfold(2, pool, stride).unfold(3, pool, stride).amax((4, 5))
    torch.testing.assert_close(encoder(pixels).double(), x.flatten(1), rtol=1e-3, atol=1e-3)


def test_hadamax_has_the_published_sizes_and_first_weights():
    torch.manual_seed(0)
    encoder = HadamaxCNN()
    convolutions = 4 * 32 * 8 * 8 + 32 + 32 * 64 * 4 * 4 + 64 + 64 * 64 * 3 * 3 + 64
    assert parameter_count(encoder) == parameter_count(HadamaxCNN) == 2 * (convolutions + 2 * (32 + 64 + 64))
    for conv in (module for module in encoder.modules() if isinstance(module, nn.Conv2d)):
        places = conv.kernel_size[0] ** 2
        xavier = math.sqrt(2 / (places * (conv.in_channels + conv.out_channels)))
        assert conv.weight.std().item() == pytest.approx(xavier, rel=0.05)
        assert not conv.bias.any()
    assert isinstance(encoder.layers[0].activation_a, nn.GELU)
    assert not any(isinstance(module, nn.LayerNorm) for module in HadamaxCNN(norm="none").modules())


@pytest.mark.parametrize("encoder", CNNS)
def test_an_average_pool_gives_the_mean_of_every_channel(encoder):
    torch.manual_seed(0)
    flat = encoder()
    torch.manual_seed(0)
    pooled = encoder(pool="average")
    assert all(map(torch.equal, flat.parameters(), pooled.parameters()))  # it draws nothing
    x = torch.rand(2, 4, 84, 84)
    maps = flat(x).unflatten(1, (pooled.out_features, -1))
    torch.testing.assert_close(pooled(x), maps.double().mean(2).float())
    assert pooled.out_features == {NatureCNN: 64, ImpalaCNN: 32, HadamaxCNN: 64}[encoder]


@pytest.mark.parametrize("encoder", CNNS)
@pytest.mark.parametrize("pool", ["none", "average"])
def test_the_memory_layout_of_the_input_changes_nothing(encoder, pool):
    torch.manual_seed(0)
    network, x = encoder((3, 40, 44), pool=pool), torch.rand(2, 3, 40, 44)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), network(x))
    pixels = torch.randint(0, 256, (2, 3, 40, 44), dtype=torch.uint8)
    torch.testing.assert_close(network(pixels.contiguous(memory_format=torch.channels_last)), network(pixels))


@pytest.mark.parametrize("encoder", CNNS)
def test_the_meta_device_gives_the_same_shapes(encoder):
    with torch.device("meta"):
        network = encoder(pool="average")
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network(torch.empty(2, 4, 84, 84, device="meta")).shape == (2, network.out_features)


def test_the_nature_cnn_draws_one_orthogonal_matrix_a_layer():
    """In this order, and after torch's own first weights: runs of earlier versions begin with the same weights."""
    torch.manual_seed(3)
    encoder = NatureCNN()
    torch.manual_seed(3)
    for number, (inputs, outputs, kernel) in enumerate(((4, 32, 8), (32, 64, 4), (64, 64, 3)), start=1):
        layer = nn.Conv2d(inputs, outputs, kernel)
        nn.init.orthogonal_(layer.weight, math.sqrt(2))
        assert torch.equal(getattr(encoder.layers, f"conv{number}").weight, layer.weight)


def test_encoders_by_name():
    make = lambda **options: make_encoder(EncoderConfig(**options), (4, 84, 84), is_image=True)  # noqa: E731
    assert isinstance(make(kind="hadamax"), HadamaxCNN)
    assert isinstance(make(kind="hadamax").layers[0].activation_a, nn.GELU)
    assert isinstance(make(kind="hadamax", activation="relu").layers[0].activation_a, nn.ReLU)
    assert isinstance(make().layers.activation1, nn.ReLU)
    assert make(kind="impala", pool="average").out_features == 32
    assert make(size="large", pool="average").out_features == 128


@pytest.mark.parametrize(("encoder", "features"), [(NatureCNN, 3136), (ImpalaCNN, 2 * 3872), (HadamaxCNN, 7744)])
def test_crelu_doubles_channels(encoder, features):
    """Halved before, but in the Impala CNN, whose residual stream keeps its channels until the end."""
    network = encoder(activation="crelu")
    assert network(torch.rand(2, 4, 84, 84)).shape == (2, network.out_features) == (2, features)

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.networks import EncoderConfig, ImpalaCNN, NatureCNN, QNetwork, TorsoConfig, VectorEncoder, make_encoder


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


@pytest.mark.parametrize("encoder", [NatureCNN(), ImpalaCNN()])
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
        (lambda: make_encoder(EncoderConfig(kind="impala"), (8,), is_image=False), "needs image observations"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(("encoder", "features"), [(NatureCNN, 3136), (ImpalaCNN, 2 * 3872)])
def test_crelu_doubles_channels(encoder, features):
    """Halved before, in the Nature CNN; the residual stream of the Impala CNN keeps its channels until the end."""
    network = encoder(activation="crelu")
    assert network(torch.rand(2, 4, 84, 84)).shape == (2, network.out_features) == (2, features)

"""The paper's convolutions beside a plain stack of torch's layers, and the standardisation beside NumPy."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig, parameter_count
from stablegrad.supervised import CifarCNN, Classifier, ImageEncoderConfig, SupervisedConfig, load_data
from stablegrad.supervised.network import channel_statistics


def papers_cnn(norm):
    def stage(inside, middle, outside, groups):
        return [
            nn.Conv2d(inside, middle, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(middle, outside, 3, padding=1),
            nn.ReLU(),
            *([nn.GroupNorm(groups, outside)] if norm else []),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.2),
        ]

    layers = stage(3, 32, 64, 8) + stage(64, 64, 128, 16) + stage(128, 128, 128, 16)
    return nn.Sequential(*layers, nn.Flatten())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_six_convolutions_are_the_papers(norm, training):
    ours, theirs = CifarCNN((3, 32, 32), norm=norm).train(training), papers_cnn(norm).train(training)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    with torch.no_grad():
        for own, other in pairs:
            other.copy_(own)
    x = torch.randn(4, 3, 32, 32)
    torch.manual_seed(0)
    expected = theirs(x)
    torch.manual_seed(0)
    torch.testing.assert_close(ours(x), expected)
    assert expected.shape == (4, 2048)
    assert ours.out_features == 2048


def test_convolutions_are_orthogonal():
    weight = CifarCNN((3, 32, 32)).conv4.weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(128), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("shape", "features"), [((1, 28, 28), 1152), ((1, 8, 8), 128), ((3, 9, 17), 256)])
def test_out_features_of_other_images(shape, features):
    encoder = CifarCNN(shape)
    assert encoder.out_features == features == encoder(torch.zeros(2, *shape)).shape[1]


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UsageError, match="sides of at least 8 pixels, got 7 x 9"):
        CifarCNN((1, 7, 9))


def test_channel_statistics_are_numpys():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 5, 4), dtype=np.uint8))
    images[:, 2] = 9
    mean, std = channel_statistics(images)
    pixels = images.numpy().astype(float)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, [*pixels.std(axis=(0, 2, 3))[:2], 1.0], rtol=1e-6)


def test_the_classifier_sees_standardised_pixels():
    data = load_data("digits")
    network = Classifier(SupervisedConfig(), data)
    pixels = network.standardize(data.train_images)
    assert abs(pixels.mean()) < 1e-5
    assert pixels.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    # Statistics are of the training images, and part of what is saved.
    np.testing.assert_allclose(network.state_dict()["standardize.mean"], data.train_images.double().mean(), rtol=1e-6)
    assert network(data.test_images[:5]).shape == (5, 10)


def test_digits_have_the_torso_alone_and_other_images_the_cnn(images_folder):
    digits, images = load_data("digits"), load_data(str(images_folder))
    assert isinstance(Classifier(SupervisedConfig(), digits).encoder, nn.Flatten)
    assert isinstance(Classifier(SupervisedConfig(), images).encoder, CifarCNN)
    cnn, none = (SupervisedConfig(encoder=ImageEncoderConfig(kind=kind)) for kind in ("cnn", "none"))
    assert Classifier(cnn, digits).encoder.out_features == 128
    assert Classifier(none, images).torso.layers[0].linear.in_features == 72


def test_group_norm_follows_the_torso_unless_it_is_named(images_folder):
    data = load_data(str(images_folder))

    def norms(torso, encoder):
        config = SupervisedConfig(torso=TorsoConfig(norm=torso), encoder=ImageEncoderConfig(norm=encoder))
        return sum(isinstance(module, nn.GroupNorm) for module in Classifier(config, data).modules())

    assert [norms("layer", "auto"), norms("none", "auto")] == [3, 0]
    assert [norms("layer", "none"), norms("none", "group")] == [0, 3]


@pytest.mark.parametrize("change", [{"norm": "group"}, {"norm": "none"}, {"dropout": 0.1}])
def test_options_of_the_cnn_without_it_are_refused(change):
    config = SupervisedConfig(encoder=dataclasses.replace(ImageEncoderConfig(), **change))
    with pytest.raises(UsageError, match="are for the cnn encoder"):
        Classifier(config, load_data("digits"))


def test_the_network_can_be_counted_without_memory():
    config = SupervisedConfig(torso=TorsoConfig(depth="xlarge", width="xlarge", out_features=512, norm="none"))
    data = load_data("digits")
    linear = 64 * 5120 + 20 * 5120**2 + 5120 * 512 + 512 * 10
    bias = 21 * 5120 + 512 + 10
    assert parameter_count(lambda: Classifier(config, data)) == linear + bias

import pytest
import torch
from torch import nn

from stablegrad.networks import DuelingHead, EncoderConfig, QNetwork, TorsoConfig


def make(**options):
    torch.manual_seed(0)
    torso = options.pop("torso", TorsoConfig(depth=0, width=8, norm="none"))
    return QNetwork((4,), 3, encoder=EncoderConfig(), torso=torso, is_image=False, **options)


@pytest.mark.parametrize("num_atoms", [1, 5])
def test_a_dueling_head_is_value_plus_advantage_over_its_mean(num_atoms):
    torch.manual_seed(0)
    head = DuelingHead(8, 3, num_atoms)
    features = torch.randn(6, 8)
    outputs = head(features).view(6, 3, num_atoms)
    for row in range(6):
        value = head.value(features[row : row + 1])[0]
        advantage = head.advantage(features[row : row + 1])[0].view(3, num_atoms)
        for action in range(3):
            for atom in range(num_atoms):
                mean = sum(advantage[other, atom] for other in range(3)) / 3
                expected = value[atom] + advantage[action, atom] - mean
                torch.testing.assert_close(outputs[row, action, atom], expected)
    torch.testing.assert_close(outputs.mean(dim=1), head.value(features))


def test_its_streams_are_as_wide_as_the_features_with_the_torsos_norm_and_activation():
    network = make(dueling=True, torso=TorsoConfig(depth=0, width=8, norm="layer", activation="crelu"))
    for stream, outputs in ((network.head.value, 1), (network.head.advantage, 3)):
        assert [type(layer).__name__ for layer in stream] == ["Linear", "LayerNorm", "CReLU", "Linear"]
        assert (stream[0].in_features, stream[3].in_features, stream[3].out_features) == (8, 8, outputs)
    plain = make(dueling=True)
    assert not any(isinstance(module, nn.LayerNorm) for module in plain.modules())


@pytest.mark.parametrize("dueling", [False, True])
def test_distributions_are_logits_of_each_action(dueling):
    network, x = make(dueling=dueling, num_atoms=5), torch.randn(6, 4)
    assert network(x).shape == (6, 3, 5)
    torch.testing.assert_close(network(x).flatten(1), network.head(network.torso(x)))
    assert make(dueling=dueling)(x).shape == (6, 3)


def test_without_options_it_is_the_network_it_was():
    network, x = make(), torch.randn(6, 4)
    assert type(network.head) is nn.Linear
    torch.testing.assert_close(network(x), network.head(network.torso(x)))

"""The dueling head: values of actions as the value of the state plus advantages."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from stablegrad.networks.layers import channels_before, linear, make_activation, make_norm


class DuelingHead(nn.Module):
    r"""Two streams of one hidden layer each, :math:`Q(s, a) = V(s) + A(s, a) - \frac1n \sum_{a'} A(s, a')`.

    Wang et al. 2016 (arXiv 1511.06581, eq. 9); of distributions the logits are added so, atom by atom (Hessel et al.
    2018). Hidden layers are as wide as the features.

    Args:
        in_features: size of the input.
        num_actions: actions.
        num_atoms: outputs of each action.
        norm: "layer" or "none", after the hidden layers.
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
    """

    def __init__(
        self, in_features: int, num_actions: int, num_atoms: int = 1, *, norm: str = "none", activation: str = "relu"
    ):
        super().__init__()
        self.num_atoms = num_atoms
        self.value = _stream(in_features, num_atoms, norm, activation)
        self.advantage = _stream(in_features, num_actions * num_atoms, norm, activation)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, num_actions * num_atoms]``, atoms of an action side by side."""
        value = self.value(features).unsqueeze(1)
        advantage = self.advantage(features).unflatten(1, (-1, self.num_atoms))
        return (value + advantage - advantage.mean(dim=1, keepdim=True)).flatten(1)


def _stream(in_features: int, outputs: int, norm: str, activation: str) -> nn.Sequential:
    units = channels_before(activation, in_features)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        hidden=linear(in_features, units),
        norm=make_norm(norm, units),
        activation=make_activation(activation, overwrites=True),
        output=linear(in_features, outputs),
    )
    return nn.Sequential(layers)

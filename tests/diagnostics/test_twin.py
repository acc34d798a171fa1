import pytest
import torch
from torch import nn

from stablegrad.diagnostics.twin import healthy_twin
from stablegrad.errors import UsageError


@pytest.mark.parametrize(("shape", "width"), [((8,), 128), ((3, 5), 128), ((4, 84, 84), 37), ((3, 512, 512), 32)])
def test_two_hidden_layers_normed_and_orthogonal(shape, width):
    twin = healthy_twin(shape, 5)
    layers = [module for module in twin.modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in layers] == [width, width, 5]
    assert sum(isinstance(module, nn.LayerNorm) for module in twin.modules()) == 2
    rows = layers[1].weight
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(width), atol=1e-4, rtol=0)
    assert twin(torch.randint(0, 256, (2, *shape), dtype=torch.uint8)).shape == (2, 5)


def test_inputs_are_brought_to_scale():
    torch.manual_seed(0)
    twin = healthy_twin((4,), 2)
    scaled = healthy_twin((4,), 2, mean=torch.full((4,), 1000.0), deviation=50.0)
    scaled.load_state_dict({**twin.state_dict(), "0.mean": torch.full((4,), 1000.0), "0.deviation": torch.tensor(50.0)})
    x = torch.randn(3, 4)
    torch.testing.assert_close(scaled(1000 + 50 * x), twin(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shape", "outputs"), [((0,), 2), ((4,), 0)])
def test_nothing_to_learn_from(shape, outputs):
    with pytest.raises(UsageError, match="needs inputs and outputs"):
        healthy_twin(shape, outputs)

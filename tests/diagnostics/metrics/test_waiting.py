"""What is measured at every look must not make the host wait for the device.

Tensors on the meta device have no values: whatever reads one on the host, or a shape that depends on values, raises.
"""

import pytest
import torch

from stablegrad.diagnostics import metrics

LAYER_OF = [0, -1, 1]


def per_layer(device):
    return (torch.ones(2, device=device) for _ in range(3))


def parameters(device):
    return [torch.ones(shape, device=device) for shape in ((3, 4), (5,), (2, 2, 2))]


HOT = {
    "layer_norms": lambda d: metrics.layer_norms(parameters(d), torch.tensor(LAYER_OF, device=d), 2),
    "layer_norms, mapping on the host": lambda d: metrics.layer_norms(parameters(d), torch.tensor(LAYER_OF), 2),
    "layer_dots": lambda d: metrics.layer_dots(parameters(d), parameters(d), torch.tensor(LAYER_OF, device=d), 2),
    "cosine": lambda d: metrics.cosine(*per_layer(d)),
    "signal_to_noise": lambda d: metrics.signal_to_noise(*per_layer(d)),
    "update_ratio": lambda d: metrics.update_ratio(*list(per_layer(d))[:2]),
    "effective_learning_rate": lambda d: metrics.effective_learning_rate(*list(per_layer(d))[:2]),
    "unit_mean_abs": lambda d: metrics.unit_mean_abs(torch.ones(2, 3, 4, 5, device=d)),
    "dormant_fraction": lambda d: metrics.dormant_fraction(torch.ones(3, device=d)),
    "gradient_dormant_fraction": lambda d: metrics.gradient_dormant_fraction(torch.ones(3, device=d)),
    "dead_fraction": lambda d: metrics.dead_fraction(torch.ones(3, device=d)),
    "saturated_fraction": lambda d: metrics.saturated_fraction(torch.ones(3, 2, device=d), -1, 1),
    "policy_churn": lambda d: metrics.policy_churn(torch.ones(3, 2, device=d), torch.ones(3, 2, device=d)),
    "action_churn": lambda d: metrics.action_churn(torch.ones(3, 2, device=d), torch.ones(3, 2, device=d)),
    "gaussian_churn": lambda d: metrics.gaussian_churn(torch.ones(3, 2, device=d), torch.ones(3, 2, device=d)),
    "tanh_gaussian_churn": lambda d: metrics.tanh_gaussian_churn(
        torch.ones(3, 2, device=d), torch.ones(3, 2, device=d)
    ),
    "churn_split": lambda d: metrics.churn_split(*(torch.ones(3, 2, device=d) for _ in range(4)))[1],
    "value_statistics": lambda d: metrics.value_statistics(torch.ones(3, device=d)),
    "target_drift": lambda d: metrics.target_drift(torch.ones(3, device=d), torch.ones(3, device=d)),
    "explained_variance": lambda d: metrics.explained_variance(torch.ones(3, device=d), torch.ones(3, device=d)),
    "srank": lambda d: metrics.srank(torch.ones(3, device=d)),
    "effective_rank": lambda d: metrics.effective_rank(torch.ones(3, device=d)),
    "feature_rank": lambda d: metrics.feature_rank(torch.ones(3, device=d), 5),
}


@pytest.mark.parametrize("name", HOT)
def test_no_value_is_read_on_the_host(name):
    found = HOT[name](torch.device("meta"))
    assert found.device.type == "meta"
    assert found.shape == HOT[name](torch.device("cpu")).shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", HOT)
def test_the_host_waits_for_no_cuda_device(name):
    device = torch.device("cuda")
    expected = HOT[name](torch.device("cpu"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = HOT[name](device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected, equal_nan=True)

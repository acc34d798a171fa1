import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations as torchs

from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig, make_torso, parameter_count
from stablegrad.networks.parametrizations import erdos_renyi_densities
from stablegrad.optimizers import OPTIMIZERS, OptimizerConfig
from stablegrad.optimizers.config import KronConfig

TORSOS = ("mlp", "residual", "multi_skip", "densenet")
SPECTRAL, PRUNED = {"spectral_norm": True}, {"sparsity": 0.75}


def make(kind="mlp", seed=0, depth=1, width=16, **options):
    torch.manual_seed(seed)
    return make_torso(TorsoConfig(kind=kind, depth=depth, width=width, **options), 12)


def linears(network):
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def buffers(network):
    return [buffer.clone() for buffer in network.buffers()]


def trained(network, steps=5, **options):
    optimizer = OptimizerConfig(**{"name": "adam", "learning_rate": 1e-2, **options}).build(network)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(8, 12, generator=generator)).square().mean().backward()
        optimizer.step()
    return network


@pytest.mark.parametrize("options", [SPECTRAL, PRUNED])
@pytest.mark.parametrize("kind", TORSOS)
def test_first_weights_are_those_of_the_plain_torso(kind, options):
    plain, other = make(kind), make(kind, **options)
    assert parameter_count(plain) == parameter_count(other)
    assert parameter_count(lambda: make(kind, **options)) == parameter_count(plain)  # on the meta device
    for one, layer in zip(linears(plain), linears(other), strict=True):
        stored = layer.parametrizations.weight.original
        expected = one.weight * layer.parametrizations.weight[0].mask if "sparsity" in options else one.weight
        assert torch.equal(stored, expected)
        assert torch.equal(layer.bias, one.bias)


def test_a_copy_and_a_loaded_state_are_the_same_network_and_go_on_by_themselves():
    network = trained(make("multi_skip", **SPECTRAL, **PRUNED))
    network.eval()
    x = torch.randn(4, 12)
    copied, loaded = copy.deepcopy(network), make("multi_skip", seed=9, **SPECTRAL, **PRUNED).eval()
    assert not torch.equal(loaded(x), network(x))
    loaded.load_state_dict(network.state_dict())
    for other in (copied, loaded):
        assert torch.equal(other(x), network(x))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
    assert network(x).any()


# -- spectral norm


def test_the_largest_singular_value_is_one_at_first_and_while_it_is_trained():
    network = make("mlp", norm="none", **SPECTRAL)
    for steps in (0, 200):
        trained(network, steps, learning_rate=1e-3)
        for layer in linears(network.eval()):
            assert torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item() == pytest.approx(1.0, abs=0.02)
        network.train()
    stored = linears(network)[0].parametrizations.weight.original
    assert torch.linalg.matrix_norm(stored.detach(), 2) > 1.1  # of the weights that are trained it is not


def test_passes_and_gradients_are_those_of_torchs_spectral_norm():
    """The same singular vectors at first, and then pass by pass."""
    own = make("mlp", norm="none", **SPECTRAL)
    theirs = make("mlp", norm="none")
    for layer in linears(theirs):
        torchs.spectral_norm(layer)
    for ours, other in zip(linears(own), linears(theirs), strict=True):
        kept, reference = ours.parametrizations.weight[0], other.parametrizations.weight[0]
        kept.u.copy_(reference._u)
        kept.v.copy_(reference._v)
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in (own, theirs)]
    for step in range(5):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
        for network, optimizer in zip((own, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (network(x) - 1).square().mean().backward()
            optimizer.step()
        for ours, other in zip(own.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours, other)
            torch.testing.assert_close(ours.grad, other.grad)


def test_only_passes_that_are_trained_on_move_the_singular_vectors():
    network = trained(make("multi_skip", **SPECTRAL))
    x = torch.randn(4, 12)
    before = buffers(network)
    with torch.no_grad():
        first = network(x)
        assert torch.equal(network(x), first)
    network.eval()
    network(x).sum().backward()
    assert all(map(torch.equal, network.buffers(), before))
    network.train()
    network(x)
    assert not all(map(torch.equal, network.buffers(), before))


def test_two_passes_may_wait_for_their_backward_passes():
    network = make("mlp", **SPECTRAL)
    x = torch.randn(4, 12)
    first, second = network(x).square().mean(), network(-x).square().mean()
    (first + second).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_singular_vectors_stay_in_float32_under_autocast():
    network = make("mlp", norm="none", **SPECTRAL)
    plain = copy.deepcopy(network)
    x = torch.randn(8, 12)
    with torch.autocast("cpu", torch.bfloat16):
        network(x)
    plain(x)
    for one, other in zip(network.buffers(), plain.buffers(), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_weights_that_are_all_zero_stay_finite():
    network = make("mlp", **SPECTRAL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    network(torch.randn(4, 12)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


# -- random pruning


@given(
    shapes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=6),
    sparsity=st.floats(0.0, 0.99),
)
@settings(deadline=None)
def test_densities_are_erdos_renyis(shapes, sparsity):
    """Against bisection for the scale at which the layers, none above 1, keep what they should."""
    densities = erdos_renyi_densities(shapes, sparsity)
    wanted = (1 - sparsity) * sum(n * m for n, m in shapes)
    low, high = 0.0, float(300 * 300)
    for _ in range(200):
        scale = (low + high) / 2
        kept = sum(min(n * m, scale * (n + m)) for n, m in shapes)
        low, high = (scale, high) if kept < wanted else (low, scale)
    assert densities == pytest.approx([min(1.0, high * (n + m) / (n * m)) for n, m in shapes], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", TORSOS)
def test_the_fraction_that_is_asked_for_is_removed(kind, sparsity):
    network = make(kind, depth=2, width=32, sparsity=sparsity)
    weights = [layer.weight for layer in linears(network)]
    total, removed = sum(one.numel() for one in weights), sum(int((one == 0).sum()) for one in weights)
    assert removed == pytest.approx(sparsity * total, abs=len(weights))  # each layer is rounded
    other = [layer.weight for layer in linears(make(kind, seed=1, depth=2, width=32, sparsity=sparsity))]
    assert not all(torch.equal(one == 0, two == 0) for one, two in zip(weights, other, strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", [*OPTIMIZERS, "classic"])
def test_removed_weights_stay_exactly_zero_and_the_others_learn(name, weight_decay):
    network = make("multi_skip", **PRUNED)
    before = [(layer.weight.detach().clone(), layer.weight == 0) for layer in linears(network)]
    options = {"name": name}
    if name == "classic":
        options = {"name": "kron", "kron": KronConfig(rule="classic")}
    trained(network, steps=4, weight_decay=weight_decay, l2=weight_decay, **options)
    for layer, (first, removed) in zip(linears(network), before, strict=True):
        for weight in (layer.weight, layer.parametrizations.weight.original):
            assert torch.equal(weight == 0, removed)
        assert (layer.weight != first).any()


def test_gradients_are_those_of_a_network_whose_weights_were_set_to_zero():
    pruned, plain = make("residual", **PRUNED), make("residual")
    for layer, other in zip(linears(plain), linears(pruned), strict=True):
        with torch.no_grad():
            layer.weight.copy_(other.weight)
    x = torch.randn(6, 12)
    assert torch.equal(pruned(x), plain(x))
    for network in (pruned, plain):
        network(x).square().sum().backward()
    for layer, other in zip(linears(plain), linears(pruned), strict=True):
        mask = other.parametrizations.weight[0].mask
        assert torch.equal(other.parametrizations.weight.original.grad, layer.weight.grad * mask)
        assert (~mask).any()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, math.nan])
def test_impossible_sparsities(sparsity):
    with pytest.raises(UsageError, match="sparsity must be at least 0 and below 1"):
        TorsoConfig(sparsity=sparsity)

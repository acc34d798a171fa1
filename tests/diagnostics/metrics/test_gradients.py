import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.diagnostics import metrics

seeds = st.integers(0, 2**31)
scales = st.floats(-4, 4).map(lambda exponent: 10.0**exponent)


def vectors(seed, count, size=6):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def parameters(draw, dtype=torch.float64):
    """Two tensors a parameter, of odd shapes, and the layer of each; some layers are empty, some parameters in none."""
    num_layers = draw(st.integers(1, 4))
    shapes = draw(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=8))
    layer_of = draw(st.lists(st.integers(-1, num_layers - 1), min_size=len(shapes), max_size=len(shapes)))
    generator = torch.Generator().manual_seed(draw(seeds))
    a, b = ([torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes] for _ in "ab")
    return a, b, layer_of, num_layers


@given(parameters())
@settings(deadline=None)
def test_layers_are_those_of_the_concatenated_vectors(drawn):
    a, b, layer_of, num_layers = drawn
    norms = metrics.layer_norms(a, torch.tensor(layer_of), num_layers)
    dots = metrics.layer_dots(a, b, torch.tensor(layer_of), num_layers)
    assert norms.shape == dots.shape == (num_layers,)
    for layer in range(num_layers):
        x, y = (
            np.concatenate(
                [np.empty(0)] + [one.numpy().ravel() for one, of in zip(ts, layer_of, strict=True) if of == layer]
            )
            for ts in (a, b)
        )
        assert float(norms[layer]) == pytest.approx(np.linalg.norm(x), rel=1e-12)
        assert float(dots[layer]) == pytest.approx(np.inner(x, y), rel=1e-10, abs=1e-12)


@given(parameters(), st.randoms(use_true_random=False), scales)
@settings(deadline=None)
def test_order_of_parameters_does_not_matter_and_scale_passes_through(drawn, random, scale):
    a, b, layer_of, num_layers = drawn
    order = list(range(len(a)))
    random.shuffle(order)
    shuffled = torch.tensor([layer_of[i] for i in order])
    norms = metrics.layer_norms(a, torch.tensor(layer_of), num_layers)
    dots = metrics.layer_dots(a, b, torch.tensor(layer_of), num_layers)
    torch.testing.assert_close(metrics.layer_norms([scale * a[i] for i in order], shuffled, num_layers), scale * norms)
    again = metrics.layer_dots([scale * a[i] for i in order], [b[i] for i in order], shuffled, num_layers)
    torch.testing.assert_close(again, scale * dots, rtol=1e-7, atol=1e-9 * scale)
    assert torch.all(dots.abs() <= norms * metrics.layer_norms(b, torch.tensor(layer_of), num_layers) * (1 + 1e-12))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    """A norm of 65504 and more is infinite in float16, and a sum of many ones stops at 256 in bfloat16."""
    ones, large = torch.ones(3000, dtype=dtype), torch.full((4,), 60000.0).to(dtype)
    layer_of = torch.tensor([0, 1])
    norms = metrics.layer_norms([ones, large], layer_of, 2)
    dots = metrics.layer_dots([ones, large], [ones, large], layer_of, 2)
    assert norms.dtype == dots.dtype == torch.float32
    expected = torch.tensor([3000**0.5, 2 * float(large[0])])
    torch.testing.assert_close(norms, expected)
    torch.testing.assert_close(dots, expected.square())


def test_memory_layout_does_not_matter():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, 5, 6)
    layer_of = torch.tensor([0])
    turned = [a.to(memory_format=torch.channels_last)]
    torch.testing.assert_close(metrics.layer_dots(turned, [b], layer_of, 1), (a * b).sum()[None])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_layer(bad):
    norms = metrics.layer_norms([torch.tensor([3.0, 4.0]), torch.tensor([bad])], torch.tensor([0, 1]), 2)
    assert norms[0] == 5
    assert not norms[1].isfinite()


def test_gradients_of_a_network_add_up_to_torchs_total_norm():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    network(torch.randn(4, 5)).square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    norms = metrics.layer_norms(gradients, torch.tensor([0, 0, 1, 1]), 2)
    total = nn.utils.get_total_norm(gradients)
    torch.testing.assert_close(torch.linalg.vector_norm(norms), total)
    assert not norms.requires_grad


@given(seeds, scales, scales)
@settings(deadline=None)
def test_cosine_is_that_of_torch_and_knows_no_scale(seed, s, t):
    a, b = vectors(seed, 2)
    a, b = s * a, t * b
    cosine = metrics.cosine(a.norm(), b.norm(), a @ b)
    torch.testing.assert_close(cosine, torch.nn.functional.cosine_similarity(a / s, b / t, dim=0))
    torch.testing.assert_close(metrics.cosine(a.norm(), b.norm(), -(a @ b)), -cosine)


@given(seeds, scales)
@settings(deadline=None)
def test_cosine_stays_within_its_bounds(seed, scale):
    a = vectors(seed, 1)[0].float()
    b = a * scale
    for sign in (1, -1):
        cosine = float(metrics.cosine(a.norm(), b.norm(), sign * (a @ b)))
        assert -1 <= cosine <= 1
        assert cosine == pytest.approx(sign, abs=1e-5)


def test_no_direction_has_no_cosine():
    zero, one, huge, tiny = (torch.tensor(value) for value in (0.0, 1.0, float("inf"), 1e-20))
    for norm_a, norm_b, dot in ((zero, one, zero), (zero, zero, zero), (huge, one, one), (tiny, tiny, zero)):
        assert metrics.cosine(norm_a, norm_b, dot).isnan()
    by_layer = metrics.cosine(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]), torch.tensor([0.0, 3.0]))
    assert by_layer.isnan().tolist() == [True, False]
    assert by_layer[1] == 0.5


@given(seeds, st.integers(1, 64), scales)
@settings(deadline=None)
def test_signal_to_noise_is_the_noise_scale_of_mccandlish(seed, batch, scale):
    """From their formulas (A.2, A.3) with |G| of a small and a big batch: B / B_simple."""
    a, b = scale * vectors(seed, 2)
    small, big = (a @ a + b @ b) / 2, ((a + b) / 2) @ ((a + b) / 2)
    squared_signal = (2 * batch * big - batch * small) / (2 * batch - batch)
    covariance_trace = (small - big) / (1 / batch - 1 / (2 * batch))
    ratio = metrics.signal_to_noise(a.norm(), b.norm(), a @ b)
    torch.testing.assert_close(ratio, batch / (covariance_trace / squared_signal), rtol=1e-8, atol=1e-10)
    assert ratio >= -0.5 - 1e-12


def test_signal_and_noise_are_those_of_the_truth():
    """Many entries, so that the ratio of a single pair is near |mu|^2 / tr Sigma already."""
    generator = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(500, generator=generator), torch.linspace(0.5, 3, 500)
    truth = float(mu.square().sum() / sigma.square().sum())
    for signal, expected in ((mu, truth), (0 * mu, 0.0)):
        first, second = signal + sigma * torch.randn(2, 2000, 500, generator=generator)
        ratio = metrics.signal_to_noise(first.norm(dim=1), second.norm(dim=1), (first * second).sum(1))
        assert float(ratio.mean()) == pytest.approx(expected, abs=0.01)
    assert float((ratio < 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_without_noise_there_is_no_ratio():
    a = torch.tensor([3.0, 4.0])
    assert metrics.signal_to_noise(a.norm(), a.norm(), a @ a).isnan()
    rounded = torch.nextafter(a @ a, torch.tensor(0.0))
    assert metrics.signal_to_noise(a.norm(), a.norm(), rounded).isnan()
    assert metrics.signal_to_noise(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)).isnan()
    assert metrics.signal_to_noise(torch.tensor(float("inf")), torch.tensor(1.0), torch.tensor(1.0)).isnan()
    opposite = metrics.signal_to_noise(a.norm(), a.norm(), -(a @ a))
    assert float(opposite) == pytest.approx(-0.5)


@given(st.floats(0, 1e3), st.floats(1e-3, 1e3), scales)
@settings(deadline=None)
def test_update_ratio_is_a_ratio(update, weight, scale):
    ratio = metrics.update_ratio(torch.tensor(update * scale), torch.tensor(weight * scale))
    assert float(ratio) == pytest.approx(update / weight, rel=1e-5)


def test_zero_weights_have_neither_ratio_nor_rate():
    weights = torch.tensor([0.0, 2.0])
    assert metrics.update_ratio(torch.tensor([1.0, 1.0]), weights).tolist()[1] == 0.5
    assert metrics.update_ratio(torch.tensor([1.0, 1.0]), weights)[0].isnan()
    rates = metrics.effective_learning_rate(torch.tensor(0.1), weights)
    assert rates[0].isnan()
    assert float(rates[1]) == pytest.approx(0.025)


@given(seeds, st.floats(0.2, 5))
@settings(deadline=None, max_examples=25)
def test_effective_learning_rate_tells_how_far_a_normalised_layer_moves(seed, scale):
    """Weights c times as long with a rate c^2 as large take the same step in function space: one effective rate."""
    assume(abs(scale - 1) > 1e-3)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    start = torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def normalised(output):
        return (output - output.mean(0)) / output.std(0)

    def outputs_after_a_step(weight, rate):
        weight = weight.clone().requires_grad_()
        (normalised(inputs @ weight).square() * torch.arange(8)[:, None]).sum().backward()
        return normalised(inputs @ (weight - rate * weight.grad).detach())

    torch.testing.assert_close(outputs_after_a_step(start, 0.01), outputs_after_a_step(scale * start, 0.01 * scale**2))
    plain = metrics.effective_learning_rate(torch.tensor(0.01), start.norm())
    longer = metrics.effective_learning_rate(torch.tensor(0.01 * scale**2), (scale * start).norm())
    torch.testing.assert_close(plain, longer, rtol=1e-5, atol=0)


def test_the_normalised_step_of_adams_first_is_one_and_of_sgd_the_gradients_size():
    """Adam's first step is the sign of the gradient times the rate."""
    weight = torch.nn.Parameter(torch.randn(7, 3))
    weight.grad = torch.randn(7, 3)
    before = weight.detach().clone()
    torch.optim.Adam([weight], lr=1e-3, eps=1e-12).step()
    change = (weight.detach() - before).norm()[None]
    rates, size = torch.tensor([1e-3]), torch.tensor([21.0])
    assert metrics.normalised_step(change, rates, size).item() == pytest.approx(1, rel=1e-3)
    assert metrics.normalised_step(torch.ones(3), torch.tensor([0.0, torch.nan, 1.0]), torch.ones(3)).tolist()[2] == 1
    assert metrics.normalised_step(torch.ones(2), torch.tensor([0.0, torch.nan]), torch.ones(2)).isnan().all()


@pytest.mark.parametrize(
    "layer", [torch.nn.Linear(300, 40), torch.nn.Conv2d(30, 16, 3), torch.nn.Linear(64, 64, bias=False)]
)
def test_the_gain_is_what_a_layer_makes_of_noise(layer):
    """Of inputs of mean square 1 that do not depend on each other, measured."""
    shape = (20_000, *layer.weight.shape[1:])
    if layer.bias is not None:
        torch.nn.init.zeros_(layer.bias)
    outputs = layer(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    norm = layer.weight.detach().norm()[None]
    gain = metrics.weight_gain(norm, torch.tensor([float(layer.weight.shape[0])]))
    torch.testing.assert_close(gain[0], outputs.square().mean().sqrt().detach(), rtol=0.02, atol=0)
    assert metrics.weight_gain(norm, torch.zeros(1)).isnan().all()

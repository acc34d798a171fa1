import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from stablegrad.diagnostics import metrics
from stablegrad.errors import UsageError

seeds = st.integers(0, 2**31)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(activation=nn.Tanh, dtype=torch.float64):
    """A small regression by a network far from its minimum, so that curvatures of both signs occur."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), activation(), nn.Linear(5, 4), activation(), nn.Linear(4, 2)).to(dtype)
    inputs, targets = torch.randn(20, 3, dtype=dtype), 3 * torch.randn(20, 2, dtype=dtype)
    return network, inputs, targets, lambda: F.smooth_l1_loss(network(inputs), targets)


def dense_hessian(network, inputs, targets):
    """By torch.autograd.functional from one flat vector, in float64."""
    names = [name for name, _ in network.named_parameters()]
    shapes = [one.shape for one in network.parameters()]
    inputs, targets = inputs.double(), targets.double()

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.smooth_l1_loss(functional_call(network, weights, (inputs,)), targets)

    flat = torch.cat([one.detach().double().flatten() for one in network.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def quadratic(matrix):
    """A loss whose Hessian is the symmetric ``matrix``."""
    matrix = torch.as_tensor(matrix)
    point = torch.ones(len(matrix), dtype=matrix.dtype, requires_grad=True)
    return lambda: point @ matrix @ point / 2, [point]


def symmetric(seed, size):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(size, size)))[0]
    eigenvalues = rng.normal(size=size) * 10.0 ** rng.uniform(-2, 2)
    return rotation * eigenvalues @ rotation.T, eigenvalues


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_products_are_those_of_the_dense_hessian(activation):
    network, inputs, targets, loss = problem(activation)
    hessian = dense_hessian(network, inputs, targets)
    product, gradient = metrics.hessian_vector_product(loss, network.parameters())
    columns = torch.stack([product(unit) for unit in torch.eye(len(hessian), dtype=torch.float64)])
    torch.testing.assert_close(columns, hessian, rtol=1e-8, atol=1e-10)
    expected = torch.autograd.grad(loss(), list(network.parameters()))
    torch.testing.assert_close(gradient, torch.cat([one.flatten() for one in expected]))
    assert not gradient.requires_grad


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_ends_of_the_spectrum_are_those_of_the_dense_hessian(activation, dtype, tolerance):
    network, inputs, targets, loss = problem(activation, dtype)
    spectrum = np.linalg.eigvalsh(dense_hessian(network, inputs, targets).numpy())
    assert spectrum[0] < -0.01, "the point should have a direction of negative curvature"
    smallest, largest = metrics.extreme_eigenvalues(loss, network.parameters(), 30, generator())
    for found, exact in ((smallest, spectrum[0]), (largest, spectrum[-1])):
        assert float(found.value) == pytest.approx(exact, rel=tolerance)
        slack = tolerance * abs(exact)
        assert float(found.low) - slack <= exact <= float(found.high) + slack
        assert float(found.high - found.low) < 0.01 * abs(exact)
        assert found.value.dtype == dtype
    assert metrics.top_eigenvalue(loss, network.parameters(), 30, generator()) == largest


def test_trace_is_that_of_the_dense_hessian():
    network, inputs, targets, loss = problem()
    exact = float(dense_hessian(network, inputs, targets).trace())
    few = metrics.hessian_trace(loss, network.parameters(), 10, generator())
    many = metrics.hessian_trace(loss, network.parameters(), 1000, generator())
    assert float(many.low) < exact < float(many.high)
    assert float(many.value) == pytest.approx(exact, rel=0.05)
    assert float(many.high - many.low) < 0.3 * float(few.high - few.low)


def test_the_traces_interval_covers_as_often_as_it_says():
    matrix, _ = symmetric(0, 12)
    loss, parameters = quadratic(matrix)
    found = [metrics.hessian_trace(loss, parameters, 8, generator(seed)) for seed in range(1000)]
    covered = np.mean([float(one.low) <= np.trace(matrix) <= float(one.high) for one in found])
    assert covered == pytest.approx(0.95, abs=0.03)  # standard error 0.007; v'Hv is not quite normal
    values = [float(one.value) for one in found]
    variance = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)) / 8
    assert np.mean(values) == pytest.approx(np.trace(matrix), abs=4 * np.sqrt(variance / 1000))
    assert np.var(values) == pytest.approx(variance, rel=0.2)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), seeds)
@settings(deadline=None, max_examples=25)
def test_the_trace_of_a_diagonal_hessian_is_exact(diagonal, seed):
    loss, parameters = quadratic(np.diag(diagonal))
    trace = metrics.hessian_trace(loss, parameters, 2, generator(seed))
    np.testing.assert_allclose([float(end) for end in trace], sum(diagonal), rtol=1e-9, atol=1e-9)


def test_the_largest_is_not_the_largest_magnitude():
    """Power iteration would say -10."""
    smallest, largest = metrics.extreme_eigenvalues(*quadratic(np.diag([-10.0, 3.0, 1.0])), 3, generator())
    assert (float(smallest.value), float(largest.value)) == pytest.approx((-10, 3))


@given(seeds, st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_a_complete_space_gives_numpys_eigenvalues(seed, size):
    matrix, eigenvalues = symmetric(seed, size)
    smallest, largest = metrics.extreme_eigenvalues(*quadratic(matrix), 50, generator(seed))
    scale = np.abs(eigenvalues).max()
    assert float(smallest.value) == pytest.approx(eigenvalues.min(), abs=1e-9 * scale)
    assert float(largest.value) == pytest.approx(eigenvalues.max(), abs=1e-9 * scale)
    assert float(largest.high - largest.low) <= 1e-9 * scale


@given(seeds, st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_a_few_iterations_never_overshoot_and_their_interval_holds_an_eigenvalue(seed, iterations):
    matrix, eigenvalues = symmetric(seed, 20)
    smallest, largest = metrics.extreme_eigenvalues(*quadratic(matrix), iterations, generator(seed))
    slack = 1e-10 * np.abs(eigenvalues).max()
    assert eigenvalues.min() - slack <= float(smallest.value) <= float(largest.value) <= eigenvalues.max() + slack
    for found in (smallest, largest):
        low, high = float(found.low), float(found.high)
        assert np.any((low - slack <= eigenvalues) & (eigenvalues <= high + slack))


SPECTRA = {
    "of low rank": [1.0, 2.0, -3.0, *[0.0] * 197],
    "of two values": [1.0] * 100 + [-2.0] * 100,
    "falling fast": [*np.logspace(0, -12, 200)],
    "with outliers": [*np.linspace(-1, 1, 198), 100.0, 1000.0],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_space_stays_orthogonal(name, dtype):
    """Where an end has converged, or the space is complete, what is left of a product is mostly rounding."""
    spectrum = np.array(SPECTRA[name])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
    loss, parameters = quadratic(torch.from_numpy(rotation * spectrum @ rotation.T).to(dtype))
    smallest, largest = metrics.extreme_eigenvalues(loss, parameters, 100, generator())
    slack = 1e-5 * np.abs(spectrum).max()
    assert float(smallest.value) == pytest.approx(spectrum.min(), abs=slack)
    assert float(largest.value) == pytest.approx(spectrum.max(), abs=slack)


def test_a_complete_space_ends_it_early():
    loss, parameters = quadratic(np.diag([3.0, -2.0] + [0.0] * 50))
    products = []
    parameters[0].register_hook(products.append)
    metrics.extreme_eigenvalues(loss, parameters, 40, generator())
    assert len(products) == 1 + 3  # the gradient, and one product for each of three different eigenvalues


def test_flat_losses_have_no_curvature():
    weight, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    for loss in (lambda: weight.sum() * 2, lambda: (weight * 0).square().sum()):
        for parameters in ([weight], [weight, unused]):
            smallest, largest = metrics.extreme_eigenvalues(loss, parameters, 10, generator())
            trace = metrics.hessian_trace(loss, parameters, 3, generator())
            assert [float(end) for one in (smallest, largest, trace) for end in one] == [0.0] * 9


def test_parameters_the_loss_does_not_know_add_nothing():
    network, inputs, targets, loss = problem()
    unused = torch.ones(4, dtype=torch.float64, requires_grad=True)
    both = [*network.parameters(), unused]
    expected = np.linalg.eigvalsh(dense_hessian(network, inputs, targets).numpy())
    assert float(metrics.top_eigenvalue(loss, both, 30, generator()).value) == pytest.approx(expected[-1])


def test_nothing_else_is_touched():
    network, _, _, loss = problem()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, stream = [one.detach().clone() for one in network.parameters()], torch.get_rng_state()
    with torch.no_grad():
        estimates = [
            *metrics.extreme_eigenvalues(loss, network.parameters(), 5, generator()),
            metrics.hessian_trace(loss, network.parameters(), 5, generator()),
        ]
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(one.grad, torch.ones_like(one)) for one in network.parameters())
    assert all(torch.equal(one, old) for one, old in zip(network.parameters(), before, strict=True))
    assert not any(end.requires_grad for one in estimates for end in one)


def test_the_generator_alone_decides():
    network, _, _, loss = problem()
    for measure in (metrics.hessian_trace, metrics.top_eigenvalue):
        first, again, other = (measure(loss, network.parameters(), 3, generator(seed)) for seed in (1, 1, 2))
        assert first == again
        assert first != other


def test_a_diverged_loss_has_no_curvature():
    weight = torch.tensor([1.0, float("nan")], requires_grad=True)
    loss = lambda: weight.pow(3).sum()  # noqa: E731
    smallest, largest = metrics.extreme_eigenvalues(loss, [weight], 2, generator())
    trace = metrics.hessian_trace(loss, [weight], 2, generator())
    assert all(end.isnan() for one in (smallest, largest, trace) for end in one)


def test_the_curvature_of_a_td_loss_is_that_with_its_target_held():
    """Half the curvature is missing, or the wrong one is there, if the bootstrap value is differentiated too."""
    torch.manual_seed(0)
    value, now, later = nn.Linear(3, 1, bias=False).double(), *torch.randn(2, 10, 3, dtype=torch.float64)
    held = lambda: (value(now) - (0.9 * value(later)).detach()).square().mean()  # noqa: E731
    largest = metrics.top_eigenvalue(held, value.parameters(), 3, generator())
    assert float(largest.value) == pytest.approx(np.linalg.eigvalsh(2 * now.T.numpy() @ now.numpy() / 10)[-1])


def test_requests_that_make_no_sense_are_refused():
    weight = torch.ones(3, requires_grad=True)
    for samples in (0, 1):
        with pytest.raises(UsageError, match="samples must be at least 2"):
            metrics.hessian_trace(lambda: weight.square().sum(), [weight], samples, generator())
    with pytest.raises(UsageError, match="iterations must be at least 1"):
        metrics.top_eigenvalue(lambda: weight.square().sum(), [weight], 0, generator())
    for parameters in ([], [torch.ones(3)]):
        with pytest.raises(UsageError, match="tensors that require gradients"):
            metrics.top_eigenvalue(lambda: weight.square().sum(), parameters, 3, generator())
    with pytest.raises(UsageError, match=r"scalar .* got the shape \(3,\)"):
        metrics.top_eigenvalue(weight.square, [weight], 3, generator())
    with pytest.raises(UsageError, match="without a graph"):
        metrics.top_eigenvalue(lambda: weight.detach().sum(), [weight], 3, generator())

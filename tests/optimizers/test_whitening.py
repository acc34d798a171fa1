from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.optimizers import classic, whitening
from stablegrad.optimizers.whitening import SIDE_RULES, Factors, balance_factor, gram, norm_lower_bound, refresh


def fresh(blocks, m, n, dtype=torch.float32):
    def eye(size):
        return torch.eye(size, dtype=dtype).expand(blocks, size, size).clone()

    return Factors(eye(m), eye(n), torch.zeros(blocks, dtype=dtype), torch.zeros(blocks, dtype=dtype))


def refreshed(rule, factors, X, rate=0.1):
    blocks, m, n = X.shape
    full = torch.ones(blocks, dtype=X.dtype)
    return refresh(SIDE_RULES[rule], factors, gram(factors.Q1), gram(factors.Q2), X, full * m, full * n, rate)


def covariance(size, condition, generator):
    U, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (U * torch.logspace(0, torch.log10(torch.tensor(condition)).item(), size, dtype=torch.float64)) @ U.T


def square_root(C):
    values, U = torch.linalg.eigh(C)
    return (U * values.sqrt()) @ U.T


class KnownGradient:
    """X = A Z B, whose covariance is known, 64 x 96, of condition 9e6."""

    def __init__(self, scale=1.0, m=64, n=96):
        self.generator = torch.Generator().manual_seed(0)
        self.C1, self.C2 = covariance(m, 3e3, self.generator) * scale**2, covariance(n, 3e3, self.generator)
        self.A, self.B, self.shape = square_root(self.C1).float(), square_root(self.C2).float(), (m, n)

    def sample(self):
        return self.A @ torch.randn(self.shape, generator=self.generator) @ self.B

    def whitened(self, P1, P2):
        """log10 of the eigenvalues of the covariance of P1 X P2: all 0 where it is white."""
        first = torch.linalg.eigvals(P1.double() @ self.C1 @ P1.double().T).real
        second = torch.linalg.eigvals(P2.double() @ self.C2 @ P2.double().T).real
        return (first[:, None] * second).log10()


# Spreads (standard deviation of log10 of the whitened spectrum) after 100 / 500 / 1500 refreshes. Published witness,
# from another implementation: PRO .56 .17 .17, QUAD .57 .20 .21, EQ .98 .50 .21.
@pytest.mark.parametrize(
    ("rule", "scale", "at_100", "at_500", "at_1500"),
    [("pro", 1.0, 0.3, 0.19, 0.19), ("pro", 1e-6, 0.3, 0.19, 0.19), ("quad", 1e3, 0.3, 0.22, 0.22)],
)
def test_whitens_a_known_covariance(rule, scale, at_100, at_500, at_1500):
    gradient, factors, spectrum = KnownGradient(scale), fresh(1, 64, 96), {}
    assert gradient.whitened(torch.eye(64), torch.eye(96)).std() > 1.4
    for step in range(1, 1501):
        factors = refreshed(rule, factors, gradient.sample()[None])
        if step in (100, 500, 1500):
            spectrum[step] = gradient.whitened(gram(factors.Q1)[0], gram(factors.Q2)[0])
    print(f"{rule} at gradient scale {scale:g}:", {step: round(s.std().item(), 3) for step, s in spectrum.items()})
    assert spectrum[100].std() < at_100
    assert spectrum[500].std() < at_500
    assert spectrum[1500].std() < at_1500
    assert abs(spectrum[1500].mean()) < 0.1, "whitened to variance 1"


def test_classic_whitens_a_known_covariance():
    gradient, Q1, Q2 = KnownGradient(), torch.eye(64), torch.eye(96)
    torch.manual_seed(1)
    for step in range(1, 501):
        X, V = gradient.sample(), torch.randn(64, 96)
        Q1, Q2 = classic.refresh_matrix(Q1, Q2, classic.with_probe_noise(X, V), V, 0.1)
        if step in (100, 500):
            spread = gradient.whitened(gram(Q1), gram(Q2)).std()
            print(f"classic: {step}: {spread:.3f}")
    assert spread < 0.5
    assert torch.equal(Q1, Q1.triu())


@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_starting_at_the_gradients_scale_whitens_sooner_than_at_identity(scale):
    """Why first_scale exists; factors whose bound is not 0 are not fresh and so start at the identity."""
    spreads, means = [], []
    for bound in (0.0, 1e-30):
        gradient, factors = KnownGradient(scale), fresh(1, 64, 96)
        factors = factors._replace(L1=factors.L1 + bound, L2=factors.L2 + bound)
        for step in range(1, 101):
            factors = refreshed("pro", factors, gradient.sample()[None])
            if step in (30, 100):
                spectrum = gradient.whitened(gram(factors.Q1)[0], gram(factors.Q2)[0])
                spreads.append(spectrum.std().item())
                means.append(spectrum.mean().item())
    print(f"gradient scale {scale:g}: spread {spreads}, mean {means} (scaled at 30, 100; identity at 30, 100)")
    assert spreads[0] < spreads[2]
    assert spreads[1] < spreads[3]
    assert abs(means[0]) < abs(means[2])
    assert spreads[1] < 0.25


@pytest.mark.parametrize("rule", SIDE_RULES)
def test_stacked_equals_one_block_at_a_time(rule):
    torch.manual_seed(0)
    X = torch.randn(4, 5, 8) * torch.tensor([1e-5, 1.0, 1e4, 0.0])[:, None, None]
    stack, singles = fresh(4, 5, 8), [fresh(1, 5, 8) for _ in range(4)]
    for _ in range(20):
        X = X * torch.randn(4, 5, 8)
        stack = refreshed(rule, stack, X)
        singles = [refreshed(rule, single, X[i : i + 1]) for i, single in enumerate(singles)]
    for i, single in enumerate(singles):
        for batched, alone in zip(stack, single, strict=True):
            torch.testing.assert_close(batched[i], alone[0], rtol=1e-4, atol=1e-5)


def slow_pro(Q1, Q2, L1, L2, X, rate):
    """The PRO rule by the book, one block, no batching, no damping, from the equations in kron's documentation."""
    m, n = X.shape
    W = Q1.T @ Q1 @ X @ Q2.T @ Q2
    result = []
    for Q, T, tau, L in ((Q1, W @ W.T, n, L1), (Q2, W.T @ W, m, L2)):
        bound = slow_bound(T) + tau
        L = max(0.9 * L + 0.1 * bound, bound)
        Q = Q - rate / L * (T @ Q - tau * Q)
        R = Q.T - Q
        R = R / slow_bound(R)
        turn, trace = 1 / 8, torch.trace(R @ R @ Q)
        if trace < 0:
            turn = min(turn, -torch.trace(R @ Q) / trace)
        result += [Q + turn * (R @ Q + turn / 2 * R @ R @ Q), L]
    return result[0], result[2], result[1], result[3]


def slow_bound(S):
    scale = S.abs().max()
    S = S / scale
    x = S[:, S.norm(dim=0).argmax()]
    y = x @ S
    return float((y / y.norm() @ S.T).norm() * scale)


def test_pro_equals_a_slow_loop(monkeypatch):
    monkeypatch.setattr(whitening, "MAX_AMPLIFICATION", 1e12)
    torch.manual_seed(0)
    m, n = 4, 6
    factors = Factors(torch.randn(1, m, m).double(), torch.randn(1, n, n).double(), *torch.full((2, 1), 5.0).double())
    Q1, Q2, L1, L2 = factors.Q1[0], factors.Q2[0], 5.0, 5.0
    for _ in range(30):
        X = torch.randn(m, n).double()
        factors = refreshed("pro", factors, X[None])
        Q1, Q2, L1, L2 = slow_pro(Q1, Q2, L1, L2, X, 0.1)
        balance = (Q2.abs().max() / Q1.abs().max()).sqrt()
        Q1, Q2 = Q1 * balance, Q2 / balance
        torch.testing.assert_close(factors.Q1[0], Q1, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(factors.Q2[0], Q2, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(factors.L1[0].item(), L1, rtol=1e-6, atol=0)


@given(st.integers(1, 9), st.integers(0, 2**31), st.booleans(), st.sampled_from([1e-12, 1.0, 1e12]))
@settings(max_examples=60, deadline=None)
def test_bound_is_below_the_spectral_norm_and_not_far_below(size, seed, skew, scale):
    A = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    S = A - A.T if skew else A @ A.T
    norm = torch.linalg.matrix_norm(S, ord=2)
    bound = norm_lower_bound(S[None])[0]
    assert bound <= norm * (1 + 1e-9)
    assert bound >= norm / size


@given(st.integers(0, 2**31), st.sampled_from(list(SIDE_RULES)))
@settings(max_examples=30, deadline=None)
def test_turning_the_gradient_turns_the_update(seed, rule):
    """U P(X) V' = P(U X V'): exact for the exact products, up to the norm bound, which is only approximate, so signs
    are used."""
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1 for size in (5, 7))
    plain, turned = fresh(1, 5, 7, torch.float64), fresh(1, 5, 7, torch.float64)
    for _ in range(10):
        X = torch.randn(1, 5, 7, generator=generator, dtype=torch.float64)
        plain, turned = refreshed(rule, plain, X), refreshed(rule, turned, s[:, None] * X * t)
    torch.testing.assert_close(turned.Q1[0], s[:, None] * plain.Q1[0] * s, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(turned.Q2[0], t[:, None] * plain.Q2[0] * t, rtol=1e-8, atol=1e-10)


@given(st.integers(0, 2**31), st.integers(-30, 30), st.sampled_from(list(SIDE_RULES)))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_the_gradient_does_not_matter(seed, exponent, rule):
    generator = torch.Generator().manual_seed(seed)
    plain, scaled = fresh(1, 5, 7, torch.float64), fresh(1, 5, 7, torch.float64)
    for _ in range(10):
        X = torch.randn(1, 5, 7, generator=generator, dtype=torch.float64)
        plain, scaled = refreshed(rule, plain, X), refreshed(rule, scaled, X * 10.0**exponent)
    torch.testing.assert_close(
        gram(scaled.Q1) @ (X * 10.0**exponent) @ gram(scaled.Q2),
        gram(plain.Q1) @ X @ gram(plain.Q2),
        rtol=1e-6,
        atol=1e-8,
    )


@pytest.mark.parametrize("rule", SIDE_RULES)
def test_directions_without_gradient_stay_bounded(rule):
    torch.manual_seed(0)
    factors = fresh(1, 6, 8)
    for _ in range(3000):
        X = torch.randn(1, 6, 8)
        X[:, 2], X[:, :, 5] = 0, 0
        factors = refreshed(rule, factors, X)
    P1, P2 = gram(factors.Q1)[0], gram(factors.Q2)[0]
    assert 100 < P1[2, 2] / P1[0, 0] < 3 * whitening.MAX_AMPLIFICATION
    assert 100 < P2[5, 5] / P2[0, 0] < 3 * whitening.MAX_AMPLIFICATION


def test_a_zero_gradient_and_an_overflow_change_nothing():
    torch.manual_seed(0)
    before = refreshed("pro", fresh(2, 3, 4), torch.randn(2, 3, 4))
    after = refreshed("pro", before, torch.stack([torch.zeros(3, 4), torch.full((3, 4), 1e38)]))
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)


def test_balance_sets_the_largest_entries_equal():
    torch.manual_seed(0)
    Q1, Q2 = torch.randn(3, 4, 4) * 1e6, torch.randn(3, 5, 5)
    factor = balance_factor(Q1, Q2)[:, None, None]
    torch.testing.assert_close((factor * Q1).abs().amax((1, 2)), (Q2 / factor).abs().amax((1, 2)))


def test_the_diagonal_whitens_each_entry():
    torch.manual_seed(0)
    scales = torch.logspace(-3, 3, 20)
    q, L = torch.ones(1, 1, 20), torch.zeros(1)
    for _ in range(3000):
        q, L = whitening.refresh_diagonal(q, L, scales * torch.randn(1, 1, 20), 0.1)
    whitened = (q.square() * scales).flatten()
    # A single sample a step, so each entry wanders around 1; before, they spread over six orders of magnitude.
    assert whitened.log10().abs().max() < 0.5

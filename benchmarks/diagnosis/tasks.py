"""What is learned: data sets of a few thousand rows, and decision processes whose values are known exactly.

Every task is scored from 0, what one knows without looking at the inputs (or acts at random), to 1, perfect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        inputs: [rows, ...].
        targets: [rows] int64 classes, or [rows, values] float32.
        classes: how many there are; 0: regression.
    """

    inputs: Tensor
    targets: Tensor
    classes: int = 0

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, or half the mean squared error."""
        return F.cross_entropy(output, targets) if self.classes else 0.5 * F.mse_loss(output, targets)

    def score(self, model: nn.Module) -> float:
        """Accuracy over chance, or explained variance; -1 at worst."""
        model.eval()
        with torch.no_grad():
            output = first(model(self.inputs)).float()
        model.train()
        if not output.isfinite().all():
            return -1.0
        if self.classes:
            accuracy = (output.argmax(-1) == self.targets).float().mean().item()
            return (accuracy - 1 / self.classes) / (1 - 1 / self.classes)
        unexplained = (output - self.targets).square().mean() / (self.targets - self.targets.mean(0)).square().mean()
        return max(1 - unexplained.item(), -1.0)


def first(output: Tensor | tuple | dict) -> Tensor:
    """The first of several outputs."""
    if isinstance(output, dict):
        return next(iter(output.values()))
    return output[0] if isinstance(output, tuple) else output


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normed(x: Tensor) -> Tensor:
    """Every column at mean 0 and deviation 1."""
    return (x - x.mean(0)) / x.std(0)


def changed(data: Data, **fields: Tensor) -> Data:
    return replace(data, **fields)


@cache
def digits() -> Data:
    from sklearn.datasets import load_digits

    return _standard(load_digits(), 10)


@cache
def digit_images() -> Data:
    from sklearn.datasets import load_digits

    images = load_digits()
    return Data(torch.tensor(images.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(images.target), 10)


@cache
def noisy_digits(share: float) -> Data:
    """Digits of which a share of the labels is drawn at random."""
    data, generator = digits(), torch.Generator().manual_seed(0)
    random = torch.randint(10, data.targets.shape, generator=generator)
    lost = torch.rand(data.targets.shape, generator=generator) < share
    return changed(data, targets=torch.where(lost, random, data.targets))


@cache
def cancer() -> Data:
    from sklearn.datasets import load_breast_cancer

    return _standard(load_breast_cancer(), 2)


@cache
def autoencoding() -> Data:
    data = digits()
    return Data(data.inputs, data.inputs)


@cache
def teacher(outputs: int = 2, scale: float = 1.0, noise: float = 0.05) -> Data:
    """What a random two-layer tanh network makes of 16 normal inputs."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(2048, 16, generator=generator)
    hidden = torch.tanh(inputs @ torch.randn(16, 8, generator=generator) * 0.5)
    targets = hidden @ torch.randn(8, outputs, generator=generator)
    targets = targets / targets.std(0) + noise * torch.randn(2048, outputs, generator=generator)
    return Data(inputs, scale * targets)


@cache
def spirals() -> Data:
    generator = torch.Generator().manual_seed(5)
    radius, side = torch.rand(2000, generator=generator).sqrt(), torch.arange(2000) % 2
    angle = 6.0 * radius + torch.pi * side
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return Data(2 * points + 0.02 * torch.randn(points.shape, generator=generator), side, 2)


@cache
def first_token(length: int = 10, tokens: int = 4) -> Data:
    inputs = torch.randint(tokens, (2048, length), generator=torch.Generator().manual_seed(11))
    return Data(inputs, inputs[:, 0].clone(), tokens)


def _standard(raw, classes: int) -> Data:
    inputs = torch.tensor(raw.data, dtype=torch.float32)
    return Data((inputs - inputs.mean(0)) / (inputs.std(0) + 1e-3), torch.tensor(raw.target), classes)


@dataclass(frozen=True)
class DecisionProcess:
    """A small decision process, known exactly.

    Attributes:
        features: [states, features] what an agent sees of a state.
        transitions: [actions, states, states] probabilities.
        rewards: [actions, states].
        discount: of the future.
    """

    features: Tensor
    transitions: Tensor
    rewards: Tensor
    discount: float

    @property
    def states(self) -> int:
        """How many there are."""
        return len(self.features)

    @property
    def actions(self) -> int:
        """How many there are."""
        return len(self.rewards)

    def policy_values(self, policy: Tensor) -> Tensor:
        """[states] values of a [states, actions] policy."""
        transitions = torch.einsum("sa,ast->st", policy, self.transitions)
        rewards = torch.einsum("sa,as->s", policy, self.rewards)
        return torch.linalg.solve(torch.eye(self.states) - self.discount * transitions, rewards)

    def best_values(self) -> Tensor:
        """[actions, states] values of the best policy's actions."""
        values = torch.zeros_like(self.rewards)
        for _ in range(2000):
            values = self.rewards + self.discount * self.transitions @ values.max(0).values
        return values

    def sample(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(states, actions, rewards, next states), uniform over states and actions."""
        state = torch.randint(self.states, (rows,), generator=generator)
        action = torch.randint(self.actions, (rows,), generator=generator)
        following = torch.multinomial(self.transitions[action, state], 1, generator=generator)[:, 0]
        return state, action, self.rewards[action, state], following

    def value_score(self, values: Tensor) -> float:
        """Explained variance of [states] values of the random policy."""
        true = self.policy_values(torch.full((self.states, self.actions), 1 / self.actions))
        if not values.isfinite().all():
            return -1.0
        return max(1 - ((values - true).square().mean() / true.var(correction=0)).item(), -1.0)

    def policy_score(self, policy: Tensor) -> float:
        """Mean value of a [states, actions] policy, between the random one's and the best one's."""
        uniform = torch.full_like(policy, 1 / self.actions)
        least, most = self.policy_values(uniform).mean(), self.best_values().max(0).values.mean()
        return ((self.policy_values(policy).mean() - least) / (most - least)).item()


@cache
def ring(discount: float = 0.9) -> DecisionProcess:
    """A walk round 32 places, one side of which pays."""
    places = torch.arange(32)
    angle = 2 * torch.pi * places / 32
    features = torch.cat([torch.stack([(k * angle).cos(), (k * angle).sin()], 1) for k in (1, 2, 3, 4)], 1)
    transitions = torch.zeros(1, 32, 32)
    for move, share in ((1, 0.5), (2, 0.2), (-1, 0.3)):
        transitions[0, places, (places + move) % 32] += share
    return DecisionProcess(features, transitions, (1 + angle.cos() + 0.5 * (2 * angle).sin())[None], discount)


@cache
def random_process(discount: float = 0.9, states: int = 40, actions: int = 4) -> DecisionProcess:
    random = np.random.default_rng(23)
    transitions = random.dirichlet(np.full(states, 0.05), (actions, states))
    features = random.normal(size=(states, 16))
    rewards = random.normal(size=(actions, states)) + 1.0
    return DecisionProcess(
        *(torch.tensor(part, dtype=torch.float32) for part in (features, transitions, rewards)), discount
    )


# -- of the held-out part alone


@cache
def shells() -> Data:
    """Points in six dimensions by the shell in which they lie."""
    generator = torch.Generator().manual_seed(41)
    directions = torch.randn(2400, 6, generator=generator)
    side = torch.arange(2400) % 3
    radius = 1.0 + side + 0.2 * torch.randn(2400, generator=generator)
    return Data(directions / directions.norm(dim=1, keepdim=True) * radius[:, None], side, 3)


@cache
def blobs(classes: int = 20, dims: int = 24) -> Data:
    """Clouds around random centres."""
    generator = torch.Generator().manual_seed(43)
    centres = torch.randn(classes, dims, generator=generator)
    labels = torch.randint(classes, (3000,), generator=generator)
    return Data(centres[labels] + 0.6 * torch.randn(3000, dims, generator=generator), labels, classes)


@cache
def friedman() -> Data:
    """Friedman's first function of five of ten inputs, standardised."""
    from sklearn.datasets import make_friedman1

    inputs, targets = (
        torch.tensor(part, dtype=torch.float32) for part in make_friedman1(2000, 10, noise=0.3, random_state=47)
    )
    return Data((inputs - 0.5) * 12**0.5, ((targets - targets.mean()) / targets.std())[:, None])


@cache
def wine() -> Data:
    from sklearn.datasets import load_wine

    return _standard(load_wine(), 3)


@cache
def garnet(states: int = 60, actions: int = 3, features: int = 24, discount: float = 0.92) -> DecisionProcess:
    """Random transitions to a few states each (Archibald et al. 1995), with dense features."""
    random = np.random.default_rng(67)
    transitions = np.zeros((actions, states, states))
    for action in range(actions):
        for state in range(states):
            transitions[action, state, random.choice(states, 3, replace=False)] = random.dirichlet(np.ones(3))
    parts = (random.normal(size=(states, features)), transitions, random.normal(size=(actions, states)))
    return DecisionProcess(*(torch.tensor(part, dtype=torch.float32) for part in parts), discount)

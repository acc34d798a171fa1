"""The trainings that rules are tuned on: healthy ones, many of which look ill, and failures beside healthy twins.

Half of them, by a hash of their names, were held out until they had been looked at once (docs/benchmarks.md); what is
held out now stands in :mod:`benchmarks.diagnosis.held_out`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.diagnosis import tasks
from benchmarks.diagnosis.networks import (
    Branches,
    Encoded,
    Pruned,
    Recurrent,
    Residual,
    ResidualCNN,
    SmallCNN,
    TiedAutoencoder,
    Transformer,
    TwoHeads,
    Uncalled,
    WithTarget,
    biased,
    he,
    mlp,
    scaled,
    widths,
)
from benchmarks.diagnosis.register import (
    adam,
    adamw,
    between,
    cosine,
    failure,
    healthy,
    linear,
    once,
    sgd,
    torso,
    warmup,
)
from benchmarks.diagnosis.tasks import Data, changed, digit_images, digits, raw_digits, shuffled_digits, teacher
from benchmarks.diagnosis.training import Setup, actor_critic, bandit, q_learning, supervised, two_views, values
from torch import Tensor, nn
from torch.optim import SGD, Adam, RAdam, RMSprop

from stablegrad.networks import DenseNetTorso, MLPTorso, MultiSkipTorso, ResidualTorso
from stablegrad.optimizers import Kron

# == healthy trainings ==


def _left_digits() -> Data:
    """Digits whose lower halves are noise."""
    noise = torch.randn(1797, 32, generator=torch.Generator().manual_seed(29))
    return changed(digits(), inputs=torch.cat([digits().inputs[:, :32], noise], 1))


def _lifted(by: float) -> Data:
    return changed(teacher(), targets=teacher().targets + by)


healthy("digits, relu, Adam", 0.9, lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3)))
healthy(
    "digits, relu, SGD with momentum", 0.9, lambda: supervised(digits(), mlp(64, 128, 64, 10), sgd(0.05, momentum=0.9))
)
healthy("digits, tanh, SGD", 0.9, lambda: supervised(digits(), mlp(64, 64, 64, 10, activation="tanh"), sgd(0.3)))
healthy(
    "digits, gelu, AdamW, annealed to zero by a cosine",
    0.9,
    lambda: supervised(
        digits(), mlp(64, 96, 96, 96, 10, activation="gelu"), adamw(2e-3), steps=400, schedule=cosine(400)
    ),
)
healthy(
    "digits, layer norm, RAdam",
    0.9,
    lambda: supervised(
        digits(), mlp(64, 64, 64, 64, 10, norm="layer"), lambda model: RAdam(model.parameters(), lr=2e-3)
    ),
)
healthy(
    "digits, batch norm, SGD",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 64, 10, norm="batch"), sgd(0.1, momentum=0.9)),
)
healthy(
    "digits, dropout", 0.85, lambda: supervised(digits(), mlp(64, 128, 128, 10, dropout=0.5), adam(1e-3), steps=400)
)
healthy(
    "digits, wide, RMSprop",
    0.9,
    lambda: supervised(digits(), mlp(64, 256, 256, 10), lambda model: RMSprop(model.parameters(), lr=3e-4)),
)
healthy(
    "digits, 10 residual blocks", 0.9, lambda: supervised(digits(), Residual(64, 48, 10, 10), adam(1e-3), steps=250)
)
healthy(
    "digits, 10 multi-skip blocks",
    0.9,
    lambda: supervised(digits(), torso(MultiSkipTorso, 64, 10, 64, 10), adam(1e-3), steps=250),
)
healthy(
    "digits, multi-skip, Kron",
    0.9,
    lambda: supervised(
        digits(), torso(MultiSkipTorso, 64, 10, 64, 4), lambda m: Kron(m.parameters(), lr=1e-3), steps=250
    ),
)
healthy(
    "digits, dense connections, gelu",
    0.9,
    lambda: supervised(digits(), torso(DenseNetTorso, 64, 10, 48, 4, activation="gelu"), adam(1e-3)),
)
healthy("digits, no hidden layer", 0.85, lambda: supervised(digits(), nn.Sequential(nn.Linear(64, 10)), sgd(0.1)))
healthy(
    "digits, two sigmoid layers, Adam",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10, activation="sigmoid"), adam(5e-3), steps=400),
)
healthy(
    "digits, to zero loss, all rows at once",
    0.99,
    lambda: supervised(digits(), mlp(64, 128, 128, 10), adam(5e-3), steps=400, batch=0),
)
healthy(
    "digits, long after zero loss", 0.99, lambda: supervised(digits(), mlp(64, 96, 96, 96, 10), adam(3e-3), steps=1000)
)
healthy(
    "digits, 40% of the labels random",
    0.8,
    lambda: supervised(tasks.noisy_digits(0.4), mlp(64, 64, 64, 10), adam(1e-3), evaluate=digits()),
)
healthy(
    "digits, 70% of the labels random, layer norm",
    0.6,
    lambda: supervised(tasks.noisy_digits(0.7), mlp(64, 64, 64, 10, norm="layer"), adam(1e-3), evaluate=digits()),
)


def _fine_tuned(lr: float) -> Setup:
    """A trained encoder, frozen, and a new head."""
    model = mlp(64, 64, 64, 10)
    trained = supervised(digits(), model, adam(1e-3), steps=200)
    for _ in trained.loop(trained):
        pass
    model[-1].reset_parameters()
    for layer in model[:-1]:
        layer.requires_grad_(False)
    return supervised(digits(), model, adam(lr), steps=200)


healthy("digits, fine-tuning the head of a frozen encoder", 0.9, lambda: _fine_tuned(3e-3))


def _continued() -> Setup:
    """A trained network, trained on at a small rate."""
    model = mlp(64, 64, 64, 10)
    trained = supervised(digits(), model, adam(1e-3), steps=300)
    for _ in trained.loop(trained):
        pass
    return supervised(digits(), model, adam(2e-5), steps=250)


healthy("digits, a trained network trained on at a small rate", 0.9, _continued)
healthy(
    "digits, SGD, annealed to zero along a line",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), sgd(0.3), steps=400, schedule=linear(320)),
)
healthy(
    "digits, spikes of the loss, clipped",
    0.9,
    lambda: supervised(
        digits(),
        mlp(64, 64, 64, 10),
        adam(1e-3),
        clip=1.0,
        adjust=lambda step, loss, _: loss * (1000 if step % 70 == 0 else 1),
    ),
)
healthy(
    "digits, spikes of the loss on steps that are looked at",
    0.85,
    lambda: supervised(
        digits(),
        mlp(64, 64, 64, 10),
        sgd(0.05, momentum=0.9),
        clip=5.0,
        adjust=lambda step, loss, _: loss * (300 if step in (100, 110, 200) else 1),
    ),
)
healthy(
    "digits, a dip that recovers",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3), steps=400, schedule=between(150, 158, 60.0)),
)
healthy(
    "digits, two bad batches of noise",
    0.9,
    lambda: supervised(
        lambda step: changed(digits(), inputs=20 * torch.randn(1797, 64)) if step in (120, 130) else digits(),
        mlp(64, 64, 64, 10),
        adam(1e-3),
        steps=400,
    ),
)
healthy(
    "digits, labels reshuffled every 250 steps, layer norm",
    0.6,
    lambda: supervised(
        lambda step: shuffled_digits((step - 1) // 250),
        mlp(64, 256, 256, 10, norm="layer"),
        adam(3e-3),
        steps=750,
        batch=128,
    ),
)
healthy(
    "digits, strong weight decay",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), adamw(2e-3, weight_decay=0.3), steps=400),
)
healthy("digits, batches of 8", 0.85, lambda: supervised(digits(), mlp(64, 64, 64, 10), sgd(0.02), steps=600, batch=8))
healthy(
    "digits, all rows, gradient descent",
    0.85,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), sgd(0.5), steps=250, batch=0),
)
healthy(
    "digits, sparse relu",
    0.9,
    lambda: supervised(digits(), biased(mlp(64, 256, 256, 10), -0.4), adam(1e-3)),
)
healthy(
    "digits, 4 batches a step",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3), batch=16, accumulate=4),
)
healthy(
    "digits, warm-up from a rate of zero",
    0.85,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3), steps=400, schedule=warmup(150)),
)
healthy(
    "digits, a rate at the edge of stability",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), sgd(0.8), batch=256),
)
healthy(
    "digits, bfloat16", 0.9, lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3), steps=250, autocast=True)
)
healthy(
    "digits, label smoothing and PReLU",
    0.9,
    lambda: supervised(
        digits(),
        mlp(64, 64, 64, 10, activation="prelu"),
        adam(2e-3),
        criterion=lambda data, output, target: F.cross_entropy(output, target, label_smoothing=0.2),
    ),
)
healthy(
    "digits, a dictionary of two answers",
    0.85,
    lambda: supervised(
        digits(),
        TwoHeads(),
        adam(1e-3),
        steps=300,
        criterion=lambda data, output, target: (
            F.cross_entropy(output["label"], target) + 0.1 * output["copy"].square().mean()
        ),
    ),
)
healthy("digits, a bottleneck of 4", 0.7, lambda: supervised(digits(), mlp(64, 4, 64, 10), adam(5e-3), steps=500))
healthy(
    "digits, elu, 6 layers",
    0.9,
    lambda: supervised(digits(), mlp(*widths(64, (64, 6), 10), activation="elu"), adam(1e-3)),
)
healthy(
    "digits, 14 layers with layer norm",
    0.8,
    lambda: supervised(digits(), torso(MLPTorso, 64, 10, 48, 6), adam(1e-3), steps=300),
)
healthy(
    "digits, raw pixels, layer norm",
    0.85,
    lambda: supervised(raw_digits(), mlp(64, 64, 64, 10, norm="layer"), adam(2e-3)),
)
healthy(
    "digits, two thirds of the units pruned",
    0.9,
    lambda: supervised(
        digits(),
        nn.Sequential(
            nn.Linear(64, 96), Pruned(96), nn.ReLU(), nn.Linear(96, 96), Pruned(96), nn.ReLU(), nn.Linear(96, 10)
        ),
        adam(2e-3),
    ),
)
healthy(
    "digits, a layer that is never called", 0.9, lambda: supervised(digits(), Uncalled(mlp(64, 64, 64, 10)), adam(1e-3))
)
healthy(
    "digits, rate cut to a tenth twice",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), sgd(0.2), steps=400, schedule=lambda step: 0.1 ** (step // 130)),
)
healthy(
    "digits, warm restarts",
    0.9,
    lambda: supervised(
        digits(), mlp(64, 64, 64, 10), adam(3e-3), steps=400, schedule=lambda step: cosine(100)((step - 1) % 100)
    ),
)
healthy(
    "digits, loss a ten-thousandth, Adam",
    0.9,
    lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3), adjust=lambda step, loss, _: 1e-4 * loss),
)
healthy(
    "digits, inputs brighten slowly",
    0.85,
    lambda: supervised(
        lambda step: changed(digits(), inputs=digits().inputs * (1 + step / 200)),
        mlp(64, 64, 64, 10),
        adam(1e-3),
        steps=400,
    ),
)
healthy("digits, two encoders side by side", 0.75, lambda: supervised(_left_digits(), Branches(64, 32, 10), adam(1e-3)))
healthy(
    "digits, tanh, weights 8 times larger than usual",
    0.85,
    lambda: supervised(digits(), scaled(mlp(64, 64, 64, 10, activation="tanh"), 8.0, slice(0, 2)), adam(1e-3)),
)
healthy("images, CNN, Adam", 0.9, lambda: supervised(digit_images(), SmallCNN(), adam(2e-3), steps=250))
healthy(
    "images, CNN, batch norm, SGD", 0.9, lambda: supervised(digit_images(), SmallCNN(norm="batch"), sgd(0.1), steps=200)
)
healthy("images, residual CNN", 0.8, lambda: supervised(digit_images(), ResidualCNN(), adam(3e-3), steps=200))
healthy(
    "images, CNN, tanh", 0.9, lambda: supervised(digit_images(), SmallCNN(function=torch.tanh), adam(3e-3), steps=200)
)
healthy("autoencoder", 0.6, lambda: supervised(tasks.autoencoding(), mlp(64, 64, 16, 64, 64), adam(2e-3), steps=500))
healthy(
    "autoencoder, tied matrices",
    0.5,
    lambda: supervised(tasks.autoencoding(), TiedAutoencoder(), adam(3e-3), steps=500),
)
healthy(
    "regression, tanh",
    0.85,
    lambda: supervised(teacher(), mlp(16, 64, 64, 2, activation="tanh"), adam(3e-3), steps=500),
)
healthy(
    "regression, relu, SGD", 0.8, lambda: supervised(teacher(), mlp(16, 64, 64, 2), sgd(0.1, momentum=0.9), steps=500)
)
healthy(
    "regression, targets in the hundreds",
    0.8,
    lambda: supervised(teacher(2, 300.0), mlp(16, 64, 64, 2), adam(2e-2), steps=500),
)
healthy(
    "regression, tiny targets",
    0.7,
    lambda: supervised(
        teacher(2, 0.01), scaled(mlp(16, 64, 64, 2), 0.1, slice(2, 3)), adam(1e-3), steps=800, schedule=linear(1000)
    ),
)
healthy(
    "regression, around 5,000",
    0.8,
    lambda: supervised(_lifted(5000.0), biased(mlp(16, 64, 64, 2), 5000.0, slice(-1, None)), adam(3e-3), steps=500),
)
healthy(
    "regression, positive", 0.8, lambda: supervised(tasks.positive_teacher(), mlp(16, 64, 64, 1), adam(3e-3), steps=400)
)
healthy(
    "regression, diabetes, noise above signal",
    0.35,
    lambda: supervised(tasks.diabetes(), mlp(10, 32, 32, 1, activation="silu"), adam(1e-3), steps=500),
)
healthy(
    "sine, tanh", 0.95, lambda: supervised(tasks.sine(), mlp(1, 64, 64, 1, activation="tanh"), adam(5e-3), steps=600)
)
healthy(
    "parity, nothing for a while", 0.9, lambda: supervised(tasks.parity(5, 7), mlp(12, 128, 2), sgd(0.3), steps=900)
)
healthy("spirals", 0.9, lambda: supervised(tasks.spirals(), mlp(2, 64, 64, 64, 2), adam(5e-3), steps=500))
healthy("cancer", 0.9, lambda: supervised(tasks.cancer(), mlp(30, 32, 32, 2), sgd(0.05, momentum=0.9)))
healthy("wine, raw inputs, batch norm", 0.9, lambda: supervised(tasks.raw_wine(), _normed_wine(), adam(3e-3)))
healthy(
    "first token, GRU",
    0.9,
    lambda: supervised(tasks.first_token(), Recurrent(4, 32, 4), adam(5e-3), steps=300, clip=1.0),
)
healthy(
    "first token, LSTM",
    0.9,
    lambda: supervised(tasks.first_token(6), Recurrent(4, 32, 4, "lstm"), adam(1e-2), steps=300),
)
healthy("running sum, GRU", 0.9, lambda: supervised(tasks.running_sum(), Recurrent(0, 24, 1), adam(5e-3), steps=300))
healthy(
    "running sum, RNN, clipped",
    0.9,
    lambda: supervised(tasks.running_sum(), Recurrent(0, 24, 1, "rnn"), adam(3e-3), clip=1.0),
)
healthy(
    "most frequent token, Transformer, warm-up",
    0.8,
    lambda: supervised(
        tasks.most_frequent_token(), Transformer(3, 9, 32, 2, 3), adam(2e-3), steps=250, schedule=warmup(50)
    ),
)
healthy(
    "next token, tied embedding",
    0.9,
    lambda: supervised(tasks.next_token(), Transformer(12, 8, 32, 2, None), adam(5e-3), steps=300),
)


def _doubling() -> tasks.DecisionProcess:
    """w -> 2w (Tsitsiklis and Van Roy 1997): a state looks ahead to one with twice its features."""
    transitions = torch.zeros(1, 8, 8)
    transitions[0, torch.arange(8), (torch.arange(8) + 4) % 8] = 1.0
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(31)).abs()
    features = torch.cat([base, 2 * base])
    return tasks.DecisionProcess(features, transitions, torch.linspace(0, 1, 8)[None], 0.95)


def _normed_wine() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(13), *mlp(13, 32, 32, 3))


def _value_net(norm: str = "none", width: int = 64) -> nn.Module:
    return mlp(8, width, width, 1, norm=norm)


healthy("values grow, target network", 0.8, lambda: values(tasks.ring(), _value_net(), adam(3e-3), steps=800))
healthy(
    "values grow far, discount 0.97",
    0.6,
    lambda: values(tasks.ring(0.97), _value_net(), adam(5e-3), steps=1000, target_every=5),
)
healthy(
    "values, the agent comes to see ever wider states",
    0.8,
    lambda: values(
        tasks.ring(), _value_net("layer"), adam(3e-3), steps=800, features=lambda step, x: x * (0.2 + step / 400)
    ),
)
healthy(
    "values, features double, on the policy",
    0.6,
    lambda: values(_doubling(), mlp(6, 64, 64, 1), adam(3e-3), steps=800, target_every=5),
)
healthy(
    "values, no target network",
    0.8,
    lambda: values(tasks.ring(), _value_net("layer"), adam(2e-3), steps=800, target_every=0),
)
healthy(
    "values, SGD, annealed to zero",
    0.7,
    lambda: values(tasks.ring(), _value_net(), sgd(0.05), steps=800, schedule=linear(800)),
)
healthy(
    "control, target inside the network",
    0.8,
    lambda: q_learning(tasks.random_process(), WithTarget(mlp(16, 64, 64, 4), mlp(16, 64, 64, 4)), adam(2e-3)),
)
healthy(
    "control, double, Huber, layer norm",
    0.8,
    lambda: q_learning(tasks.random_process(), mlp(16, 64, 64, 4, norm="layer"), adam(1e-3), huber=True, double=True),
)
healthy(
    "control, values",
    0.6,
    lambda: q_learning(
        tasks.random_process(), mlp(16, 64, 64, 4), adam(3e-3), by_values=True, steps=800, target_every=10
    ),
)
healthy(
    "control, residual torso, Kron",
    0.7,
    lambda: q_learning(
        tasks.random_process(), torso(ResidualTorso, 16, 4, 48, 2), lambda m: Kron(m.parameters(), lr=1e-3), steps=400
    ),
)
healthy("bandit, becomes certain", 0.7, lambda: bandit(mlp(8, 64, 64, 4), adam(3e-3), entropy=0.0))
healthy(
    "bandit, annealed to zero", 0.6, lambda: bandit(mlp(8, 64, 4, activation="tanh"), adam(5e-3), schedule=linear(400))
)
healthy("bandit, actor and critic", 0.7, lambda: actor_critic(mlp(8, 64, 4), mlp(8, 64, 1), adam(3e-3)))
healthy("bandit, actor every second step", 0.6, lambda: actor_critic(mlp(8, 64, 4), mlp(8, 64, 1), adam(5e-3), delay=2))
healthy("two views of digits", 0.6, lambda: two_views(digits(), mlp(64, 64, 32), adam(2e-3)))
healthy(
    "two views of images",
    0.5,
    lambda: two_views(digit_images(), SmallCNN(outputs=24), adam(2e-3), steps=200, noise=0.3),
)


# == failures ==

# -- gradients vanish with depth
failure(
    "vanishing: depth",
    "8 sigmoid layers",
    "digits, two sigmoid layers, Adam",
    lambda: supervised(digits(), mlp(*widths(64, (64, 8), 10), activation="sigmoid"), adam(1e-3), steps=400),
)
failure(
    "vanishing: depth",
    "20 tanh layers of torch's own initialisation, SGD",
    "digits, tanh, SGD",
    lambda: supervised(digits(), mlp(*widths(64, (64, 20), 10), activation="tanh"), sgd(0.3)),
)
failure(
    "vanishing: depth",
    "24 relu layers of torch's own initialisation, Adam",
    "digits, relu, Adam",
    lambda: supervised(digits(), mlp(*widths(64, (64, 24), 10)), adam(1e-3)),
)
failure(
    "vanishing: depth",
    "18 gelu layers, AdamW",
    "digits, gelu, AdamW, annealed to zero by a cosine",
    lambda: supervised(
        digits(), mlp(*widths(64, (96, 18), 10), activation="gelu"), adamw(2e-3), steps=400, schedule=cosine(400)
    ),
)
failure(
    "vanishing: depth",
    "14 sigmoid layers, regression",
    "regression, tanh",
    lambda: supervised(teacher(), mlp(*widths(16, (48, 14), 2), activation="sigmoid"), adam(3e-3), steps=500),
)
failure(
    "vanishing: depth",
    "16 relu layers, values",
    "values grow, target network",
    lambda: values(tasks.ring(), mlp(*widths(8, (64, 16), 1)), sgd(0.02), steps=800),
)

# -- gradients vanish as activations saturate
failure(
    "vanishing: saturation",
    "5 tanh layers, weights 60 times too large",
    "digits, tanh, SGD",
    lambda: supervised(digits(), scaled(mlp(*widths(64, (48, 5), 10), activation="tanh"), 60.0, slice(0, 5)), sgd(0.1)),
)
failure(
    "vanishing: saturation",
    "sigmoid, raw inputs in the thousands",
    "digits, two sigmoid layers, Adam",
    lambda: supervised(
        changed(digits(), inputs=1000 * digits().inputs + 1000),
        mlp(64, 24, 24, 10, activation="sigmoid"),
        adam(5e-3),
        steps=400,
    ),
)
failure(
    "vanishing: saturation",
    "tanh, one huge step of the rate",
    "regression, tanh",
    lambda: supervised(
        teacher(), mlp(16, 64, 64, 64, 2, activation="tanh"), adam(3e-3), steps=500, schedule=between(60, 62, 3000.0)
    ),
    onset=60,
)
failure(
    "vanishing: saturation",
    "CNN, tanh, weights 60 times too large",
    "images, CNN, tanh",
    lambda: supervised(digit_images(), scaled(SmallCNN(function=torch.tanh), 60.0, slice(0, 3)), adam(3e-3), steps=200),
)

# -- gradients vanish for tiny weights
failure(
    "vanishing: tiny weights",
    "relu, weights of 0.001",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), he(mlp(64, 128, 64, 64, 10), 0.01), sgd(0.05, momentum=0.9)),
)
failure(
    "vanishing: tiny weights",
    "tanh, 6 layers, gain 0.1",
    "digits, tanh, SGD",
    lambda: supervised(digits(), he(mlp(*widths(64, (64, 6), 10), activation="tanh"), 0.1), sgd(0.3)),
)
failure(
    "vanishing: tiny weights",
    "gelu regression, gain 0.02",
    "regression, relu, SGD",
    lambda: supervised(
        teacher(), he(mlp(16, 64, 64, 64, 2, activation="gelu"), 0.02), sgd(0.1, momentum=0.9), steps=500
    ),
)
failure(
    "vanishing: tiny weights",
    "CNN, gain 0.02, SGD",
    "images, CNN, batch norm, SGD",
    lambda: supervised(digit_images(), he(SmallCNN(), 0.02), sgd(0.1), steps=200),
)
failure(
    "vanishing: tiny weights",
    "all weights of the hidden layers zero",
    "digits, relu, Adam",
    lambda: supervised(digits(), scaled(biased(mlp(64, 64, 64, 64, 10), 0.0), 0.0, slice(1, 3)), adam(1e-3)),
)

# -- gradients explode
failure(
    "exploding",
    "10 relu layers, gain 4, SGD",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), he(mlp(*widths(64, (64, 10), 10)), 4.0), sgd(0.05, momentum=0.9)),
)
failure(
    "exploding",
    "12 relu layers, gain 5, clipped",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), he(mlp(*widths(64, (64, 12), 10)), 5.0), sgd(0.05, momentum=0.9), clip=1.0),
)
failure(
    "exploding",
    "30 residual blocks without norm",
    "digits, 10 residual blocks",
    lambda: supervised(digits(), he(Residual(64, 48, 30, 10, norm=False)), sgd(0.01), steps=250),
)
failure(
    "exploding",
    "RNN with a recurrence of radius 4",
    "running sum, RNN, clipped",
    lambda: supervised(tasks.running_sum(), scaled(Recurrent(0, 24, 1, "rnn"), 7.0, slice(1, 3)), sgd(0.1)),
)
failure(
    "exploding",
    "regression on inputs of 1e4",
    "regression, relu, SGD",
    lambda: supervised(
        changed(teacher(), inputs=1e4 * teacher().inputs),
        mlp(16, 64, 64, 2),
        sgd(0.01, momentum=0.9),
        steps=300,
        clip=10.0,
    ),
)

failure(
    "exploding",
    "ascent in place of descent",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), mlp(64, 64, 64, 10), sgd(0.05, momentum=0.9), adjust=lambda step, loss, _: -loss),
    fault="sign",
)
failure(
    "exploding",
    "gradients never set to zero",
    "digits, tanh, SGD",
    lambda: supervised(digits(), mlp(64, 64, 64, 10), lambda m: _Hoarding(m.parameters(), lr=0.3)),
)
failure(
    "exploding",
    "critic's loss a million times too large",
    "bandit, actor and critic",
    lambda: actor_critic(mlp(8, 64, 4), mlp(8, 64, 1), sgd(0.3), critic_loss=lambda step, loss: 1e6 * loss),
)


class _Hoarding(SGD):
    """Somebody forgot ``zero_grad``."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing."""


# -- relus die
failure(
    "dying relu",
    "biases of -12 in a hidden layer",
    "digits, relu, Adam",
    lambda: supervised(digits(), biased(mlp(64, 64, 64, 10), -12.0, slice(1, 2)), adam(1e-3)),
)
failure(
    "dying relu",
    "biases of -6 in all layers, SGD",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), biased(mlp(64, 128, 64, 64, 10), -6.0), sgd(0.05, momentum=0.9)),
)
failure(
    "dying relu",
    "SGD, a step of a hundred times the rate",
    "digits, relu, SGD with momentum",
    lambda: supervised(
        digits(), mlp(64, 64, 64, 64, 10), sgd(0.05, momentum=0.9), schedule=between(80, 82, 300.0), steps=300
    ),
    onset=80,
)
failure(
    "dying relu",
    "Adam at 0.2, five layers",
    "digits, relu, Adam",
    lambda: supervised(digits(), mlp(*widths(64, (64, 5), 10)), adam(0.2)),
)
failure(
    "dying relu",
    "CNN, biases of -10",
    "images, CNN, Adam",
    lambda: supervised(digit_images(), _dead_cnn(), adam(2e-3), steps=250),
)
failure(
    "dying relu",
    "relu in front of negative targets",
    "regression, positive",
    lambda: supervised(
        changed(tasks.positive_teacher(), targets=-tasks.positive_teacher().targets),
        mlp(16, 64, 64, 1, output=nn.ReLU()),
        adam(3e-3),
        steps=400,
    ),
)


def _dead_cnn() -> nn.Module:
    model = SmallCNN()
    with torch.no_grad():
        model.convolutions[1].bias.fill_(-10.0)
    return model


# -- layers that never learn
def _only(*parts: int, lr: float = 5e-3):
    """Adam with some modules of a Sequential only."""
    return lambda model: Adam([p for part in parts for p in model[part].parameters()], lr=lr)


def _rates(lr: float, *rates: float):
    """Adam with a rate for each layer."""
    return lambda model: Adam(
        [
            {"params": list(module.parameters()), "lr": lr * rate}
            for module, rate in zip([m for m in model if isinstance(m, nn.Linear)], rates, strict=True)
        ]
    )


failure(
    "frozen layer",
    "bottleneck left out of the optimizer",
    "digits, a bottleneck of 4",
    lambda: supervised(digits(), mlp(64, 4, 64, 10), _only(2, 4), steps=500),
)
failure(
    "frozen layer",
    "bottleneck at a rate of zero",
    "digits, a bottleneck of 4",
    lambda: supervised(digits(), mlp(64, 4, 64, 10), _rates(5e-3, 0.0, 1.0, 1.0), steps=500),
)


def _replaced_head() -> Setup:
    """The head is replaced after the optimizer was made."""
    setup = supervised(digits(), mlp(64, 4, 64, 10), adam(5e-3), steps=500)
    setup.model[0] = nn.Linear(64, 4)
    return setup


def _actor_forgotten() -> Setup:
    """The actor's optimizer was given a copy."""
    setup = actor_critic(mlp(8, 64, 4), mlp(8, 64, 1), adam(3e-3))
    setup.optimizer[0] = Adam(mlp(8, 64, 4).parameters(), lr=3e-3)
    return setup


failure("frozen layer", "actor's optimizer has another network", "bandit, actor and critic", _actor_forgotten)
failure("frozen layer", "bottleneck replaced after the optimizer was made", "digits, a bottleneck of 4", _replaced_head)
failure(
    "frozen layer",
    "only biases and the bottleneck's input trained",
    "digits, a bottleneck of 4",
    lambda: supervised(digits(), scaled(mlp(64, 4, 64, 10), 0.02, slice(2, 3)), _only(0), steps=500),
)
failure(
    "frozen layer",
    "head left out, values",
    "values grow, target network",
    lambda: values(tasks.ring(), scaled(_value_net(), 0.01, slice(2, 3)), _only(0, lr=3e-3), steps=800),
)

# -- parts cut off from the loss
failure(
    "cut off",
    "one encoder of two detached",
    "digits, two encoders side by side",
    lambda: supervised(_left_digits(), Branches(64, 32, 10, cut=True), adam(1e-3)),
    fault="cut",
)


failure(
    "cut off",
    "bottleneck detached",
    "digits, a bottleneck of 4",
    lambda: supervised(
        digits(), Encoded(nn.Linear(64, 4), mlp(4, 64, 10), lambda h: h.relu().detach()), adam(5e-3), steps=500
    ),
    fault="cut",
)
failure(
    "cut off",
    "label head without a loss",
    "digits, a dictionary of two answers",
    lambda: supervised(
        digits(),
        TwoHeads(),
        adam(1e-3),
        steps=300,
        criterion=lambda data, output, target: output["copy"].square().mean(),
    ),
    fault="cut",
)
failure(
    "cut off",
    "answers clamped out of reach",
    "regression, positive",
    lambda: supervised(
        tasks.positive_teacher(), mlp(16, 64, 64, 1, output=nn.Hardtanh(-60.0, -50.0)), adam(3e-3), steps=400
    ),
    fault="cut",
)
failure(
    "cut off",
    "rounded features",
    "digits, a bottleneck of 4",
    lambda: supervised(
        digits(), Encoded(nn.Linear(64, 4), mlp(4, 64, 10), lambda h: (h / 4).round()), adam(5e-3), steps=500
    ),
    fault="cut",
)

# -- features collapse
failure(
    "rank collapse",
    "two views, nothing keeps features apart",
    "two views of digits",
    lambda: two_views(digits(), mlp(64, 64, 32), adam(2e-3), spread=0.0),
    fault="objective",
)
failure(
    "rank collapse",
    "two views of images, nothing keeps features apart",
    "two views of images",
    lambda: two_views(digit_images(), SmallCNN(outputs=24), adam(2e-3), steps=200, spread=0.0, noise=0.3),
    fault="objective",
)
failure(
    "rank collapse",
    "two views, layer norm, nothing keeps features apart",
    "two views of digits",
    lambda: two_views(digits(), mlp(64, 64, 64, 32, norm="layer"), adam(5e-3), spread=0.0),
    fault="objective",
)
failure(
    "rank collapse",
    "weight decay a hundred times too strong",
    "digits, strong weight decay",
    lambda: supervised(digits(), mlp(64, 64, 64, 64, 10), adamw(2e-3, weight_decay=60.0), steps=400),
)
failure(
    "rank collapse",
    "penalty on the features outweighs the loss",
    "digits, relu, Adam",
    lambda: supervised(
        digits(), mlp(64, 64, 64, 10), adam(1e-3), adjust=lambda step, loss, output: loss + 30 * output.var(0).sum()
    ),
    fault="objective",
)
failure(
    "rank collapse",
    "attention without skips",
    "most frequent token, Transformer, warm-up",
    lambda: supervised(
        tasks.most_frequent_token(),
        Transformer(3, 9, 32, 8, 3, skips=False),
        adam(2e-3),
        steps=250,
        schedule=warmup(50),
    ),
)
failure(
    "rank collapse",
    "all units start alike",
    "digits, tanh, SGD",
    lambda: supervised(digits(), _alike(mlp(64, 64, 64, 10, activation="tanh")), sgd(0.3)),
)


def _alike(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.02 if parameter.ndim == 2 else 0.0)
    return model


# -- normalised away
failure(
    "over-normalised",
    "layer norm over weights 100 times too large, SGD",
    "digits, a bottleneck of 4",
    lambda: supervised(digits(), _heavy(mlp(64, 4, 64, 10, norm="layer")), sgd(0.1), steps=500),
)
failure(
    "over-normalised",
    "batch norm over weights 1,000 times too large, Adam",
    "digits, a bottleneck of 4",
    lambda: supervised(digits(), scaled(mlp(64, 3, 64, 10, norm="batch"), 1000.0, slice(0, 2)), adam(3e-3), steps=500),
)
failure(
    "over-normalised",
    "batch norm, weights inflated by a burst of the rate",
    "digits, a bottleneck of 4",
    lambda: supervised(digits(), mlp(64, 3, 32, 10, norm="batch"), _by_norm(0.05), steps=500, event=_burst),
)
failure(
    "over-normalised",
    "layer norm over a single unit",
    "digits, a bottleneck of 4",
    lambda: supervised(
        digits(),
        nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.LayerNorm(1), nn.Linear(1, 10)),
        adam(5e-3),
        steps=500,
    ),
)
failure(
    "over-normalised",
    "instance norm over single pixels",
    "images, CNN, Adam",
    lambda: supervised(digit_images(), _pixel_norm(), adam(2e-3), steps=250),
)
failure(
    "over-normalised",
    "regression, answers normalised",
    "regression, targets in the hundreds",
    lambda: supervised(
        teacher(2, 300.0), mlp(16, 64, 64, 2, output=nn.LayerNorm(2, elementwise_affine=False)), adam(2e-2), steps=500
    ),
)


def _by_norm(lr: float):
    """SGD with the layers in front of a norm in a group of their own."""
    return lambda model: SGD(
        [{"params": [*model[0].parameters(), *model[3].parameters()]}, {"params": model[6].parameters()}], lr=lr
    )


def _burst(step: int, setup: Setup) -> None:
    setup.optimizer.param_groups[0]["lr"] = 5e4 if step < 6 else 0.05


def _heavy(model: nn.Module) -> nn.Module:
    return scaled(model, 100.0, slice(0, -1))


def _pixel_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 4, stride=4), nn.ReLU(), nn.Conv2d(12, 24, 2), nn.GroupNorm(24, 24), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 10),
    )  # fmt: skip


# -- learning rates
failure(
    "rate too high",
    "SGD at 8",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), mlp(64, 128, 64, 10), sgd(8.0)),
)
failure(
    "rate too high",
    "Adam at 0.5, four tanh layers",
    "digits, tanh, SGD",
    lambda: supervised(digits(), mlp(*widths(64, (64, 4), 10), activation="tanh"), adam(0.5)),
)
failure(
    "rate too high",
    "SGD at 1.5, relu",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), mlp(64, 64, 64, 64, 10), sgd(0.4, momentum=0.95)),
)
failure(
    "rate too high",
    "CNN, Adam at 0.1",
    "images, CNN, Adam",
    lambda: supervised(digit_images(), SmallCNN(), adam(0.1), steps=250),
)
failure(
    "rate too high",
    "sine, Adam at 0.3",
    "sine, tanh",
    lambda: supervised(tasks.sine(), mlp(1, 64, 64, 1, activation="tanh"), adam(0.3), steps=600),
)
failure(
    "rate too high",
    "momentum of 0.99 at 0.5, layer norm",
    "digits, layer norm, RAdam",
    lambda: supervised(digits(), mlp(64, 64, 64, 64, 10, norm="layer"), sgd(0.5, momentum=0.99)),
)
failure(
    "rate too high",
    "GRU, Adam at 0.3",
    "first token, GRU",
    lambda: supervised(tasks.first_token(), Recurrent(4, 32, 4), adam(0.3), steps=300, clip=1.0),
)
failure(
    "rate too high",
    "Transformer, Adam at 0.1",
    "most frequent token, Transformer, warm-up",
    lambda: supervised(tasks.most_frequent_token(), Transformer(3, 9, 32, 2, 3), adam(0.1), steps=250),
)
failure(
    "rate too high",
    "multi-skip, Kron at 0.3",
    "digits, multi-skip, Kron",
    lambda: supervised(
        digits(), torso(MultiSkipTorso, 64, 10, 64, 4), lambda m: Kron(m.parameters(), lr=0.3), steps=250
    ),
)
failure(
    "rate too high",
    "bandit, Adam at 0.5",
    "bandit, becomes certain",
    lambda: bandit(mlp(8, 64, 64, 4), adam(0.5), entropy=0.0),
)
failure(
    "rate too low",
    "SGD at 1e-5",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), mlp(64, 128, 64, 10), sgd(1e-5, momentum=0.9)),
)
failure(
    "rate too low", "Adam at 1e-7", "digits, relu, Adam", lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-7))
)
failure(
    "rate too low",
    "warm-up of a million steps",
    "most frequent token, Transformer, warm-up",
    lambda: supervised(
        tasks.most_frequent_token(), Transformer(3, 9, 32, 2, 3), adam(2e-3), steps=250, schedule=warmup(1_000_000)
    ),
)
failure(
    "rate too low",
    "regression, SGD at 1e-6",
    "regression, relu, SGD",
    lambda: supervised(teacher(), mlp(16, 64, 64, 2), sgd(1e-6, momentum=0.9), steps=500),
)
failure(
    "rate too low",
    "control, Adam at 1e-7",
    "control, double, Huber, layer norm",
    lambda: q_learning(tasks.random_process(), mlp(16, 64, 64, 4, norm="layer"), adam(1e-7), huber=True, double=True),
)
failure(
    "rate too low",
    "Adam's epsilon at 1e4",
    "images, CNN, Adam",
    lambda: supervised(digit_images(), SmallCNN(), adam(2e-3, eps=1e4), steps=250),
)

failure(
    "rate too low", "Adam at 1e-5", "digits, relu, Adam", lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-5))
)
failure(
    "rate too low",
    "SGD at 0.001, tanh",
    "digits, tanh, SGD",
    lambda: supervised(digits(), mlp(64, 64, 64, 10, activation="tanh"), sgd(1e-3)),
)
failure(
    "rate too low",
    "gradients clipped to a ten-thousandth",
    "digits, relu, SGD with momentum",
    lambda: supervised(digits(), mlp(64, 128, 64, 10), sgd(0.05, momentum=0.9), clip=1e-4),
)

# -- an optimizer that remembers another scale
failure(
    "stale state",
    "Adam, loss a million times larger for 40 steps",
    "digits, relu, Adam",
    lambda: supervised(
        digits(),
        mlp(64, 64, 64, 10),
        adam(1e-3, betas=(0.9, 0.9999)),
        adjust=lambda step, loss, _: loss * (1e6 if step <= 40 else 1.0),
        schedule=lambda step: 0.01 if step <= 40 else 1.0,
    ),
)
failure(
    "stale state",
    "Adam, state of another run",
    "digits, relu, Adam",
    lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3, betas=(0.9, 0.9999)), event=once(2, _foreign_state)),
)
failure(
    "stale state",
    "RMSprop, state of another run",
    "digits, wide, RMSprop",
    lambda: supervised(
        digits(),
        mlp(64, 256, 256, 10),
        lambda m: RMSprop(m.parameters(), lr=3e-4, alpha=0.99999),
        schedule=lambda step: float(step > 1),
        event=once(2, _foreign_state),
    ),
)
failure(
    "stale state",
    "Adam, rewards rescaled",
    "values grow, target network",
    lambda: values(
        tasks.ring(),
        _value_net(),
        adam(3e-3, betas=(0.9, 0.99999)),
        steps=800,
        reward_scale=lambda step: 1e5 if step <= 60 else 1.0,
        clip=None,
    ),
)


def _foreign_state(setup: Setup) -> None:
    for state in setup.optimizer.state.values():
        state["exp_avg_sq" if "exp_avg_sq" in state else "square_avg"].fill_(1e6)


# -- targets that run away
failure(
    "target drift",
    "off the policy, features double",
    "values, features double, on the policy",
    lambda: values(
        _doubling(), mlp(6, 64, 64, 1), sgd(0.02), steps=800, target_every=0, rows=lambda s, f: (s % 4, s % 4 + 4)
    ),
)
failure(
    "target drift",
    "off the policy, features double, Adam and a target network",
    "values, features double, on the policy",
    lambda: values(
        _doubling(), mlp(6, 64, 64, 1), adam(3e-3), steps=800, target_every=5, rows=lambda s, f: (s % 4, s % 4 + 4)
    ),
)
failure(
    "target drift",
    "control, a discount of 1.1",
    "control, values",
    lambda: q_learning(
        tasks.random_process(), mlp(16, 64, 64, 4), adam(3e-3), by_values=True, steps=800, discount=1.1, target_every=4
    ),
    fault="targets",
)
failure(
    "target drift",
    "control, no discount and no end",
    "control, values",
    lambda: q_learning(
        tasks.random_process(), mlp(16, 64, 64, 4), adam(1e-2), by_values=True, steps=800, discount=1.0, target_every=1
    ),
    fault="targets",
)
failure(
    "target drift",
    "control, SGD, wide, no target network",
    "control, values",
    lambda: q_learning(
        tasks.random_process(), he(mlp(16, 256, 256, 4), 2.5), sgd(0.02), by_values=True, steps=800, target_every=0
    ),
)
failure(
    "target drift",
    "regression on targets that grow",
    "regression, tanh",
    lambda: supervised(
        lambda step: changed(teacher(), targets=teacher().targets * 1.02**step),
        mlp(16, 64, 64, 2, activation="tanh"),
        adam(3e-3),
        steps=500,
    ),
    fault="targets",
)

# -- numbers that are none
failure(
    "not a number",
    "one row holds infinity",
    "digits, relu, Adam",
    lambda: supervised(
        lambda step: _spoiled(digits(), math.inf) if step == 150 else digits(), mlp(64, 64, 64, 10), adam(1e-3)
    ),
    onset=150,
)
failure(
    "not a number",
    "missing values from step 100",
    "regression, relu, SGD",
    lambda: supervised(
        lambda step: _spoiled(teacher(), math.nan) if step >= 100 else teacher(),
        mlp(16, 64, 64, 2),
        sgd(0.1, momentum=0.9),
        steps=500,
    ),
    onset=100,
)
failure(
    "not a number",
    "logarithm of a probability of zero",
    "cancer",
    lambda: supervised(
        tasks.cancer(),
        mlp(30, 32, 32, 2),
        sgd(0.5, momentum=0.9),
        criterion=lambda data, output, target: (
            -(8 * output).exp().div((8 * output).exp().sum(1, keepdim=True)).gather(1, target[:, None]).log().mean()
        ),
    ),
    fault="loss",
)
failure(
    "not a number",
    "standard deviation of a batch of equal rows",
    "digits, relu, Adam",
    lambda: supervised(
        lambda step: changed(digits(), inputs=digits().inputs[:1].expand(1797, 64)) if step == 200 else digits(),
        mlp(64, 64, 64, 10),
        adam(1e-3),
        adjust=lambda step, loss, output: loss + 0.001 * output.var(0).sqrt().sum(),
    ),
    onset=200,
    fault="loss",
)
failure(
    "not a number",
    "softmax by hand in half precision",
    "digits, relu, Adam",
    lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(3e-3), criterion=_half_softmax),
    fault="loss",
)
failure(
    "not a number",
    "exponential of an unbounded scale",
    "regression, tanh",
    lambda: supervised(teacher(), mlp(16, 64, 64, 2, activation="tanh"), adam(3e-2), steps=500, criterion=_likelihood),
    fault="loss",
)


def _half_softmax(data: Data, output: Tensor, target: Tensor) -> Tensor:
    shares = output.half().exp()
    return -(shares / shares.sum(1, keepdim=True)).gather(1, target[:, None]).log().mean().float()


def _likelihood(data: Data, output: Tensor, target: Tensor) -> Tensor:
    """Of a normal whose log scale is the second output: nothing keeps the scale of a perfect fit from zero."""
    error = (output[:, 0] - output[:, 0].detach()).square()
    return (error * (-20 * output[:, 1]).exp() + 20 * output[:, 1]).mean()


def _spoiled(data: Data, value: float) -> Data:
    inputs = data.inputs.clone()
    inputs[::20, 0] = value
    return changed(data, inputs=inputs)


# -- data that move
def _from(at: int, later: Callable[[Data], Data], data: Callable[[], Data] = digits) -> Callable[[int], Data]:
    return lambda step: later(data()) if step >= at else data()


failure(
    "data shift",
    "inputs in other units from step 200, tanh",
    "digits, tanh, SGD",
    lambda: supervised(
        _from(200, lambda data: changed(data, inputs=300 * data.inputs + 3000)),
        mlp(64, 64, 64, 10, activation="tanh"),
        sgd(0.3),
    ),
    onset=200,
)
failure(
    "data shift",
    "inputs moved by 30 from step 200",
    "digits, relu, SGD with momentum",
    lambda: supervised(
        _from(200, lambda data: changed(data, inputs=data.inputs + 30)), mlp(64, 128, 64, 10), sgd(0.05, momentum=0.9)
    ),
    onset=200,
)
failure(
    "data shift",
    "sensor dead from step 200",
    "regression, relu, SGD",
    lambda: supervised(
        _from(200, lambda data: changed(data, inputs=0.001 * data.inputs), teacher),
        mlp(16, 64, 64, 2),
        sgd(0.1, momentum=0.9),
        steps=400,
    ),
    onset=200,
)
failure(
    "data shift",
    "images no longer scaled from step 150",
    "images, CNN, tanh",
    lambda: supervised(
        _from(150, lambda data: changed(data, inputs=20000 + 1000 * data.inputs), digit_images),
        SmallCNN(function=torch.tanh),
        adam(3e-3),
        steps=250,
    ),
    onset=150,
)
failure(
    "data shift",
    "observations rescaled from step 400, values",
    "values grow, target network",
    lambda: values(
        tasks.ring(), _value_net(), adam(3e-3), steps=600, features=lambda step, x: 500 * x + 300 if step >= 400 else x
    ),
    onset=400,
)

# -- networks that can no longer learn
failure(
    "plasticity",
    "labels reshuffled every 250 steps, 14 plain layers",
    "digits, labels reshuffled every 250 steps, layer norm",
    lambda: supervised(
        lambda step: shuffled_digits((step - 1) // 250),
        he(mlp(*widths(64, (64, 14), 10))),
        adam(3e-3),
        steps=750,
        batch=128,
    ),
)
failure(
    "plasticity",
    "labels reshuffled every 250 steps, 6 tanh layers at a high rate",
    "digits, labels reshuffled every 250 steps, layer norm",
    lambda: supervised(
        lambda step: shuffled_digits((step - 1) // 250),
        mlp(*widths(64, (64, 6), 10), activation="tanh"),
        adam(3e-2),
        steps=750,
        batch=128,
    ),
)
failure(
    "plasticity",
    "bandit, rewards far below zero at first",
    "bandit, becomes certain",
    lambda: bandit(
        mlp(8, 64, 64, 4),
        adam(3e-3),
        entropy=0.0,
        reward=lambda step, hit: hit + (50.0 if step < 80 else 0.0),
        baseline=False,
    ),
)

"""Trainings that are drawn: a number gives a task, a network, an optimizer, a quirk, and a fault with its severity.

A part that was written by hand is held out once: whoever mends a rule for it has seen it. Here a new part is a new
range of numbers. Numbers of ``TUNING`` may be looked at; those of ``HELD_OUT`` were measured once.

Every number is a pair: a training that learns, and the same one with a fault.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from benchmarks.diagnosis import tasks
from benchmarks.diagnosis.networks import Recurrent, Residual, SmallCNN, he, mlp, scaled
from benchmarks.diagnosis.register import cosine, failure, healthy, linear, torso, warmup
from benchmarks.diagnosis.rollouts import pqn
from benchmarks.diagnosis.tasks import Data, DecisionProcess, changed
from benchmarks.diagnosis.training import Setup, bandit, q_learning, supervised, values
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam, RMSprop

from stablegrad.networks import DenseNetTorso, MultiSkipTorso
from stablegrad.optimizers import Kron

TUNING = range(160)
HELD_OUT = range(1000, 1120)


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        kind: "classes", "numbers", "images", "tokens", "values", "q", "pqn" or "bandit".
        make: the data, or the decision process.
        inputs: features of a row, or kinds of tokens.
        outputs: values a row.
        goal: score of a training that learns.
        steps: optimizer steps.
    """

    kind: str
    make: Callable[[], Data | DecisionProcess | None]
    inputs: int
    outputs: int
    goal: float
    steps: int


TASKS = {
    "digits": Task("classes", tasks.digits, 64, 10, 0.85, 300),
    "digits, a fifth of the labels random": Task("classes", lambda: tasks.noisy_digits(0.2), 64, 10, 0.6, 300),
    "cancer": Task("classes", tasks.cancer, 30, 2, 0.85, 250),
    "wine": Task("classes", tasks.wine, 13, 3, 0.85, 250),
    "blobs": Task("classes", tasks.blobs, 24, 20, 0.8, 400),
    "shells": Task("classes", tasks.shells, 6, 3, 0.5, 500),
    "spirals": Task("classes", tasks.spirals, 2, 2, 0.7, 600),
    "teacher": Task("numbers", tasks.teacher, 16, 2, 0.6, 500),
    "friedman": Task("numbers", tasks.friedman, 10, 1, 0.7, 400),
    "autoencoding": Task("numbers", tasks.autoencoding, 64, 64, 0.4, 500),
    "images": Task("images", tasks.digit_images, 0, 10, 0.8, 250),
    "first token": Task("tokens", lambda: tasks.first_token(6), 4, 4, 0.8, 350),
    "values of a ring": Task("values", tasks.ring, 8, 1, 0.7, 700),
    "values of a random process": Task("values", tasks.random_process, 16, 1, 0.6, 700),
    "Q-learning, random process": Task("q", tasks.random_process, 16, 4, 0.7, 600),
    "Q-learning, garnet": Task("q", tasks.garnet, 24, 3, 0.7, 600),
    "PQN, garnet": Task("pqn", tasks.garnet, 24, 3, 0.6, 600),
    "PQN, random process": Task("pqn", tasks.random_process, 16, 4, 0.6, 600),
    "bandit": Task("bandit", lambda: None, 8, 4, 0.6, 400),
}
SUPERVISED = ("classes", "numbers", "images", "tokens")
BOUNDED = ("tanh", "sigmoid")

Action = Callable[[int, Setup], None]


def _nothing(step: int, setup: Setup) -> None:
    pass


@dataclass(frozen=True)
class Recipe:
    """One training, whole.

    Attributes:
        task: name in ``TASKS``.
        network: "plain", "residual", "multi_skip", "dense", "cnn" or "gru".
        depth: hidden layers, or blocks.
        width: of a hidden layer.
        first: width of the first hidden layer; 0: as the others.
        activation: of hidden layers.
        norm: "none", "layer" or "batch", after hidden layers.
        dropout: share of units.
        output: what stands behind the last layer.
        weights: changes the initial weights.
        optimizer: its name.
        rate: its learning rate.
        decay: weight decay.
        trained: the network's parameters to those that the optimizer gets.
        schedule: step to a factor of the rate.
        clip: gradients to this norm.
        batch: rows.
        longer: times the task's steps.
        inputs: (step, inputs) to what the network sees.
        scale: step to a factor of the targets, or of the rewards.
        adjust: (step, loss, output) to what is differentiated; of supervised training.
        event: called before each step.
        discount: what a learner of values believes; None: the truth.
        hoards: gradients are never set to zero.
    """

    task: str
    network: str
    depth: int
    width: int
    activation: str
    norm: str
    optimizer: str
    rate: float
    first: int = 0
    dropout: float = 0.0
    output: Callable[[], nn.Module] | None = None
    weights: Callable[[nn.Module], nn.Module] = lambda model: model
    decay: float = 0.0
    trained: Callable[[nn.Module], list[nn.Parameter]] = lambda model: list(model.parameters())
    schedule: Callable[[int], float] = lambda step: 1.0
    clip: float | None = None
    batch: int = 64
    longer: float = 1.0
    inputs: Callable[[int, Tensor], Tensor] = lambda step, x: x
    scale: Callable[[int], float] = lambda step: 1.0
    adjust: Callable[[int, Tensor, Tensor], Tensor] = lambda step, loss, output: loss
    event: Action = _nothing
    discount: float | None = None
    hoards: bool = False

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return round(self.longer * TASKS[self.task].steps)

    @property
    def words(self) -> str:
        """What it is."""
        norm = {"none": "", "layer": ", layer norm", "batch": ", batch norm"}[self.norm]
        sizes = (
            f"{self.depth} x {self.width}" if not self.first else f"{self.first} and {self.depth - 1} x {self.width}"
        )
        return f"{self.task}, {self.network} {sizes}, {self.activation}{norm}, {self.optimizer} {self.rate:.1e}"


def build(recipe: Recipe) -> Setup:
    """The training of a recipe."""
    task = TASKS[recipe.task]
    model = recipe.weights(_network(recipe, task))

    def optimizer(model: nn.Module) -> Optimizer:
        made = _optimizer(recipe, recipe.trained(model))
        if recipe.hoards:
            made.zero_grad = lambda set_to_none=True: None
        return made

    common = {"steps": recipe.steps, "schedule": recipe.schedule}
    source = task.make()
    if isinstance(source, Data):

        def now(step: int) -> Data:
            scale = recipe.scale(step)
            targets = source.targets if source.classes else scale * source.targets
            return changed(source, inputs=recipe.inputs(step, source.inputs), targets=targets)

        return supervised(
            now,
            model,
            optimizer,
            batch=recipe.batch,
            clip=recipe.clip,
            adjust=recipe.adjust,
            event=recipe.event,
            **common,
        )
    if source is None:
        return bandit(model, optimizer, batch=recipe.batch, reward=lambda step, hit: recipe.scale(step) * hit, **common)
    if task.kind == "q":
        return q_learning(
            source, model, optimizer, discount=recipe.discount, clip=recipe.clip, event=recipe.event, **common
        )
    common |= {"clip": recipe.clip, "reward_scale": recipe.scale, "features": recipe.inputs}
    if task.kind == "pqn":
        return pqn(source, model, optimizer, discount=recipe.discount, event=recipe.event, **common)
    process = replace(source, discount=recipe.discount) if recipe.discount is not None else source
    setup = values(process, model, optimizer, **common)
    if process is not source:
        # What is learned is another thing than what is true.
        setup.score = values(source, model, optimizer, **common).score
    return setup


def _network(recipe: Recipe, task: Task) -> nn.Module:
    functions = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid}
    if recipe.network == "cnn":
        return SmallCNN(
            recipe.width // 4, {"layer": "group"}.get(recipe.norm, recipe.norm), functions[recipe.activation]
        )
    if recipe.network == "gru":
        return Recurrent(task.inputs, recipe.width, task.outputs)
    if recipe.network == "residual":
        return Residual(task.inputs, recipe.width, recipe.depth, task.outputs, True, functions[recipe.activation])
    if recipe.network in ("multi_skip", "dense"):
        kind = {"multi_skip": MultiSkipTorso, "dense": DenseNetTorso}[recipe.network]
        return torso(kind, task.inputs, task.outputs, recipe.width, recipe.depth, activation=recipe.activation)
    widths = [recipe.first or recipe.width] + [recipe.width] * (recipe.depth - 1)
    return mlp(
        task.inputs,
        *widths,
        task.outputs,
        activation=recipe.activation,
        norm=recipe.norm,
        dropout=recipe.dropout,
        output=recipe.output() if recipe.output else None,
    )


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> Optimizer:
    match recipe.optimizer:
        case "SGD":
            return SGD(parameters, lr=recipe.rate, weight_decay=recipe.decay)
        case "momentum":
            return SGD(parameters, lr=recipe.rate, momentum=0.9, weight_decay=recipe.decay)
        case "Kron":
            return Kron(parameters, lr=recipe.rate, weight_decay=recipe.decay)
        case name:
            kinds = {"Adam": Adam, "AdamW": AdamW, "RAdam": RAdam, "RMSprop": RMSprop}
            return kinds[name](parameters, lr=recipe.rate, weight_decay=recipe.decay)


# == a training that learns ==

RATES = {
    "SGD": (0.05, 0.3), "momentum": (0.01, 0.06), "Adam": (6e-4, 4e-3), "AdamW": (6e-4, 4e-3), "RAdam": (1e-3, 4e-3),
    "RMSprop": (3e-4, 1e-3), "Kron": (5e-4, 2e-3),
}  # fmt: skip
NORMALISING = ("Adam", "AdamW", "RAdam", "RMSprop", "Kron")


def _between(draw: random.Random, least: float, most: float) -> float:
    """A number between two, even on a logarithmic scale."""
    return math.exp(draw.uniform(math.log(least), math.log(most)))


def base(draw: random.Random) -> Recipe:
    """A training that learns."""
    task = draw.choice(list(TASKS))
    kind = TASKS[task].kind
    network = {"images": "cnn", "tokens": "gru"}.get(kind) or draw.choice(
        ["plain"] * 5 + ["residual", "multi_skip", "dense"]
    )
    # Gradient descent without a mean of squares is slow where rewards are few, and in recurrence.
    slow = kind in ("q", "pqn", "bandit", "tokens") or task in ("spirals", "shells", "autoencoding")
    optimizer = draw.choice(
        ["Adam", "Adam", "AdamW", "RAdam", "RMSprop", "Kron"] + ([] if slow else ["SGD", "momentum"] * 2)
    )
    recipe = Recipe(
        task=task,
        network=network,
        depth=draw.randint(2, 4) if network == "plain" else draw.randint(2, 6),
        width=draw.choice([48, 64, 96, 128]),
        activation=draw.choice(["relu"] * 3 + ["tanh", "gelu", "silu"]) if network != "gru" else "tanh",
        norm=draw.choice(["none"] * 3 + ["layer", "batch"]) if network in ("plain", "cnn") else "none",
        optimizer=optimizer,
        rate=_between(draw, *RATES[optimizer]),
    )
    if recipe.norm == "batch" and kind not in SUPERVISED:
        recipe = replace(recipe, norm="layer")
    if kind == "numbers" and optimizer in ("SGD", "momentum"):
        recipe = replace(recipe, rate=recipe.rate / 2)
    return _with_quirk(recipe, draw)


def _with_quirk(recipe: Recipe, draw: random.Random) -> Recipe:
    """What people do besides, and what looks ill and is not."""
    steps, kind = recipe.steps, TASKS[recipe.task].kind
    quirk = draw.choice(["none"] * 6 + ["cosine", "line", "warm-up", "clipped", "clipped", "decay", "longer", "dropout"]
                        + ["small batches", "spikes", "drift", "tiny loss", "sparse"])  # fmt: skip
    if quirk == "cosine":
        return replace(recipe, schedule=cosine(steps))
    if quirk == "line":
        return replace(recipe, schedule=linear(steps))
    if quirk == "warm-up":
        return replace(recipe, schedule=warmup(steps // 5))
    if quirk == "clipped":
        return replace(recipe, clip=_between(draw, 0.3, 5.0))
    if quirk == "decay":
        strength = 0.1 if recipe.optimizer in ("AdamW", "Kron") else 1e-4
        return replace(recipe, decay=_between(draw, strength / 10, strength))
    if quirk == "longer":
        return replace(recipe, longer=2.5)
    if quirk == "dropout" and recipe.network == "plain" and kind in ("classes", "numbers"):
        return replace(recipe, dropout=draw.uniform(0.1, 0.3))
    if quirk == "small batches" and kind == "classes":
        return replace(recipe, batch=16)
    if quirk == "spikes" and kind in SUPERVISED:
        every = draw.randint(40, 90)
        return replace(recipe, clip=1.0, adjust=lambda step, loss, _: loss * (300 if step % every == 0 else 1))
    if quirk == "drift" and kind == "classes":
        return replace(recipe, inputs=lambda step, x: x * (1 + step / steps))
    if quirk == "tiny loss" and kind in SUPERVISED and recipe.optimizer in NORMALISING:
        return replace(recipe, adjust=lambda step, loss, _: 1e-3 * loss)
    if quirk == "sparse" and recipe.network == "plain" and recipe.activation == "relu":
        return replace(recipe, weights=lambda model: _biased(model, -0.1, slice(0, -1)))
    return recipe


# == faults: a recipe to (the healthy one, the ill one, onset) ==

Fault = Callable[[Recipe, random.Random], tuple[Recipe, Recipe, int]]


def _layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _biased(model: nn.Module, bias: float, layers: slice) -> nn.Module:
    with torch.no_grad():
        for layer in _layers(model)[layers]:
            layer.bias.fill_(bias)
    return model


def _plain(recipe: Recipe, draw: random.Random, *, activations: tuple[str, ...] = ()) -> Recipe:
    """The recipe with a network without norms and skips."""
    kind = TASKS[recipe.task].kind
    activation = draw.choice(activations) if activations else recipe.activation
    if kind == "tokens":
        recipe = replace(recipe, task="digits")
    network = "cnn" if kind == "images" else "plain"
    depth = recipe.depth if network == "cnn" else min(max(recipe.depth, 2), 4)
    return replace(
        recipe,
        network=network,
        norm="none",
        depth=depth,
        activation=activation,
        dropout=0.0,
        weights=lambda model: model,
    )


def _flat(recipe: Recipe, draw: random.Random) -> Recipe:
    """The recipe of a task whose rows are vectors."""
    if TASKS[recipe.task].kind in ("images", "tokens"):
        recipe = replace(recipe, task=draw.choice(["digits", "cancer", "blobs"]), network="plain")
    return recipe


def _later(recipe: Recipe, draw: random.Random) -> int:
    """A step on the way."""
    return round(draw.uniform(0.25, 0.5) * recipe.steps)


def too_deep(recipe: Recipe, draw: random.Random):
    """Plain layers of torch's own initialisation until the gradient is lost."""
    well = _plain(_flat(recipe, draw), draw, activations=("relu", "relu", "tanh", "sigmoid", "gelu", "silu"))
    depth = {"sigmoid": (7, 14), "tanh": (20, 32)}.get(well.activation, (14, 28))
    ill = replace(well, depth=draw.randint(*depth))
    return (replace(well, activation="tanh") if well.activation == "sigmoid" else well), ill, 1


def saturated(recipe: Recipe, draw: random.Random):
    """Weights, or inputs, so large that bounded activations sit at their ends."""
    well = _plain(recipe, draw, activations=BOUNDED if TASKS[recipe.task].kind != "images" else ("tanh",))
    well = replace(well, depth=draw.randint(2, 3), inputs=lambda step, x: x)
    if draw.random() < 0.5 or TASKS[well.task].kind in ("q", "bandit", "images"):
        factor = _between(draw, 40, 200)
        return well, replace(well, weights=lambda model: scaled(model, factor, slice(0, -1))), 1
    factor = _between(draw, 200, 3000)
    return well, replace(well, inputs=lambda step, x: factor * (x + 1)), 1


def tiny_weights(recipe: Recipe, draw: random.Random):
    """Initial weights of next to nothing."""
    well = _plain(recipe, draw)
    gain = _between(draw, 1e-3, 0.03)
    return well, replace(well, depth=max(well.depth, 3), weights=lambda model: he(model, gain)), 1


def exploding_weights(recipe: Recipe, draw: random.Random):
    """Initial weights that stretch what passes through them, layer by layer."""
    well = _plain(_flat(recipe, draw), draw, activations=("relu", "gelu", "silu"))
    gain, depth = draw.uniform(3.5, 6.0), draw.randint(8, 14)
    return well, replace(well, depth=depth, weights=lambda model: he(model, gain)), 1


def wrong_sign(recipe: Recipe, draw: random.Random):
    """A loss that is maximised."""
    well = _supervised(recipe, draw)
    return well, replace(well, adjust=lambda step, loss, output: -well.adjust(step, loss, output)), 1


def hoarded(recipe: Recipe, draw: random.Random):
    """Gradients that are never set to zero."""
    return recipe, replace(recipe, hoards=True), 1


def dead_relus(recipe: Recipe, draw: random.Random):
    """ReLU units that start below zero for every row."""
    well = _plain(recipe, draw, activations=("relu",))
    bias, hidden = -_between(draw, 6, 20), slice(0, -1) if draw.random() < 0.5 else slice(1, 2)
    return well, replace(well, depth=max(well.depth, 3), weights=lambda model: _biased(model, bias, hidden)), 1


def _bottleneck(recipe: Recipe, draw: random.Random) -> Recipe:
    """A narrow first layer, without which little can be known."""
    task = draw.choice(["digits", "blobs", "teacher"])
    kind = "momentum" if recipe.optimizer == "SGD" else recipe.optimizer
    rate = 0.03 if kind == "momentum" else 4e-3
    return replace(
        Recipe(task, "plain", 2, recipe.width, "relu", "none", kind, rate), first=4, longer=1.6, clip=recipe.clip
    )


def frozen_layer(recipe: Recipe, draw: random.Random):
    """A layer that the optimizer was not given."""
    well = _bottleneck(recipe, draw)
    return well, replace(well, trained=lambda model: [p for layer in list(model)[1:] for p in layer.parameters()]), 1


def frozen_head(recipe: Recipe, draw: random.Random):
    """A small head that the optimizer was not given."""
    well = _plain(recipe, draw)

    def shrunk(model: nn.Module) -> nn.Module:
        return scaled(model, 1e-3, slice(-1, None))

    def body(model: nn.Module) -> list[nn.Parameter]:
        head = {id(parameter) for parameter in _layers(model)[-1].parameters()}
        return [parameter for parameter in model.parameters() if id(parameter) not in head]

    return well, replace(well, weights=shrunk, trained=body), 1


def cut_off(recipe: Recipe, draw: random.Random):
    """Features that are detached behind a narrow layer."""
    well = _bottleneck(recipe, draw)

    def cut(model: nn.Module) -> nn.Module:
        model[0].register_forward_hook(lambda module, args, output: output.detach())
        return model

    return well, replace(well, weights=cut), 1


def alike(recipe: Recipe, draw: random.Random):
    """Units of a layer that all start the same."""
    well = _plain(recipe, draw)

    def equal(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for layer in _layers(model)[:-1]:
                layer.weight.fill_(1 / layer.weight[0].numel())
                layer.bias.zero_()
            _layers(model)[-1].weight.fill_(0.05)
        return model

    return well, replace(well, weights=equal), 1


def crushing_decay(recipe: Recipe, draw: random.Random):
    """Weight decay that leaves nothing of what is learned."""
    well = replace(recipe, optimizer=draw.choice(["AdamW", "AdamW", "momentum"]), decay=0.0)
    well = replace(
        well, rate=2e-3 if well.optimizer == "AdamW" else 0.03, norm="none" if well.norm == "batch" else well.norm
    )
    if TASKS[well.task].kind in ("q", "pqn", "bandit", "tokens") or well.task in ("spirals", "shells", "autoencoding"):
        well = replace(well, optimizer="AdamW", rate=2e-3)
    strength = _between(draw, 0.03, 0.12) / well.rate
    return well, replace(well, decay=strength), 1


def crushing_penalty(recipe: Recipe, draw: random.Random):
    """A penalty on the outputs that outweighs the loss."""
    well, strength = _supervised(recipe, draw), _between(draw, 10, 300)
    return well, replace(well, adjust=lambda step, loss, output: loss + strength * output.var(0).sum()), 1


def narrow_norm(recipe: Recipe, draw: random.Random):
    """A norm over one or two values."""
    well, groups = _bottleneck(recipe, draw), draw.choice([2, 4])

    def normed(model: nn.Module) -> nn.Module:
        model[1] = nn.Sequential(nn.GroupNorm(groups, 4), model[1])
        return model

    return well, replace(well, weights=normed), 1


def high_rate(recipe: Recipe, draw: random.Random):
    """A learning rate far too high."""
    well = _plain(recipe, draw) if draw.random() < 0.5 else recipe
    times = _between(draw, 60, 1000) if well.optimizer in NORMALISING else _between(draw, 60, 300)
    return well, replace(well, rate=times * well.rate), 1


def low_rate(recipe: Recipe, draw: random.Random):
    """A learning rate far too low."""
    return recipe, replace(recipe, rate=_between(draw, 1e-5, 3e-3) * recipe.rate, longer=1.0), 1


def stale_state(recipe: Recipe, draw: random.Random):
    """Squared gradients of another scale in the optimizer, as of a checkpoint of another task."""
    well = recipe if recipe.optimizer in ("Adam", "AdamW") else replace(recipe, optimizer="Adam", rate=2e-3)
    well = replace(well, schedule=lambda step: 1.0, longer=1.0)
    well = well if TASKS[well.task].kind not in ("values", "bandit") else replace(well, task="digits", network="plain")
    factor, at = _between(draw, 1e6, 1e10), draw.randint(3, 12)

    def spoil(step: int, setup: Setup) -> None:
        if step == at:
            for state in setup.optimizer.state.values():
                state["exp_avg_sq"].mul_(factor)

    return well, replace(well, event=spoil), at


def running_targets(recipe: Recipe, draw: random.Random):
    """Values that are learned from themselves at a discount above 1."""
    task = draw.choice([name for name, task in TASKS.items() if task.kind in ("values", "q")])
    well = (
        recipe
        if TASKS[recipe.task].kind in ("values", "q")
        else replace(recipe, task=task, network="plain", norm="none")
    )
    well = replace(well, optimizer="Adam", rate=2e-3, adjust=lambda step, loss, _: loss, dropout=0.0)
    well = replace(well, schedule=lambda step: 1.0, inputs=lambda step, x: x, batch=64)
    return well, replace(well, discount=draw.uniform(1.03, 1.2)), 1


def growing_targets(recipe: Recipe, draw: random.Random):
    """Targets, or rewards, that grow and grow."""
    names = [name for name, task in TASKS.items() if task.kind in ("numbers", "values")]
    well = recipe if recipe.task in names else replace(recipe, task=draw.choice(names), network="plain", norm="none")
    well = replace(well, optimizer="Adam", rate=2e-3, schedule=lambda step: 1.0, inputs=lambda step, x: x, batch=64)
    growth = _between(draw, 1e3, 1e6)
    return well, replace(well, scale=lambda step: growth ** (step / well.steps)), well.steps // 10


def bad_numbers(recipe: Recipe, draw: random.Random):
    """A loss that is no number from some step on."""
    well = _supervised(recipe, draw)
    at, number = _later(well, draw), draw.choice([math.nan, math.inf])

    def spoiled(step: int, loss: Tensor, output: Tensor) -> Tensor:
        return well.adjust(step, loss, output) + (number * output.sum() if step >= at else 0.0)

    return well, replace(well, adjust=spoiled), at


def bad_inputs(recipe: Recipe, draw: random.Random):
    """Inputs that are no numbers from some step on, and clean ones when the score is taken."""
    well = _supervised(_flat(recipe, draw), draw)
    at = _later(well, draw)

    def holed(step: int, x: Tensor) -> Tensor:
        x = well.inputs(step, x)
        return torch.where(torch.rand(x.shape, generator=tasks.seeded(1)) < 0.02, math.nan, x) if step >= at else x

    return well, replace(well, inputs=holed), at


def moved_inputs(recipe: Recipe, draw: random.Random):
    """Inputs that move far away."""
    well = _supervised(_flat(recipe, draw), draw)
    at, shift, factor = _later(well, draw), draw.choice([0.0, 30.0, 100.0]), _between(draw, 20, 200)
    well = replace(well, inputs=lambda step, x: x)
    return (
        well,
        replace(well, inputs=lambda step, x: factor * x + shift if step >= at else x, schedule=cosine(well.steps)),
        at,
    )


def unscaled_inputs(recipe: Recipe, draw: random.Random):
    """Inputs in the thousands from the beginning on."""
    well = _plain(_supervised(_flat(recipe, draw), draw), draw)
    well = replace(
        well,
        optimizer=draw.choice(["SGD", "momentum"]),
        inputs=lambda step, x: x,
        task=draw.choice(["digits", "blobs"]),
    )
    well = replace(well, rate=_between(draw, *RATES[well.optimizer]))
    factor = _between(draw, 300, 1e4)
    return well, replace(well, inputs=lambda step, x: factor * (x + 1)), 1


def unscaled_targets(recipe: Recipe, draw: random.Random):
    """Targets, or rewards, in the tens of thousands."""
    names = [name for name, task in TASKS.items() if task.kind in ("numbers", "values")]
    well = recipe if recipe.task in names else replace(recipe, task=draw.choice(names), network="plain", norm="none")
    well = replace(well, inputs=lambda step, x: x, batch=64)
    well = (
        replace(well, optimizer=draw.choice(["Adam", "AdamW", "RAdam"]), rate=2e-3)
        if well.optimizer == "Kron"
        else well
    )
    factor = _between(draw, 3e3, 3e5)
    return well, replace(well, scale=lambda step: factor), 1


def blocked_head(recipe: Recipe, draw: random.Random):
    """An activation behind the last layer that cannot say what is wanted."""
    well = _plain(recipe, draw)
    well = well if TASKS[well.task].kind in ("numbers", "values") else replace(well, task="teacher", network="plain")
    well = replace(well, inputs=lambda step, x: x, batch=64)
    kind = draw.choice(["relu", "sigmoid"])
    lifted = {
        "relu": lambda: nn.Sequential(_Minus(8.0), nn.ReLU()),
        "sigmoid": lambda: nn.Sequential(_Minus(30.0), nn.Sigmoid()),
    }
    return well, replace(well, network="plain", output=lifted[kind]), 1


class _Minus(nn.Module):
    def __init__(self, number: float):
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        """Takes the number off."""
        return x - self.number


def burst(recipe: Recipe, draw: random.Random):
    """Some steps at many times the rate."""
    well = replace(recipe, clip=None)
    if well.optimizer == "Kron":
        well = replace(well, optimizer="Adam", rate=2e-3)
    at, times, long = _later(well, draw), _between(draw, 500, 5000), draw.randint(2, 5)
    return well, replace(well, schedule=lambda step: well.schedule(step) * (times if at <= step < at + long else 1)), at


def early_end(recipe: Recipe, draw: random.Random):
    """A schedule that takes the rate away long before the end of learning."""
    well = replace(recipe, schedule=lambda step: 1.0, longer=1.0)
    half = draw.uniform(0.5, 2.0)
    return well, replace(well, schedule=lambda step: 0.5 ** (step / half)), 5


def _supervised(recipe: Recipe, draw: random.Random) -> Recipe:
    """The recipe of a task with a loss of one's own."""
    if TASKS[recipe.task].kind not in SUPERVISED:
        task = draw.choice([name for name, task in TASKS.items() if task.kind in ("classes", "numbers")])
        recipe = replace(recipe, task=task)
    return recipe


#: Kind of failure, fault, and the key in ``BY_HAND`` where only a person can take it out.
FAULTS: tuple[tuple[str, Fault, str], ...] = (
    ("vanishing: depth", too_deep, ""),
    ("vanishing: depth", too_deep, ""),
    ("vanishing: saturation", saturated, ""),
    ("vanishing: tiny weights", tiny_weights, ""),
    ("exploding", exploding_weights, ""),
    ("exploding", wrong_sign, ""),
    ("exploding", hoarded, ""),
    ("dying relu", dead_relus, ""),
    ("frozen layer", frozen_layer, ""),
    ("dead head", frozen_head, ""),
    ("cut off", cut_off, "cut"),
    ("rank collapse", alike, ""),
    ("rank collapse", crushing_decay, ""),
    ("rank collapse", crushing_penalty, ""),
    ("over-normalised", narrow_norm, ""),
    ("rate too high", high_rate, ""),
    ("rate too high", high_rate, ""),
    ("rate too low", low_rate, ""),
    ("stale state", stale_state, ""),
    ("target drift", running_targets, "targets"),
    ("target drift", growing_targets, "targets"),
    ("no numbers", bad_numbers, "loss"),
    ("no numbers", bad_inputs, ""),
    ("data shift", moved_inputs, ""),
    ("unscaled", unscaled_inputs, ""),
    ("unscaled", unscaled_targets, "targets"),
    ("blocked output", blocked_head, "blocked"),
    ("rate too high", burst, ""),
    ("rate too low", early_end, ""),
)


def pair(number: int) -> tuple[str, Recipe, Recipe, int, str, str]:
    """(kind, healthy recipe, ill recipe, onset, name of the fault, key in ``BY_HAND``) of a number."""
    draw = random.Random(number)
    kind, fault, by_hand = draw.choice(FAULTS)
    well, ill, onset = fault(base(draw), draw)
    return kind, well, ill, onset, fault.__name__, by_hand


def _keep(number: int, part: str) -> None:
    kind, well, ill, onset, fault, by_hand = pair(number)
    twin = f"{number}: {well.words}"
    healthy(twin, TASKS[well.task].goal, lambda: build(well), part)
    failure(kind, f"{number}: {fault.replace('_', ' ')}, {ill.words}", twin, lambda: build(ill), onset, by_hand, part)


for _number in TUNING:
    _keep(_number, "drawn")
for _number in HELD_OUT:
    _keep(_number, "drawn-held-out")

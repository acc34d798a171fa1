"""A synthetic task that moves: random labels for random inputs, reshuffled again and again.

What fails in deep reinforcement learning when networks grow is learning anew, when data and targets move, more than
learning at all (arXiv 2506.15544; the random-label probes of Lyle et al., arXiv 2303.01486). Here a few rows are
learned by heart, then get other labels, and so on: hours of ageing in a minute. All networks that are compared see the
same rows, labels and batches, in turns, so that their times can be compared as well.
"""

from __future__ import annotations

import copy
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stablegrad.diagnostics.changes import all_layers
from stablegrad.diagnostics.outputs import first_tensor
from stablegrad.errors import UsageError
from stablegrad.optimizers import Kron

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]

#: Rows to learn by heart, by the least number of features that tells so many apart. Many rows tell more than few: on 64
#: of them networks of 22 layers that fail in training were the fastest of all (docs/benchmarks.md).
ROWS = ((8, 256), (3, 64), (1, 32))
#: Parameters a row that a network needs to learn labels by heart; one with fewer learns fewer rows, 32 at least.
PARAMETERS_PER_ROW = 8
BATCH = 64
PHASES = 4
STEPS = 240
#: With fewer steps a phase, or fewer phases, no network learns enough to be judged by it.
FEWEST_STEPS = 80
FEWEST_PHASES = 3
#: Outputs that are taken for one class each; wider outputs are projected to ``PROJECTED`` classes.
WIDEST = 32
PROJECTED = 10
#: Autograd's names of what keeps outputs between two ends, and what such outputs are multiplied by to be logits.
BOUNDED = ("TanhBackward", "SigmoidBackward", "HardtanhBackward", "HardsigmoidBackward")
BOUNDED_GAIN = 10.0

#: Adam's rates, about four and one times what agents use for vectors and for images: at them 12 plain layers lose the
#: ability to learn within four phases, with LayerNorm and without, while small and multi-skip networks keep it
#: (benchmarks/preflight.py).
VECTOR_RATE = 2e-3
IMAGE_RATE = 3e-4
#: Random images are drawn in blocks of this many pixels, as real ones are no white noise.
BLOCK = 12


def default_optimizer(sample: Tensor) -> OptimizerFactory:
    """Adam at the rate for inputs like ``sample``: [rows, features], or anything of more dimensions."""
    return lambda parameters: Adam(parameters, lr=default_rate(sample))


def reference_optimizer(sample: Tensor) -> OptimizerFactory:
    """Kron at the same rate: with it a small network learns anew about as fast as anything does."""
    return lambda parameters: Kron(parameters, lr=default_rate(sample))


def default_rate(sample: Tensor) -> float:
    """The learning rate for inputs like ``sample``."""
    return VECTOR_RATE if sample.ndim <= 2 else IMAGE_RATE


@dataclass(frozen=True)
class Task:
    """Rows and their labels.

    Attributes:
        inputs: [rows, ...], of the sample's shape, type and device.
        labels: [phases, rows] int64, every class equally often.
        classes: number of classes.
        batches: [phases, steps, n] the rows of every step, int64; every row comes equally often.
        logits: the network's output as one number a class, [rows, ...] to [rows, classes].
    """

    inputs: Tensor
    labels: Tensor
    classes: int
    batches: Tensor
    logits: Callable[[Any], Tensor]

    @property
    def phases(self) -> int:
        """How often labels are learned."""
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Optimizer steps a phase."""
        return self.batches.shape[1]


@dataclass
class Contestant:
    """One network that learns the task.

    Attributes:
        model: the network, changed in place.
        optimizer: what trains it.
        before_phase: called before every phase but the first.
        logits: its output as one number a class; None: as of the task's network.
        fits: accuracy over all rows at the end of each phase, in evaluation mode.
        accuracies: mean accuracy over the steps of each phase: how fast labels were learned.
        seconds: time of every step.
    """

    model: nn.Module
    optimizer: Optimizer
    before_phase: Callable[[Contestant], None] | None = None
    logits: Callable[[Any], Tensor] | None = None
    fits: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        """Median time of a step; the first one, which also prepares, counts where there is no other."""
        return statistics.median(self.seconds[1:] or self.seconds)


def check_model(model: nn.Module, sample: Tensor | None) -> Tensor:
    """The sample; raises UsageError, in one line, for what can be seen to be wrong before a forward pass."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    name = type(model).__name__
    if sample is None:
        layer = next(iter(all_layers(model)), None)
        shape = f"8, {layer.in_features}" if isinstance(layer, nn.Linear) else "8, 4, 84, 84"
        raise UsageError(f"give a sample of the inputs of {name} as well, [rows, ...], such as torch.randn({shape})")
    if not isinstance(sample, Tensor):
        raise UsageError(
            f"sample_input must be one tensor of [rows, ...], got {type(sample).__name__}; wrap the model so that it "
            "takes one"
        )
    parameters = list(model.parameters())
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in parameters):
        raise UsageError(f"{name} has lazy layers; call it once before it is diagnosed")
    if not parameters:
        raise UsageError(f"{name} has no parameters; give the network that is trained")
    if not any(parameter.requires_grad for parameter in parameters):
        raise UsageError(f"no parameter of {name} is trained (requires_grad is False everywhere)")
    if sample.device != parameters[0].device:
        raise UsageError(
            f"the sample is on {sample.device}, the model on {parameters[0].device}; move one to the other"
        )
    if sample.ndim < 2 or not len(sample):
        first = "no rows" if sample.ndim >= 2 else "no batch dimension"
        raise UsageError(
            f"the sample of shape {tuple(sample.shape)} has {first}; expected [rows, ...], such as sample.unsqueeze(0)"
        )
    if sample.is_complex() or (sample.is_floating_point() and not sample.isfinite().all()):
        raise UsageError("the sample must hold finite real numbers")
    return sample


def draw_inputs(sample: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Random inputs like a sample.

    Numbers are normal with the sample's mean and deviation: of every feature where it has 8 rows or more, else of all
    values together; a constant sample gives mean 0 and deviation 1 (bytes: the middle, and 74). Images and longer
    shapes are drawn in blocks of 12 x 12 pixels. Truth values have the sample's share of True. Token ids and other
    integers are drawn evenly between the smallest and the largest of the sample.

    Args:
        sample: [n, ...].
        rows: how many to draw.
        generator: where from, on the CPU.

    Returns:
        [rows, ...] of the sample's type and device.

    Raises:
        UsageError: integers of which the sample holds only one.
    """
    shape = (rows, *sample.shape[1:])
    if sample.dtype == torch.bool:
        share = float(sample.float().mean())
        drawn = torch.rand(shape, generator=generator) < (share if 0 < share < 1 else 0.5)
        return drawn.to(sample.device)
    if not sample.is_floating_point() and sample.dtype != torch.uint8:
        low, high = int(sample.min()), int(sample.max())
        if low == high:
            raise UsageError(
                f"integer inputs are drawn between the smallest and the largest of the sample, and all of it is {low}; "
                "give a sample with both ends, or, to a network that takes numbers, sample.float()"
            )
        return torch.randint(low, high + 1, shape, generator=generator, dtype=sample.dtype).to(sample.device)
    known = sample.detach().cpu().double()
    mean, deviation = moments(known, sample.dtype)
    if sample.ndim >= 4:
        sides = [math.ceil(side / BLOCK) for side in shape[-2:]]
        noise = torch.randn(*shape[:-2], *sides, generator=generator, dtype=torch.float64)
        noise = noise.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., : shape[-2], : shape[-1]]
    else:
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    drawn = mean + deviation * noise
    if sample.dtype == torch.uint8:
        drawn = drawn.round().clamp(0, 255)
    return drawn.to(sample.device, sample.dtype)


def moments(sample: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and deviation to draw with, of one shape that can be broadcast to a row."""
    if sample.std(correction=0) == 0:
        middle, spread = (127.5, 73.9) if dtype == torch.uint8 else (float(sample.flatten()[0]), 1.0)
        return torch.tensor(middle), torch.tensor(spread)
    if len(sample) >= 8:
        deviation, mean = torch.std_mean(sample, dim=0, correction=0)
        return mean, deviation
    deviation, mean = torch.std_mean(sample, correction=0)
    return mean, deviation


def make_task(model: nn.Module, sample: Tensor, *, seed: int, phases: int = PHASES, steps: int = STEPS) -> Task:
    """The task for a network and inputs like a sample; the network is run once, as it is.

    Raises:
        UsageError: see :func:`check_model`; the model refuses inputs of that shape, or returns nothing that can be
            learned from: no tensor, other rows than it was given, numbers that are not finite, no gradient.
    """
    check_model(model, sample)
    generator = torch.Generator().manual_seed(seed)
    features = math.prod(sample.shape[1:])
    room = trained_parameters(model) // PARAMETERS_PER_ROW
    rows = next(rows for least, rows in ROWS if features >= least)
    rows = min(rows, 2 ** max(room.bit_length() - 1, 5))
    batch = min(BATCH, rows // 2)
    inputs = draw_inputs(sample, rows, generator)
    output, bounded = output_of(model, inputs, sample)
    logits, classes = readout(output.detach(), bounded, generator)
    even = torch.arange(rows) % classes
    labels = torch.stack([even[torch.randperm(rows, generator=generator)] for _ in range(phases)])
    epochs = math.ceil(phases * steps * batch / rows)
    orders = [torch.randperm(rows, generator=generator).view(-1, batch) for _ in range(epochs)]
    batches = torch.cat(orders)[: phases * steps].view(phases, steps, batch)
    return Task(inputs, labels.to(inputs.device), classes, batches.to(inputs.device), logits)


def trained_parameters(model: nn.Module) -> int:
    """Number of values that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def is_small(model: nn.Module, inputs: Tensor) -> bool:
    """Whether a network cannot learn labels of random rows by heart, however healthy it is.

    With too few trained parameters for that; or a single layer, which tells no more rows apart than its inputs are wide
    (Cover 1965).
    """
    rows, features = len(inputs), math.prod(inputs.shape[1:])
    single = len(list(model.parameters())) <= 2 and len(all_layers(model)) == 1
    return trained_parameters(model) < PARAMETERS_PER_ROW * rows or (single and features < rows)


def output_of(model: nn.Module, inputs: Tensor, sample: Tensor) -> tuple[Tensor, bool]:
    """What the network makes of the inputs, [rows, width], and whether it comes out of tanh or the like."""
    name = type(model).__name__
    try:
        returned = model(inputs)
    except Exception as error:
        if _takes(model, sample.unsqueeze(0)):
            raise UsageError(
                f"the sample of shape {tuple(sample.shape)} has no batch dimension: {name} takes "
                f"{(1, *sample.shape)}; give sample.unsqueeze(0)"
            ) from error
        said = " ".join(str(error).split())
        raise UsageError(
            f"{name} refuses inputs of shape {tuple(inputs.shape)}, {str(inputs.dtype).removeprefix('torch.')}: "
            f"{type(error).__name__}: {said}{_other_type(model, inputs)}"
        ) from error
    output = values_of(returned)
    if output is None:
        raise UsageError(
            f"{name} returns {_kind(returned)} without a floating-point tensor of [rows, values]; wrap it so that it "
            "returns the tensor that is trained"
        )
    if len(output) != len(inputs):
        raise UsageError(
            f"{name} returns {len(output)} rows for {len(inputs)}; expected as many: is the batch the first dimension?"
        )
    if not output.isfinite().all():
        raise UsageError(f"{name} returns numbers that are not finite, before any training, for inputs like the sample")
    if not output.requires_grad:
        raise UsageError(f"the output of {name} carries no gradient: it is detached, or made under torch.no_grad()")
    first = first_tensor(returned)
    return output, first is not None and type(first.grad_fn).__name__.startswith(BOUNDED)


def _other_type(model: nn.Module, inputs: Tensor) -> str:
    """What may be wrong where numbers are of another type than the parameters; "" where they are not."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if inputs.dtype in kinds or len(kinds) != 1 or not all_layers(model):
        return ""
    (kind,) = kinds
    return f"; its parameters are {kind}: try sample.to({kind})"


def _takes(model: nn.Module, inputs: Tensor) -> bool:
    try:
        with torch.no_grad():
            output = values_of(model(inputs))
    except Exception:  # noqa: BLE001 - whatever a network says to an input that it does not take
        return False
    return output is not None and len(output) == 1


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def values_of(returned: Any) -> Tensor | None:
    """[rows, width] float32: all values that a network returns for a row, side by side; None where there are none.

    Every head has to learn: one that is left out would look like a layer that gets no gradient. So all floating-point
    tensors of tuples, lists and dictionaries count that have as many rows as the first, and carry a gradient if it
    does.
    """
    first = first_tensor(returned)
    if first is None:
        return None
    found = [
        one
        for one in _tensors(returned)
        if one is not first and len(one) == len(first) and one.requires_grad == first.requires_grad
    ]
    return torch.cat([one.float().flatten(1) for one in (first, *found)], dim=1)


def _tensors(returned: Any) -> Iterator[Tensor]:
    if isinstance(returned, Tensor):
        if returned.is_floating_point() and returned.ndim >= 2:
            yield returned
    elif isinstance(returned, Mapping):
        for part in returned.values():
            yield from _tensors(part)
    elif isinstance(returned, tuple | list):
        for part in returned:
            yield from _tensors(part)


def readout(output: Tensor, bounded: bool, generator: torch.Generator) -> tuple[Callable[[Any], Tensor], int]:
    """(what turns a network's output into logits, number of classes), by the output before training.

    A single value is held against the value it begins with; probabilities become their logarithms; more than 32 values
    are projected to ten by a fixed random matrix; what comes out of tanh or sigmoid is enlarged, as labels would
    otherwise drive it to its ends, which no task of the network's own may do.
    """
    width = output.shape[1]
    gain = BOUNDED_GAIN if bounded else 1.0
    if width == 1:
        middle = output.mean()

        def signed(returned: Any) -> Tensor:
            value = gain * (plain_logits(returned) - middle)
            return torch.cat([-value, value], dim=1)

        return signed, 2
    if width > WIDEST:
        matrix = torch.randn(width, PROJECTED, generator=generator).to(output.device) * gain / math.sqrt(width)
        return lambda returned: plain_logits(returned) @ matrix, PROJECTED
    ones = torch.ones(len(output), device=output.device)
    if (output >= 0).all() and torch.allclose(output.sum(dim=1), ones, atol=1e-4):
        return lambda returned: (plain_logits(returned) + 1e-8).log(), width
    return (lambda returned: gain * plain_logits(returned)) if bounded else plain_logits, width


def plain_logits(returned: Any) -> Tensor:
    """A network's output as it is: one value a class."""
    values = values_of(returned)
    assert values is not None  # it was there when the task was made
    return values


def learn(task: Task, contestants: Mapping[str, Contestant], *, deadline: float = math.inf) -> bool:
    """Let networks learn the task side by side, step by step in turns.

    A phase that is not finished in time leaves no figures.

    Args:
        task: what to learn.
        contestants: networks by name; their figures are added to.
        deadline: ``time.perf_counter()`` at which to stop.

    Returns:
        whether all phases were finished.
    """
    for contestant in contestants.values():
        contestant.model.train()
    for phase in range(task.phases):
        labels = task.labels[phase]
        right = {name: torch.zeros((), device=labels.device) for name in contestants}
        for contestant in contestants.values():
            if phase and contestant.before_phase is not None:
                contestant.before_phase(contestant)
        for batch in task.batches[phase]:
            if time.perf_counter() > deadline:
                return False
            inputs, targets = task.inputs[batch], labels[batch]
            for name, contestant in contestants.items():
                right[name] += _step(contestant, task, inputs, targets)
        for name, contestant in contestants.items():
            contestant.accuracies.append(float(right[name]) / task.steps)
            contestant.fits.append(_fit(contestant, task, labels))
    return True


def _step(contestant: Contestant, task: Task, inputs: Tensor, targets: Tensor) -> Tensor:
    """One optimizer step; the share of the rows that was right before it, a tensor of no dimensions."""
    started = time.perf_counter()
    logits = (contestant.logits or task.logits)(contestant.model(inputs))
    loss = F.cross_entropy(logits, targets)
    contestant.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    contestant.optimizer.step()
    right = (logits.detach().argmax(dim=1) == targets).float().mean()
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    contestant.seconds.append(time.perf_counter() - started)
    return right


@torch.no_grad()
def _fit(contestant: Contestant, task: Task, labels: Tensor) -> float:
    contestant.model.eval()
    right = (contestant.logits or task.logits)(contestant.model(task.inputs)).argmax(dim=1) == labels
    contestant.model.train()
    return float(right.float().mean())


def above_chance(accuracy: float, classes: int) -> float:
    """Accuracy on a scale on which guessing is 0 and all right is 1; never below 0."""
    return max((accuracy - 1 / classes) / (1 - 1 / classes), 0.0)


def late(figures: list[float]) -> float:
    """Mean over the later half of the phases."""
    return statistics.fmean(figures[len(figures) // 2 :])


def rehearse(task: Task, make: Callable[[], Contestant]) -> float:
    """Seconds of a step of a contestant at its fastest; it is made for this and thrown away.

    Raises:
        UsageError: it cannot be trained.
    """
    contestant = make()
    contestant.model.train()
    batch = task.batches[0, 0]
    try:
        for _ in range(4):
            _step(contestant, task, task.inputs[batch], task.labels[0, batch])
    except UsageError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise UsageError(
            f"{type(contestant.model).__name__} cannot be trained: {type(error).__name__}: {said}"
        ) from error
    return min(contestant.seconds)


def plan(step_seconds: float, seconds: float, phases: int, *, spent: float, runs: int = 1) -> tuple[int, int]:
    """(phases, steps a phase) that fit into a time: fewer steps first, then fewer phases.

    Args:
        step_seconds: time of a step.
        seconds: time for everything.
        phases: wanted at most.
        spent: what of the time is gone.
        runs: how often all phases are gone through.

    Raises:
        UsageError: not even the fewest that say something fit.
    """
    fewest = min(FEWEST_PHASES, phases)
    affordable = int(max(seconds - spent, 0) / runs / max(step_seconds, 1e-9))
    if affordable < fewest * FEWEST_STEPS:
        needed = math.ceil(spent + runs * fewest * FEWEST_STEPS * step_seconds)
        raise UsageError(
            f"a step takes {step_seconds * 1e3:,.0f} ms, and the least that says something is {fewest} phases of "
            f"{FEWEST_STEPS} steps{f', {runs} times' if runs > 1 else ''}: give it at least {needed:,} seconds"
        )
    phases = min(phases, affordable // FEWEST_STEPS)
    return phases, min(affordable // phases, STEPS)


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from ``seed``; afterwards all streams of the program are as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy to train, with gradients of its own.

    Raises:
        UsageError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        said = " ".join(str(error).split())
        raise UsageError(
            f"{type(model).__name__} cannot be copied, and a trial must not touch it: {type(error).__name__}: {said}"
        ) from error


def optimizer_of(model: nn.Module, factory: OptimizerFactory) -> Optimizer:
    """An optimizer of the parameters that are trained.

    Raises:
        UsageError: the factory does not return one.
    """
    if not callable(factory):
        raise UsageError(
            "optimizer must be a function from parameters to a torch.optim.Optimizer, such as lambda parameters: "
            f"torch.optim.Adam(parameters, lr=1e-3); got {_kind(factory)}"
        )
    optimizer = factory([parameter for parameter in model.parameters() if parameter.requires_grad])
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"optimizer must be a function from parameters to a torch.optim.Optimizer; it returned {_kind(optimizer)}"
        )
    return optimizer

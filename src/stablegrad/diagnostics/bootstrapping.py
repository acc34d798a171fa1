"""A synthetic task in the terms of reinforcement learning: values that bootstrap, of observations that drift.

Along trajectories of observations every output is the value of an action: its reward, a smooth random function of the
observation, and the discounted best value of the next one. The network learns them from targets that it computes
itself, as value-based agents do; after a while observations move elsewhere and rewards become others, as when a policy
changes. The exact values are known, so what was learned can be told from what a network merely believes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.diagnostics.capacity import draw_targets
from stablegrad.diagnostics.relearning import BLOCK, moments, output_of, plain_logits, readout
from stablegrad.errors import UsageError

PHASES = 4
STEPS = 480
FEWEST_STEPS = 80
DISCOUNT = 0.9
BATCH = 128
#: For images, of which a step costs a hundred times as much.
IMAGE_BATCH = 32
#: Synthetic trajectories and steps of each; of images fewer, as they are large.
ROWS, LENGTH = 64, 32
IMAGE_ROWS = 16
#: What observations are made of: sums of sinusoids.
LATENT = 6
#: How far the mean of observations moves from phase to phase, in their deviations.
DRIFT = 1.0
MAX_GRAD_NORM = 10.0
#: The error of a phase is that of the last of its steps, as a share of all.
LAST = 0.3


@dataclass(frozen=True)
class Trajectories:
    """Observations in the order in which they were made.

    Attributes:
        observations: [phases, steps, rows, ...].
        ended: [phases, steps, rows] bool, where no next observation counts; after the last step comes the first.
    """

    observations: Tensor
    ended: Tensor


@dataclass(frozen=True)
class ValueTask:
    """Transitions and their exact values.

    Attributes:
        inputs: [phases, n, ...] observations.
        following: [phases, n] int64, the place of the next observation.
        going: [phases, n, 1] float32, 0 where the episode ended.
        rewards: [phases, n, values], of a size that gives values a deviation of 1.
        values: [phases, n, values], exact; their mean over all is 0.
        batches: [phases, steps, batch] int64.
        outputs: the network's output as one number a value, [rows, ...] to [rows, values].
    """

    inputs: Tensor
    following: Tensor
    going: Tensor
    rewards: Tensor
    values: Tensor
    batches: Tensor
    outputs: Callable[[Any], Tensor]

    @property
    def phases(self) -> int:
        """How often observations and rewards move, and once."""
        return len(self.inputs)

    @property
    def steps(self) -> int:
        """Optimizer steps a phase."""
        return self.batches.shape[1]


@dataclass
class Learner:
    """One network that learns the values.

    Attributes:
        model: the network, changed in place.
        optimizer: what trains it.
        outputs: its output as one number a value; None: as of the task's network.
        errors: of each phase, the mean squared error over the variance of the exact values: 1 is that of a constant.
    """

    model: nn.Module
    optimizer: Optimizer
    outputs: Callable[[Any], Tensor] | None = None
    errors: list[float] = field(default_factory=list)


def synthetic_trajectories(sample: Tensor, phases: int, generator: torch.Generator) -> Trajectories:
    """Smooth closed curves with the mean and the deviation of a sample, which drift from phase to phase.

    Args:
        sample: [rows, ...], floating point or bytes.
        phases: how many.
        generator: where from, on the CPU.

    Raises:
        UsageError: inputs that are no numbers on a scale, such as token ids or truth values.
    """
    if not sample.is_floating_point() and sample.dtype != torch.uint8:
        kind = str(sample.dtype).removeprefix("torch.")
        raise UsageError(f"values of drifting observations need inputs of floating point or bytes, not {kind}")
    mean, deviation = moments(sample.detach().cpu().double(), sample.dtype)
    shape = sample.shape[1:]
    sides = shape if len(shape) < 3 else (*shape[:-2], *(math.ceil(side / BLOCK) for side in shape[-2:]))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    rows = ROWS if len(shape) < 3 else IMAGE_ROWS
    turns = torch.randint(1, 5, (rows, LATENT), generator=generator) * torch.arange(LENGTH)[:, None, None] / LENGTH
    start = torch.rand(rows, LATENT, generator=generator, dtype=torch.float64)
    latent = normal(rows, LATENT) * torch.sin(2 * math.pi * (turns + start)) + 0.7 * normal(rows, LATENT)
    mixed = 1.5 * torch.tanh(latent @ normal(LATENT, math.prod(sides)) / math.sqrt(LATENT))
    places = torch.zeros(phases, math.prod(sides), dtype=torch.float64)
    places[1:] = DRIFT * normal(phases - 1, math.prod(sides)).cumsum(0)
    observations = []
    for place in places:
        noise = (mixed + place).unflatten(-1, sides)
        if len(shape) >= 3:
            noise = noise.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., : shape[-2], : shape[-1]]
        made = mean + deviation * noise
        observations.append((made.round().clamp(0, 255) if sample.dtype == torch.uint8 else made).to(sample.dtype))
    return Trajectories(torch.stack(observations), torch.zeros(phases, LENGTH, rows, dtype=torch.bool))


def make_value_task(
    model: nn.Module, trajectories: Trajectories, *, device: torch.device, seed: int, steps: int
) -> ValueTask:
    """The task for a network; the network is run once, as it is.

    Raises:
        UsageError: the network refuses the observations, or returns nothing that can be learned from.
    """
    generator = torch.Generator().manual_seed(seed)
    observations, ended = trajectories.observations, trajectories.ended
    phases, length, rows = ended.shape
    inputs = observations.flatten(1, 2)
    output, bounded = output_of(model, inputs[0, : min(inputs.shape[1], BATCH)].to(device), inputs[0].to(device))
    outputs: Callable[[Any], Tensor] = plain_logits
    count = 1
    if output.shape[1] > 1:
        outputs, count = readout(output.detach(), bounded, generator)
    rewards = torch.stack([draw_targets(one, generator, count) for one in inputs]).double()
    rewards = rewards.unflatten(1, (length, rows))
    values = torch.stack([exact_values(r, e) for r, e in zip(rewards, ended, strict=True)])
    # Values around 0 with a deviation of 1, whatever the discount and the number of actions make of the rewards.
    going = (~ended).double().unsqueeze(-1)
    middle, size = values.mean(), values.std(correction=0).clamp_min(1e-9)
    rewards = (rewards - (1 - DISCOUNT * going) * middle) / size
    values = (values - middle) / size
    place = torch.arange(length * rows)
    following = place.view(length, rows).roll(-1, 0).flatten().expand(phases, -1)
    batch = min(IMAGE_BATCH if observations.ndim > 4 else BATCH, length * rows)
    batches = torch.randint(length * rows, (phases, steps, batch), generator=generator)
    return ValueTask(
        inputs.to(device),
        following.to(device),
        going.flatten(1, 2).float().to(device),
        rewards.flatten(1, 2).float().to(device),
        values.flatten(1, 2).float().to(device),
        batches.to(device),
        outputs,
    )


def exact_values(rewards: Tensor, ended: Tensor) -> Tensor:
    """Best discounted values along trajectories whose course no action changes.

    Q(o_t, a) = r(o_t, a) + DISCOUNT * max_b Q(o_{t+1}, b), without the second term where the episode ended.

    Args:
        rewards: [steps, rows, actions].
        ended: [steps, rows] bool.

    Returns:
        like rewards.
    """
    values, best = torch.zeros_like(rewards), torch.zeros_like(rewards[0, :, 0])
    # Round a closed trajectory often enough that what comes after counts less than a millionth.
    for _ in range(math.ceil(math.log(1e-6) / math.log(DISCOUNT) / len(rewards)) + 1):
        for t in reversed(range(len(rewards))):
            values[t] = rewards[t] + DISCOUNT * torch.where(ended[t], 0.0, best).unsqueeze(-1)
            best = values[t].amax(-1)
    return values


def learn_values(task: ValueTask, learners: Mapping[str, Learner], *, deadline: float = math.inf) -> bool:
    """Let networks learn the values side by side; a phase that is not finished in time leaves no errors.

    Returns:
        whether all phases were finished.
    """
    first = task.steps - max(int(LAST * task.steps), 1)
    for learner in learners.values():
        learner.model.train()
    for phase in range(task.phases):
        spread = task.values[phase].var(dim=0, correction=0).mean().clamp_min(1e-9)
        errors = {name: torch.zeros((), device=spread.device) for name in learners}
        for step, rows in enumerate(task.batches[phase]):
            if time.perf_counter() > deadline:
                return False
            for name, learner in learners.items():
                predicted = value_step(learner, task, phase, rows)
                if step >= first:
                    errors[name] += (predicted - task.values[phase, rows]).square().mean() / spread
        for name, learner in learners.items():
            error = float(errors[name]) / (task.steps - first)
            learner.errors.append(error if math.isfinite(error) else math.inf)
    return True


def value_step(learner: Learner, task: ValueTask, phase: int, rows: Tensor) -> Tensor:
    """One optimizer step towards targets of the network's own; its values before it, [batch, values]."""
    outputs, inputs = learner.outputs or task.outputs, task.inputs[phase]
    with torch.no_grad():
        best = outputs(learner.model(inputs[task.following[phase, rows]])).amax(dim=1, keepdim=True)
        targets = task.rewards[phase, rows] + DISCOUNT * task.going[phase, rows] * best
    predicted = outputs(learner.model(inputs[rows]))
    loss = F.mse_loss(predicted, targets)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(learner.model.parameters(), MAX_GRAD_NORM)
    learner.optimizer.step()
    return predicted.detach()


def step_seconds(task: ValueTask, learners: Mapping[str, Learner]) -> float:
    """Seconds of a step of all learners, the fastest of three; they are changed by it."""
    fastest = math.inf
    for _ in range(3):
        started = time.perf_counter()
        for learner in learners.values():
            float(value_step(learner, task, 0, task.batches[0, 0]).sum())
        fastest = min(fastest, time.perf_counter() - started)
    return fastest

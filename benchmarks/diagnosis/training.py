"""Training loops such as people write them, which yield after every optimizer step. None of them knows of monitors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from benchmarks.diagnosis.networks import WithTarget
from benchmarks.diagnosis.tasks import Data, DecisionProcess, first
from torch import Tensor, nn
from torch.optim import Optimizer

BATCH_SEED = 1


class Step(NamedTuple):
    """What a loop prints of one step.

    Attributes:
        loss: of the batch.
        accuracy: of the batch; None where there are no classes.
        watched: what a person watches, lower is better; the loss, but in control the return, negative.
    """

    loss: float
    accuracy: float | None
    watched: float


@dataclass
class Setup:
    """A training that is about to begin.

    Attributes:
        model: the network, or several by name.
        optimizer: what trains it, or several.
        loop: called with this object; takes model and optimizer from it anew at every step, so that both may be changed
            on the way.
        score: how well the task is done, from 0 (knows nothing) to 1; called at the end.
        steps: how many there are.
    """

    model: nn.Module | dict[str, nn.Module]
    optimizer: Optimizer | list[Optimizer]
    loop: Callable[[Setup], Iterator[Step]]
    score: Callable[[], float]
    steps: int


def supervised(
    data: Data | Callable[[int], Data],
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 300,
    batch: int = 64,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    event: Callable[[int, Setup], None] | None = None,
    adjust: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    criterion: Callable[[Data, Tensor, Tensor], Tensor] = Data.loss,
    evaluate: Data | None = None,
    autocast: bool = False,
) -> Setup:
    """Batches drawn at random.

    Args:
        data: the data set, or what it is at a step.
        model: the network.
        make_optimizer: model to optimizer.
        steps: optimizer steps.
        batch: rows; 0: all.
        schedule: step to a factor of the learning rate.
        clip: gradients to this norm.
        accumulate: batches a step.
        event: called before each step.
        adjust: (step, loss, output) to what is differentiated.
        criterion: (data, output, targets) to loss.
        evaluate: what the score is of; None: the data as they are at the end.
        autocast: run the network in bfloat16.
    """
    stream = (lambda step: data) if isinstance(data, Data) else data

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        for step in range(1, steps + 1):
            now = stream(step)
            if event is not None:
                event(step, setup)
            model, optimizer = setup.model, setup.optimizer
            set_learning_rate(optimizer, schedule, step)
            optimizer.zero_grad()
            for _ in range(accumulate):
                rows = torch.randint(len(now.inputs), (batch or len(now.inputs),), generator=generator)
                rows = rows if batch else torch.arange(len(now.inputs))
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    output = model(now.inputs[rows])
                    loss = criterion(now, output, now.targets[rows])
                (loss if adjust is None else adjust(step, loss, output)).div(accumulate).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            right = (first(output).argmax(-1) == now.targets[rows]).float().mean().item() if now.classes else None
            yield Step(loss.item(), right, loss.item())

    setup = Setup(model, make_optimizer(model), loop, lambda: (evaluate or stream(steps)).score(setup.model), steps)
    return setup


def set_learning_rate(optimizer: Optimizer, schedule: Callable[[int], float] | None, step: int) -> None:
    if schedule is not None:
        for group in optimizer.param_groups:
            # As torch's schedulers keep it.
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * schedule(step)


def values(
    process: DecisionProcess,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 600,
    batch: int = 64,
    target_every: int = 10,
    schedule: Callable[[int], float] | None = None,
    reward_scale: Callable[[int], float] = lambda step: 1.0,
    features: Callable[[int, Tensor], Tensor] = lambda step, x: x,
    rows: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    clip: float | None = None,
) -> Setup:
    """TD(0) values of the random policy, from sampled transitions.

    Args:
        process: what is walked through.
        model: features to [rows, 1].
        make_optimizer: model to optimizer.
        steps: optimizer steps.
        batch: transitions a step.
        target_every: steps between copies to the target network; 0: no target network.
        schedule: step to a factor of the learning rate.
        reward_scale: step to a factor of the rewards.
        features: (step, features) to what the network sees.
        rows: (states, next states) to those that are learned from, for sampling off the policy.
        clip: gradients to this norm.
    """

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        target = copy.deepcopy(setup.model)
        for step in range(1, steps + 1):
            model, optimizer = setup.model, setup.optimizer
            set_learning_rate(optimizer, schedule, step)
            if not target_every or step % target_every == 0:
                target = copy.deepcopy(model) if target_every else model
            state, _, reward, following = process.sample(batch, generator)
            if rows is not None:
                state, following = rows(state, following)
            seen = features(step, process.features)
            with torch.no_grad():
                goal = reward_scale(step) * reward + process.discount * target(seen[following])[:, 0]
            loss = 0.5 * (model(seen[state])[:, 0] - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            yield Step(loss.item(), None, loss.item())

    def score() -> float:
        with torch.no_grad():
            found = setup.model(features(steps, process.features))[:, 0] / reward_scale(steps)
        return process.value_score(found)

    setup = Setup(model, make_optimizer(model), loop, score, steps)
    return setup


def q_learning(
    process: DecisionProcess,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 600,
    batch: int = 64,
    target_every: int = 10,
    huber: bool = False,
    double: bool = False,
    discount: float | None = None,
    by_values: bool = False,
    clip: float | None = None,
    event: Callable[[int, Setup], None] | None = None,
    schedule: Callable[[int], float] | None = None,
) -> Setup:
    """Q-learning from transitions of the random policy.

    Args:
        process: what is controlled.
        model: features to [rows, actions]; one with a target inside (:class:`WithTarget`) uses that.
        make_optimizer: model to optimizer.
        steps: optimizer steps.
        batch: transitions a step.
        target_every: steps between copies to the target network; 0: no target network.
        huber: loss, in place of the square.
        double: the online network picks the next action (van Hasselt et al. 2016).
        discount: what the learner believes; None: the truth.
        by_values: the score is that of the values, not of the greedy policy.
        clip: gradients to this norm.
        event: called before each step.
        schedule: step to a factor of the learning rate.
    """
    discount = process.discount if discount is None else discount

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        target = setup.model.target if isinstance(setup.model, WithTarget) else copy.deepcopy(setup.model)
        for step in range(1, steps + 1):
            if event is not None:
                event(step, setup)
            model, optimizer = setup.model, setup.optimizer
            set_learning_rate(optimizer, schedule, step)
            if not target_every or step % target_every == 0:
                if isinstance(model, WithTarget):
                    model.update()
                else:
                    target = copy.deepcopy(model) if target_every else model
            state, action, reward, following = process.sample(batch, generator)
            with torch.no_grad():
                ahead = target(process.features[following])
                best = (model(process.features[following]) if double else ahead).argmax(1, keepdim=True)
                goal = reward + discount * ahead.gather(1, best)[:, 0]
            chosen = model(process.features[state]).gather(1, action[:, None])[:, 0]
            loss = F.smooth_l1_loss(chosen, goal) if huber else 0.5 * (chosen - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            yield Step(loss.item(), None, loss.item())

    def score() -> float:
        setup.model.eval()
        with torch.no_grad():
            found = setup.model(process.features)
        setup.model.train()
        if not found.isfinite().all():
            return -1.0
        if by_values:
            true = process.best_values().T
            return max(1 - ((found - true).square().mean() / true.var(correction=0)).item(), -1.0)
        return process.policy_score(F.one_hot(found.argmax(1), process.actions).float())

    setup = Setup(model, make_optimizer(model), loop, score, steps)
    return setup


def _contexts(rows: int, generator: torch.Generator, arms: int) -> tuple[Tensor, Tensor]:
    """Contexts and their best arm."""
    context = torch.randn(rows, 8, generator=generator)
    return context, (context @ torch.randn(8, arms, generator=torch.Generator().manual_seed(2))).argmax(1)


def bandit(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 400,
    batch: int = 64,
    arms: int = 4,
    entropy: float = 0.01,
    schedule: Callable[[int], float] | None = None,
    reward: Callable[[int, Tensor], Tensor] = lambda step, hit: hit,
    baseline: bool = True,
) -> Setup:
    """Policy gradient on a contextual bandit that pays 1 for the best arm.

    Args:
        model: contexts of 8 numbers to [rows, arms] logits.
        make_optimizer: model to optimizer.
        steps: optimizer steps.
        batch: pulls a step.
        arms: to choose from.
        entropy: bonus.
        schedule: step to a factor of the learning rate.
        reward: (step, 1 for the best arm and 0 for others) to the reward.
        baseline: subtract the batch's mean reward.
    """

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        for step in range(1, steps + 1):
            model, optimizer = setup.model, setup.optimizer
            set_learning_rate(optimizer, schedule, step)
            context, best = _contexts(batch, generator, arms)
            log_policy = model(context).log_softmax(1)
            policy = log_policy.exp()
            arm = torch.multinomial(policy.detach().nan_to_num(1.0), 1, generator=generator)[:, 0]
            paid = reward(step, (arm == best).float())
            advantage = paid - paid.mean() if baseline else paid
            chosen = log_policy.gather(1, arm[:, None])[:, 0]
            loss = -(advantage * chosen).mean() + entropy * (policy * log_policy).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield Step(loss.item(), None, -(arm == best).float().mean().item())

    def score() -> float:
        context, best = _contexts(2000, torch.Generator().manual_seed(3), arms)
        return Data(context, best, arms).score(setup.model)

    setup = Setup(model, make_optimizer(model), loop, score, steps)
    return setup

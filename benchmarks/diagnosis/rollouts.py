"""Loops that learn from what their own policy meets: a small PQN and a small A2C, on known decision processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from benchmarks.diagnosis.tasks import DecisionProcess
from benchmarks.diagnosis.training import BATCH_SEED, Setup, Step, set_learning_rate
from torch import Tensor, nn
from torch.optim import Optimizer

WALKERS, HORIZON = 16, 8


def pqn(
    process: DecisionProcess,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 600,
    epochs: int = 2,
    minibatches: int = 2,
    trace: float = 0.65,
    clip: float | None = 10.0,
    discount: float | None = None,
    schedule: Callable[[int], float] | None = None,
    reward_scale: Callable[[int], float] = lambda step: 1.0,
    features: Callable[[int, Tensor], Tensor] = lambda step, x: x,
    event: Callable[[int, Setup], None] | None = None,
) -> Setup:
    """Q(lambda) from parallel walkers, without replay and target network (Gallici et al., arXiv 2407.04811).

    Args:
        process: what is controlled.
        model: features to [rows, actions].
        make_optimizer: model to optimizer.
        steps: optimizer steps.
        epochs: passes over a rollout.
        minibatches: of a pass.
        trace: lambda.
        clip: gradients to this norm.
        discount: what the learner believes; None: the truth.
        schedule: step to a factor of the learning rate.
        reward_scale: step to a factor of the rewards.
        features: (step, features) to what the network sees.
        event: called before each step.
    """
    discount = process.discount if discount is None else discount

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        state = torch.randint(process.states, (WALKERS,), generator=generator)
        step = 0
        while step < steps:
            seen = features(step + 1, process.features)
            greed = 1 - max(1 - step / (0.5 * steps), 0.1)
            states, actions, rewards, ahead = [], [], [], []
            for _ in range(HORIZON):
                with torch.no_grad():
                    best = setup.model(seen[state]).argmax(1)
                random = torch.randint(process.actions, (WALKERS,), generator=generator)
                action = torch.where(torch.rand(WALKERS, generator=generator) < greed, best, random)
                following = torch.multinomial(process.transitions[action, state], 1, generator=generator)[:, 0]
                states.append(state)
                actions.append(action)
                rewards.append(reward_scale(step + 1) * process.rewards[action, state])
                with torch.no_grad():
                    ahead.append(setup.model(seen[following]).max(1).values)
                state = following
            goal = ahead[-1]
            goals: list[Tensor] = []
            for reward, value in zip(reversed(rewards), reversed(ahead), strict=True):
                goal = reward + discount * (trace * goal + (1 - trace) * value)
                goals.insert(0, goal)
            rows = [torch.cat(part) for part in (states, actions, goals)]
            for _ in range(epochs):
                for chosen in torch.randperm(WALKERS * HORIZON, generator=generator).chunk(minibatches):
                    step += 1
                    if step > steps:
                        return
                    if event is not None:
                        event(step, setup)
                    model, optimizer = setup.model, setup.optimizer
                    set_learning_rate(optimizer, schedule, step)
                    where, action, wanted = (part[chosen] for part in rows)
                    found = model(seen[where]).gather(1, action[:, None])[:, 0]
                    loss = 0.5 * (found - wanted).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    if clip is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    yield Step(loss.item(), None, -rows[2].mean().item())

    def score() -> float:
        with torch.no_grad():
            found = setup.model(features(steps, process.features))
        if not found.isfinite().all():
            return -1.0
        return process.policy_score(F.one_hot(found.argmax(1), process.actions).float())

    setup = Setup(model, make_optimizer(model), loop, score, steps)
    return setup

"""Other people's detectors, on the same trainings: published rules with their published thresholds, and torchmortem.

Rules are given what they ask for at the steps at which our monitor looks too, every fifth. An alarm is the first step
at which any rule of a set holds; none of the sets asks for persistence beyond what is said below. Epochs, where a rule
counts them, are twenty equal parts of the training (BTTackler's ``max_epoch``). Accuracy, where there are no classes,
is the part of the first loss that is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.diagnosis.training import Setup, Step
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

EVERY = 5
EPOCHS = 20
#: Inputs beyond which SageMaker calls an activation saturated.
SATURATED = {"tanh": (-9.4999, 9.4999), "sigmoid": (-23.0, 16.99999)}


@dataclass
class Look:
    """What the rules need of one step.

    Attributes:
        step: counted from 1.
        mean_abs: of each weight matrix's gradient, before clipping, in the order in which they were made.
        zeros: share of its entries that are zero.
        norms: its norm.
        change: of each matrix since the look before, mean magnitude over mean magnitude; None at the first.
        unchanged: whether a matrix is as it was two looks before, by ``numpy.allclose``.
        finite: whether gradients and weights are.
        inactive: of each relu, share of units that are above zero for less than 1% of samples.
        saturated: of each tanh and sigmoid, share of units that are within the limits for less than 1%.
    """

    step: int
    mean_abs: np.ndarray
    zeros: np.ndarray
    norms: np.ndarray
    change: np.ndarray | None
    unchanged: bool
    finite: bool
    inactive: list[float]
    saturated: list[float]


@dataclass
class Trace:
    """Looks, and the steps as the loop printed them."""

    looks: list[Look] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def epochs(self) -> list[Trace]:
        """Twenty equal parts; a look belongs to the part in which it was taken."""
        ends = np.linspace(0, len(self.steps), EPOCHS + 1).astype(int)
        return [
            Trace([look for look in self.looks if first < look.step <= last], self.steps[first:last])
            for first, last in pairwise(ends)
        ]

    def accuracies(self) -> np.ndarray:
        """[epochs] mean accuracy."""
        first = abs(self.steps[0].loss) or 1.0
        return np.array(
            [
                np.mean([1 - step.loss / first if step.accuracy is None else step.accuracy for step in epoch.steps])
                for epoch in self.epochs()
            ]
        )


def record(setup: Setup) -> Trace:
    """Run a training and look at it."""
    models = setup.model.values() if isinstance(setup.model, dict) else [setup.model]
    matrices = [p for model in models for p in model.parameters() if p.ndim >= 2 and p.requires_grad]
    gradients: dict[int, Tensor] = {}

    def keep(parameter: Tensor) -> None:
        gradients[id(parameter)] = parameter.grad.detach().clone()

    hooks = [matrix.register_post_accumulate_grad_hook(keep) for matrix in matrices]
    trace, loop = Trace(), setup.loop(setup)
    weights: list[list[Tensor]] = []
    for number in range(1, setup.steps + 1):
        activations = _Activations()
        if number % EVERY == 0:
            with activations:
                step = next(loop)
        else:
            step = next(loop)
        trace.steps.append(step)
        if number % EVERY == 0:
            found = [gradients.get(id(matrix), torch.zeros_like(matrix)) for matrix in matrices]
            weights = [*weights[-2:], [matrix.detach().clone() for matrix in matrices]]
            trace.looks.append(_look(number, found, weights, activations))
        gradients.clear()
    for hook in hooks:
        hook.remove()
    return trace


class _Activations(TorchFunctionMode):
    def __init__(self) -> None:
        self.inactive: list[float] = []
        self.saturated: list[float] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.relu, F.relu, Tensor.relu) and torch.is_grad_enabled():
            self.inactive.append(self._share(result.detach() > 0))
        name = {torch.tanh: "tanh", Tensor.tanh: "tanh", torch.sigmoid: "sigmoid", Tensor.sigmoid: "sigmoid"}.get(func)
        if name and torch.is_grad_enabled():
            low, high = SATURATED[name]
            self.saturated.append(self._share((args[0].detach() > low) & (args[0].detach() < high)))
        return result

    @staticmethod
    def _share(active: Tensor) -> float:
        """Units that are active on less than 1% of what they see."""
        axes = [axis for axis in range(active.ndim) if axis != (2 if active.ndim == 3 else 1)]
        return (active.float().mean(axes) < 0.01).float().mean().item()


def _look(step: int, gradients: list[Tensor], weights: list[list[Tensor]], activations: _Activations) -> Look:
    now = weights[-1]
    change, unchanged = None, False
    if len(weights) >= 2:
        change = np.array(
            [
                ((new - old).abs().mean() / (old.abs().mean() + 1e-9)).item()
                for old, new in zip(weights[-2], now, strict=True)
            ]
        )
    if len(weights) == 3:
        unchanged = any(
            all(torch.allclose(old, new, rtol=1e-5, atol=1e-8) for old in earlier)
            for *earlier, new in zip(*weights, strict=True)
        )
    return Look(
        step,
        np.array([gradient.abs().mean().item() for gradient in gradients]),
        np.array([(gradient == 0).float().mean().item() for gradient in gradients]),
        np.array([gradient.norm().item() for gradient in gradients]),
        change,
        unchanged,
        all(tensor.isfinite().all() for tensor in (*gradients, *now)),
        activations.inactive,
        activations.saturated,
    )


# -- rule sets: trace to the first step at which each rule held


def sagemaker(trace: Trace) -> dict[str, int]:
    """Amazon SageMaker Debugger's built-in rules for deep networks, with the defaults of its documentation.

    https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html: VanishingGradient (mean magnitude
    below 1e-7), ExplodingTensor (not finite), DeadRelu (active below 1% of the time; above 50% of a layer),
    SaturatedActivation (inputs of tanh beyond 9.4999, of sigmoid beyond -23 and 17; the same shares), WeightUpdateRatio
    (above 10 or below 1e-8), UnchangedTensor (3 looks, rtol 1e-5, atol 1e-8), AllZero (100%), LossNotDecreasing (by
    0.1% in 10 steps). Left out: rules without a default (TensorVariance), and PoorWeightInitialization, of whose three
    tests the page does not say how they are combined.
    """
    rules: dict[str, Callable[[Look], bool]] = {
        "vanishing_gradient": lambda look: bool((look.mean_abs < 1e-7).any()),
        "exploding_tensor": lambda look: not look.finite or not np.isfinite(trace.steps[look.step - 1].loss),
        "dead_relu": lambda look: any(share > 0.5 for share in look.inactive),
        "saturated_activation": lambda look: any(share > 0.5 for share in look.saturated),
        "weight_update_ratio": lambda look: (
            look.change is not None and bool(((look.change > 10) | (look.change < 1e-8)).any())
        ),
        "unchanged_tensor": lambda look: look.unchanged,
        "all_zero": lambda look: bool((look.zeros == 1).any()),
        "loss_not_decreasing": lambda look: (
            look.step > 10
            and look.step % 10 == 0
            and not trace.steps[look.step - 1].loss < _part(trace.steps[look.step - 11].loss, 0.999)
        ),
    }
    return {
        name: first
        for name, rule in rules.items()
        if (first := next((look.step for look in trace.looks if rule(look)), None)) is not None
    }


def _part(value: float, part: float) -> float:
    """Less than a number by a part of its size."""
    return value - (1 - part) * abs(value)


def bttackler(trace: Trace) -> dict[str, int]:
    """BTTackler's symptoms (Pei et al., KDD 2024, arXiv 2602.23630), with the defaults of its repository.

    thuml/BTTackler, bttackler/default_config.yaml and bridger/btassessor.py. Of the layers' mean gradient magnitudes g:
    EG (exploding): not finite, or median g above 1e4, or median of g over the next layer's above 1e3. VG (vanishing, in
    the first half): median g below 1e-5, a g of zero, or median of g over the next layer's below 1e-4. DR (dying relu,
    from the fifth epoch): median share of zero gradient entries above 0.5. SC (slow convergence): coefficient of
    variation of the losses below 1e-4 in the first half, or higher in the later losses than in the earlier ones in the
    second half. HO (heavy oscillation, second half): over 6 epochs a rise of at least 0.01 an epoch and a coefficient
    of variation above 0.2. NMG (no more gain): mean loss of the last 3 epochs above that of the 3 before. Losses are of
    training; the protection of the best of many trials does not apply to one.
    """
    found: dict[str, int] = {}
    losses: list[float] = []
    step = 0
    with np.errstate(all="ignore"):
        for number, epoch in enumerate(trace.epochs()):
            step += len(epoch.steps)
            losses.append(float(np.mean([one.loss for one in epoch.steps])))
            g = np.mean([look.mean_abs for look in epoch.looks], axis=0) if epoch.looks else np.array([1.0])
            zeros = np.mean([look.zeros for look in epoch.looks], axis=0) if epoch.looks else np.array([0.0])
            early, seen = number < EPOCHS // 2, np.array(losses)
            fall = g[:-1] / g[1:] if len(g) > 1 else np.array([1.0])
            half = len(seen) // 2
            finite = bool(np.isfinite(g).all() and np.isfinite(seen).all())
            last = seen[-6:]
            holds = {
                "exploding": not finite or np.median(g) > 1e4 or (bool((g > 0).all()) and np.median(fall) > 1e3),
                "vanishing": early
                and finite
                and (np.median(g) < 1e-5 or bool((g == 0).any()) or np.median(fall) < 1e-4),
                "dying_relu": len(seen) >= 5 and np.median(zeros) > 0.5,
                "slow_convergence": (len(seen) >= 3 and _variation(seen) < 1e-4)
                if early
                else _variation(seen[:half]) < _variation(seen[half:]),
                "heavy_oscillation": not early
                and _variation(last) > 0.2
                and np.polyfit(np.arange(len(last)), last, 1)[0] >= 0.01
                if finite
                else False,
                "no_more_gain": len(seen) >= 6 and np.mean(seen[-6:-3]) < np.mean(seen[-3:]),
            }
            for name, held in holds.items():
                if held:
                    found.setdefault(name, step)
    return found


def _variation(values: np.ndarray) -> float:
    return float(np.std(values) / abs(np.mean(values)))


def autotrainer(trace: Trace) -> dict[str, int]:
    """AutoTrainer's training problems (Zhang et al., ICSE 2021), with the defaults of its repository.

    shiningrain/AUTOTRAINER, AutoTrainer/utils/monitor.py, looked at every third epoch. Not a number, or a loss of
    1e5 or more: at once. Others only after 30% of the epochs and where accuracy never came above 0.7 or never rose by
    0.01 within an epoch: dying
    relu (70% of all gradient entries zero), exploding (gradient norm of the first layer 70 times the last one's),
    vanishing (below 1e-3 of it, and below 1e-4), slow convergence (no such rise); if neither, oscillating: extremes of
    the accuracy at least 0.03 apart for a fifth of the epochs. A gradient symptom counts once it was seen.
    """
    found: dict[str, int] = {}
    seen: set[str] = set()
    epochs, accuracies = trace.epochs(), trace.accuracies()
    step = 0
    with np.errstate(all="ignore"):
        for number, epoch in enumerate(epochs):
            step += len(epoch.steps)
            if (number + 1) % 3 and number + 1 < EPOCHS:
                continue
            losses = np.array([one.loss for one in epoch.steps])
            finite = np.isfinite(losses).all() and losses[-1] < 1e5
            if not finite or not all(look.finite for look in epoch.looks):
                found.setdefault("not_a_number", step)
                continue
            for look in epoch.looks[-1:]:
                ratio = look.norms[0] / look.norms[-1]
                seen |= {"dying_relu"} if np.mean(look.zeros) >= 0.7 else set()
                seen |= {"exploding"} if ratio > 70 else set()
                seen |= {"vanishing"} if ratio < 1e-3 and look.norms[0] < 1e-4 else set()
            if number + 1 < 0.3 * EPOCHS:
                continue
            so_far = accuracies[: number + 1]
            slow = len(so_far) < 2 or np.max(np.diff(so_far)) < 0.01
            if np.max(so_far) < 0.7 or slow:
                for name in ("dying_relu", "exploding", "vanishing"):
                    if name in seen:
                        found.setdefault(name, step)
                        break
                else:
                    if slow:
                        found.setdefault("slow_convergence", step)
            elif _oscillates(so_far):
                found.setdefault("oscillating", step)
    return found


def _oscillates(accuracies: np.ndarray) -> bool:
    inner, before, after = accuracies[1:-1], accuracies[:-2], accuracies[2:]
    high, low = inner[(inner >= before) & (inner >= after)], inner[(inner <= before) & (inner <= after)]
    pairs = min(len(high), len(low))
    return int((high[:pairs] - low[:pairs] >= 0.03).sum()) >= 0.2 * len(accuracies)


RULE_SETS = {"sagemaker": sagemaker, "bttackler": bttackler, "autotrainer": autotrainer}


def torchmortem(setup: Setup) -> dict[str, Any]:
    """torchmortem 0.1.1, attached as its README says: findings of WARNING or above, by detector.

    It reports after the end, so it has no first alarm. Of several networks each gets an autopsy of its own.
    """
    from torchmortem import Autopsy, Severity

    logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
    models = setup.model.values() if isinstance(setup.model, dict) else [setup.model]
    optimizers = setup.optimizer if isinstance(setup.optimizer, list) else [setup.optimizer]
    autopsies = [Autopsy(model, optimizer=one) for model, one in zip(models, optimizers, strict=True)]
    try:
        for autopsy in autopsies:
            autopsy.attach()
        for step in setup.loop(setup):
            for autopsy in autopsies:
                autopsy.step(loss=step.loss)
        for autopsy in autopsies:
            autopsy.detach()
    except Exception as error:  # noqa: BLE001 - what it cannot be attached to is part of its result
        return {"findings": [], "error": f"{type(error).__name__}: {error}"[:200]}
    reports = [autopsy.get_report() for autopsy in autopsies]
    alarms = {
        finding.detector
        for report in reports
        for finding in report.findings
        if finding.severity in (Severity.WARNING, Severity.CRITICAL)
    }
    return {"findings": sorted(alarms), "error": None}


def parts(model: nn.Module | dict[str, nn.Module]) -> list[nn.Module]:
    """The networks of a setup."""
    return list(model.values()) if isinstance(model, dict) else [model]

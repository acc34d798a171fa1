"""An optimizer by name, from settings that can be written to JSON and given on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from stablegrad.errors import UsageError, unknown_name
from stablegrad.optimizers.catalogue import OPTIMIZERS, default_learning_rate, make_optimizer
from stablegrad.optimizers.kron import group_defaults
from stablegrad.optimizers.parametrized import hold_masked
from stablegrad.optimizers.penalties import pull_to_start, pull_to_zero
from stablegrad.optimizers.row_projection import ROW_NORM_KINDS, project_rows
from stablegrad.optimizers.weight_clipping import clip_weights

#: Times that a cyclic rate rises and falls in a run, and the part of the rate at which it begins.
CYCLES, LOWEST = 10, 0.1


def _cyclic(progress: float) -> float:
    """Triangles from a tenth of the rate to the rate and back (Smith, arXiv 1506.01186)."""
    phase = (progress * CYCLES) % 1.0
    return LOWEST + (1.0 - LOWEST) * (1.0 - abs(2.0 * phase - 1.0))


#: By name, the share of a run that is done to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "cyclic": _cyclic,
}

#: Schedules that fall to ``schedule_end``.
FALLING = ("linear", "cosine")

#: Optimizers that divide by Adam's root of a second moment plus an eps.
ADAMS = ("adam", "adamw", "radam")


@dataclass(frozen=True)
class KronConfig:
    """How Kron fits its preconditioner (docs/optimizers.md); other optimizers have none of it."""

    rule: str = "pro"
    """pro, or classic: kron_torch's, which costs many times as much."""
    block_size: int | None = None
    """Longest side of a block with pro; None: 64."""
    precondition_every: int | None = None
    """Of pro's steps that do not refresh, every how many-th computes an update, which those between repeat; None: a
    64th of the longest block, at most 4."""
    refresh_warmup: int | None = None
    """Steps at the start that all refresh; None: 100, 512 with blocks of 256, and 500 with classic."""
    refresh_floor: float | None = None
    """Share of the steps that refresh in the long run; None: 0.1, 0.05 with blocks of 256, and 0.03 with classic."""
    precision: str | None = None
    """fp32 or bf16, of Kron's own products with pro; None: fp32."""

    def __post_init__(self) -> None:
        group_defaults(**asdict(self))


@dataclass(frozen=True)
class OptimizerConfig:
    """What turns gradients into updates."""

    name: str = "radam"
    """adam, adamw, radam, sgd, rmsprop, adabelief, shampoo, apollo, soap, muon or kron."""
    learning_rate: float | None = None
    """The rate itself; None: adam_learning_rate times the optimizer's ratio to Adam (docs/optimizers.md)."""
    adam_learning_rate: float = 2.5e-4
    """The rate at which Adam would train this agent, from which the other optimizers' rates follow."""
    adam_eps: float | None = None
    """eps of adam, adamw and radam: large ones damp steps where gradients are small; None: torch's, 1e-8."""
    weight_decay: float = 0.0
    """Decoupled where the optimizer knows it, else an L2 penalty."""
    l2: float = 0.0
    """Penalty of half this times the squared weights, in the gradient of every optimizer (coupled, unlike decay)."""
    l2_init: float = 0.0
    """The same towards the first weights instead of 0 (regenerative regularisation, arXiv 2308.11958)."""
    schedule: str = "constant"
    """Of the rate over the run: constant, linear or cosine (to schedule_end), or cyclic (ten times from a tenth and
    back)."""
    schedule_end: float = 0.0
    """linear, cosine: the part of the rate that is left at the end."""
    weight_clip: float | None = None
    """Keep weights within this many times 1 / sqrt(inputs of the layer), the bound of torch's own first weights."""
    project_rows: str = "none"
    """After every step, scale the weights of every unit of the torso to their first norm (first), or of torso and head
    to norm 1 (unit; arXiv 2604.04539); none."""
    kron: KronConfig = field(default_factory=KronConfig)
    """Options of kron."""

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise unknown_name("optimizer", self.name, OPTIMIZERS)
        for option in ("learning_rate", "adam_learning_rate", "adam_eps"):
            value = getattr(self, option)
            if value is not None and not 0.0 < value < float("inf"):
                raise UsageError(f"optimizer {option.replace('_', '-')} must be above 0, got {value}")
        for option in ("weight_decay", "l2", "l2_init"):
            value = getattr(self, option)
            if not 0.0 <= value < float("inf"):
                raise UsageError(f"optimizer {option.replace('_', '-')} must be at least 0, got {value}")
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if not 0.0 <= self.schedule_end <= 1.0:
            raise UsageError(f"optimizer schedule-end must be from 0 to 1, got {self.schedule_end}")
        if self.schedule_end and self.schedule not in FALLING:
            names = " and ".join(FALLING)
            raise UsageError(f"optimizer schedule-end is for {names}; schedule is {self.schedule!r}")
        if self.project_rows not in ROW_NORM_KINDS:
            raise unknown_name("optimizer project-rows", self.project_rows, ROW_NORM_KINDS)
        if self.weight_clip is not None and not 0.0 < self.weight_clip < float("inf"):
            raise UsageError(f"optimizer weight-clip must be above 0, got {self.weight_clip}")

    @property
    def initial_learning_rate(self) -> float:
        """The rate before any schedule."""
        if self.learning_rate is not None:
            return self.learning_rate
        return default_learning_rate(self.name, self.adam_learning_rate)

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over all parameters of ``network``."""
        options = asdict(self.kron) if self.name == "kron" else {}
        if self.name in ADAMS and self.adam_eps is not None:
            options["eps"] = self.adam_eps
        optimizer = make_optimizer(
            self.name, network.parameters(), self.initial_learning_rate, weight_decay=self.weight_decay, **options
        )
        if self.l2:
            pull_to_zero(optimizer, self.l2)
        if self.l2_init:
            pull_to_start(optimizer, self.l2_init)
        hold_masked(network, optimizer)
        if self.weight_clip is not None:
            clip_weights(network, optimizer, self.weight_clip)
        if self.project_rows != "none":
            project_rows(network, optimizer, self.project_rows)
        return optimizer

    def schedule_factor(self, progress: float) -> float:
        """What the rate is multiplied with when the share ``progress``, in [0, 1], of a run is done."""
        factor = SCHEDULES[self.schedule](min(progress, 1.0))
        return self.schedule_end + (1.0 - self.schedule_end) * factor if self.schedule in FALLING else factor

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the rate for a run of which the share ``progress``, in [0, 1], is done; a constant one is left alone."""
        if self.schedule != "constant":
            rate = self.initial_learning_rate * self.schedule_factor(progress)
            for group in optimizer.param_groups:
                group["lr"] = rate

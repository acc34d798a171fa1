"""What a rule says, and the thresholds of all rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from stablegrad.diagnostics.history import History
from stablegrad.errors import UsageError, unknown_name

LEVELS = ("healthy", "at risk", "collapsing", "collapsed")
#: The verdict where nothing was found in fewer snapshots than a rule needs to find anything.
TOO_EARLY = "too early"


@dataclass(frozen=True)
class Thresholds:
    """What the rules alarm at. All can be set; the defaults are judgements (``make bench-drawn`` scores them)."""

    patience: int = 3
    """Looks in a row for which a condition must hold."""
    reference_looks: int = 3
    """First looks, whose median is a network's own beginning."""
    slow_looks: int = 10
    """Looks over which slow processes are judged: a direction of steps, an error that does not fall."""
    learned: float = 0.05
    """Part of the first error signal below which a task is learned: few directions and short steps are right then."""
    fading: float = 1e-2
    """fading_gradient: part of its own beginning to which a layer's share of the error signal may fall."""
    vanishing: float = 1e-4
    """vanishing_gradient: gradient norm over weight norm of a layer, over that of the strongest layer."""
    exploding: float = 1e3
    """exploding_gradient: gradient norm over its own beginning."""
    large_update: float = 0.05
    """thrown_weights: median change of a layer's weights in one update, over their norm, look after look."""
    throwing: float = 0.3
    """thrown_weights: the same at any one look, where damage is left behind."""
    small_update: float = 3e-6
    """small_update: the same, from below, while the error stays."""
    creeping_update: float = 2e-4
    """small_update: the same, where step after step points the same way and the error stays."""
    agreement: float = 0.3
    """small_update: cosine of consecutive gradients, the median layer's, above which steps point the same way."""
    annealed: float = 0.1
    """small_update: part of its highest below which a learning rate has been annealed, and short steps are meant."""
    stale: float = 1e-2
    """stale_state: root mean square of a step over the learning rate, of an optimizer that normalises its steps."""
    dormant: float = 0.6
    """dormant_units: share of units of an activation that pass on next to nothing (Sokar et al. 2023)."""
    dead: float = 0.8
    """dead_units: share of units that are exactly zero on every sample."""
    saturated: float = 0.8
    """Share of values at the ends of a bounded activation's range that is damage."""
    saturated_error: float = 0.75
    """The same: part of the first error signal below which units that say yes or no have learned to."""
    rank: float = 0.1
    """rank_collapse, collapsing: effective rank of the features over its own beginning, once it is below low_rank."""
    low_rank: float = 2.0
    """rank_collapse, at risk: effective rank of the features, at any time."""
    spreading: float = 1.04
    """rank_collapse, at risk: growth of the effective rank over the looks of patience, above which features spread."""
    alike: float = 1.001
    """alike_units: effective rank of the features from the beginning on."""
    constant_output: float = 1e-3
    """constant_output: spread of the outputs over a batch, relative to their size."""
    diverging: float = 30.0
    """diverging_output: growth of both outputs and error signal over the run's best."""
    unscaled: float = 50.0
    """unscaled_input: root mean square of the inputs at the beginning, where damage is there as well."""
    stretching: float = 5.0
    """unscaled_weights: gain of a layer's first weights, above which they are too large where damage is there too."""
    compounding: float = 100.0
    """unscaled_weights: the same of all layers together, each beyond sqrt(2)."""
    blown: float = 1e3
    """unscaled_weights: size of the first outputs that is damage by itself where layers compound."""
    absurd: float = 20.0
    """unscaled_weights: times stretching from which on a gain explains whatever is wrong, whenever it shows."""
    starving: float = 0.05
    """unscaled_weights: the same, below which they are too small where most layers have less."""
    extreme_step: float = 0.05
    """extreme_rate: root mean square of a first step of an optimizer that normalises its steps, with damage."""
    starving_rate: float = 100.0
    """starved_rate: highest learning rate over that of now."""
    late: float = 0.5
    """not_learned, fallen_back: part of a run's budget that must be used until its returns are judged."""
    way: float = 0.25
    """not_learned: part of the way from random play to a solved task, or a human, below which little was learned."""
    no_way: float = 0.05
    """not_learned, collapsing: the same, below which nothing was."""
    kept_return: float = 0.5
    """fallen_back: part of what returns had gained at their best, below which they have fallen back."""
    behind: float = 0.5
    """learns_less: part of the way that a smaller network made."""

    def __new__(cls, *values: float, **named: float) -> Self:  # noqa: D102  # names the nearest threshold
        for name in named:
            if name not in cls.__dataclass_fields__:
                raise unknown_name("threshold", name, cls.__dataclass_fields__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"{name} must be a number, got {value!r}")
        for name in ("patience", "reference_looks", "slow_looks"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} must be an integer of at least 1, got {value!r}")
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0 or not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} must be above 0 and finite, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: name of the rule.
        level: "at risk", "collapsing" or "collapsed".
        site: layer or activation, or "network".
        since: step at which the condition began to hold.
        value: the figure now.
        reference: what it is held against.
        reason: a sentence for people.
    """

    rule: str
    level: str
    site: str
    since: int
    value: float
    reference: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: figures that are not finite are the strings "nan", "inf" and "-inf"."""
        figures = {name: getattr(self, name) for name in ("value", "reference")}
        return vars(self) | {name: x if math.isfinite(x) else str(x) for name, x in figures.items()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Finding:
        """From ``to_dict()``."""
        return cls(**{**saved, "value": float(saved["value"]), "reference": float(saved["reference"])})


Rule = Callable[[History, Thresholds], Iterator[Finding]]

"""The diagnosis of one run while it trains: figures for its log, a verdict at every line, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from stablegrad.agents.contract import Agent, shown_names
from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics import LEVELS, Finding, History, Monitor, judge
from stablegrad.diagnostics.cadence import is_due, last_due
from stablegrad.diagnostics.capacity import ROWS as CAPACITY_ROWS
from stablegrad.diagnostics.history import looks_of
from stablegrad.diagnostics.interventions import INTERVENTIONS, fitting
from stablegrad.diagnostics.prescriptions import Prescription, prescribe
from stablegrad.diagnostics.probe import evaluation
from stablegrad.diagnostics.recorded import returns_of
from stablegrad.diagnostics.rules import TOO_EARLY, Outcome, enough_to_judge, verdict_of
from stablegrad.diagnostics.settings import RATE, with_rates
from stablegrad.environments.references import references
from stablegrad.errors import UsageError, unknown_name
from stablegrad.options import flatten

ON_COLLAPSE = ("continue", "stop", "rollback")
#: What an agent reads anew in every update, so that it can change while it runs.
LIVE_SETTINGS = {RATE, "max_grad_norm"}
#: Prescriptions that can be applied to a running agent.
LIVE = (
    *(name for name, one in INTERVENTIONS.items() if one.settings and LIVE_SETTINGS.issuperset(one.settings)),
    "reset_optimizer_state",
)
#: Verdicts of a checkpoint to return to; None: there was no snapshot yet.
HEALTHY = (None, TOO_EARLY, "healthy")
PROBE_ROWS, CURVATURE_ROWS, GRADIENT_ROWS = 1024, 256, 64
MAX_ROLLBACKS = 3


@dataclass(frozen=True)
class DiagnosisConfig:
    """How a run is watched, and what happens when it collapses."""

    look_every: int = 100
    """Updates between two looks at gradients, updates and activations; 0: no diagnosis."""
    probe_every: int = 1000
    """Updates between two measurements of ranks and churn on a probe batch, a multiple of look-every; 0: none."""
    on_collapse: str = "continue"
    """continue (and warn), stop (with a checkpoint), or rollback: return to the last healthy checkpoint and apply the
    first prescription that can be applied to a running agent."""
    curvature_every: int = 0
    """Updates between two measurements of the TD loss's curvature (trace and largest eigenvalue of its Hessian) and of
    the ranks of its gradients, at the end of a rollout; 0: none. One costs as much as some hundred updates."""
    capacity_every: int = 0
    """Updates between two measurements of what the networks can still learn (refit_error), at the end of a rollout; 0:
    none. One costs as much as some hundred updates; diagnose measures it in any case, at the newest checkpoint."""

    def __post_init__(self) -> None:
        if self.on_collapse not in ON_COLLAPSE:
            raise unknown_name("on-collapse", self.on_collapse, ON_COLLAPSE)
        if self.look_every < 0 or self.look_every == 1:
            raise UsageError(f"look-every must be 0 or at least 2, got {self.look_every}")
        if self.probe_every < 0 or (self.look_every and self.probe_every % self.look_every):
            raise UsageError(
                f"probe-every must be 0 or a multiple of look-every ({self.look_every}), got {self.probe_every}"
            )
        for name in ("curvature_every", "capacity_every"):
            option, every = name.replace("_", "-"), getattr(self, name)
            if every < 0:
                raise UsageError(f"{option} must be at least 0, got {every}")
            if every and not self.look_every:
                raise UsageError(f"{option} needs the diagnosis; look-every is 0")
        if self.on_collapse != "continue" and not self.look_every:
            raise UsageError(f"on-collapse {self.on_collapse!r} needs the diagnosis; look-every is 0")


class Health:
    """Watches one agent.

    Args:
        config: how often.
        agent: whose network and optimizer are watched.

    Attributes:
        history: one row a line of the log that has figures of a look.
        findings: of the newest verdict, which is drawn at every line at first and more rarely later.
        verdict: the newest; "too early" before there are enough snapshots to judge, None before there is one.
        sure: whether the verdict has been collapsing or worse twice in a row, or is collapsed.
    """

    def __init__(self, config: DiagnosisConfig, agent: Agent | None):
        self.history = History()
        self.findings: list[Finding] = []
        self.verdict: str | None = None
        self.sure = False
        self.monitor: Monitor | None = None
        self._snapshots: list[Mapping[str, float]] = []
        self._curvature_every, self._capacity_every = config.curvature_every, config.capacity_every
        if agent is None:
            return
        self.agent = agent
        if config.look_every and agent.optimizers:
            networks, named = shown_names(agent.networks), agent.networks
            probes = {shown: partial(self._probe, name) for shown, name in zip(networks, named, strict=True)}
            self.monitor = Monitor(
                networks,
                list(agent.optimizers.values()),
                every=config.look_every,
                probe=probes if config.probe_every else None,
                probe_every=config.probe_every,
                churn={shown: agent.outputs[name] for shown, name in zip(networks, named, strict=True)},
                on_record=lambda step, metrics: self._snapshots.append(metrics),
            )

    def begin_segment(self) -> None:
        """Reset the monitor's state between segments: a resumed run sees what an undisturbed one sees."""
        if self.monitor is not None:
            self.monitor.fetch()
            self.monitor.restart(self.agent.updates)
        self._snapshots.clear()

    def after_update(self, updates_before: int) -> None:
        """Measure what is due after the updates since: curvature and gradient ranks of the losses, and capacity."""
        if self.monitor is None:
            return
        for every, measure in (
            (self._curvature_every, self._measure_curvature),
            (self._capacity_every, self._measure_capacity),
        ):
            if every and self.agent.updates // every != updates_before // every:
                measure()

    def _measure_curvature(self) -> None:
        assert self.monitor is not None
        agent, names = self.agent, self._shown
        with ExitStack() as still:
            # All of them: the loss of one network may pass through another, and change its buffers.
            for network in agent.networks.values():
                still.enter_context(evaluation(network))
            for name, objective in agent.objectives(CURVATURE_ROWS).items():
                loss = partial(objective.mean_loss, agent.networks[name])
                self.monitor.measure_curvature(loss, network=names[name], seed=agent.updates)
            for name, one in agent.objectives(GRADIENT_ROWS).items():
                self.monitor.measure_gradient_ranks(one.inputs, one.loss, *one.targets, network=names[name])

    def _measure_capacity(self) -> None:
        assert self.monitor is not None
        try:
            for name, inputs in self.agent.probe(CAPACITY_ROWS).items():
                self.monitor.measure_capacity(
                    partial(fresh_network, self.agent, name),
                    inputs,
                    self.agent.config.optimizer_of(name).build,
                    network=self._shown[name],
                    seed=self.agent.updates,
                )
        except UsageError as error:  # a network that has no features to read: the training goes on
            self._capacity_every = 0
            self.monitor.notes.append(str(error))

    @property
    def _shown(self) -> dict[str, str]:
        """The agent's names of networks to those under which they are shown."""
        return dict(zip(self.agent.networks, shown_names(self.agent.networks), strict=True))

    def take_seconds(self) -> float:
        """Time that looks took since this was last asked."""
        assert self.monitor is not None
        seconds, self.monitor.seconds = self.monitor.seconds, 0.0
        return seconds

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on from the lines of a log."""
        self.history = History.from_rows(looks_of(rows))
        self.findings, self.verdict, self.sure = [], None, False
        if self.monitor is not None:
            self.history.set_order(self.monitor.history.order)
            newest = last_due(len(self.history.rows))
            for judged in (last_due(newest - 1), newest):
                self._judge(judged)

    def log(self, step: int, figures: Mapping[str, float]) -> dict[str, float]:
        """Figures of the looks since the last line, their mean; judged together with the line's own figures.

        Returns:
            the figures to add to the line.
        """
        assert self.monitor is not None
        self.monitor.fetch()
        looks, self._snapshots = self._snapshots, []
        keys = dict.fromkeys(key for look in looks for key in look)
        mean = {key: _mean([look[key] for look in looks if key in look]) for key in keys}
        # The line has its own gradient norms, means over all updates and not only those that were looked at.
        added = {key: value for key, value in mean.items() if key not in figures}
        if added:
            self.history.set_order(self.monitor.history.order)
            self.history.add(step, {**figures, **added})
            if is_due(len(self.history.rows)):
                self._judge(len(self.history.rows))
        return added

    def live_prescription(self) -> Prescription | None:
        """The first prescription that can be applied to the agent while it runs; None where there is none."""
        # Of all that there are: a list of the best six may hold none of them.
        return next(iter(prescribe(self.findings, self._fitting().intersection(LIVE))), None)

    def summary(self, outcome: Outcome | None) -> dict[str, Any]:
        """For summary.json: the verdict on everything that was measured, and on the returns."""
        self._judge(len(self.history.rows), outcome, ended=True)
        fits = self._fitting() if self.monitor is not None else frozenset()
        return {
            "verdict": self.verdict,
            "findings": [
                {"rule": one.rule, "level": one.level, "site": one.site, "since": one.since, "reason": one.reason}
                for one in self.findings[:10]
            ],
            "prescriptions": [one.name for one in prescribe(self.findings, fits)],
            "fitting": sorted(fits),
            "notes": list(self.monitor.notes) if self.monitor is not None else [],
        }

    def _fitting(self) -> frozenset[str]:
        agent = self.agent
        return fitting(*((agent.networks[name], optimizer) for name, optimizer in agent.optimizers.items()))

    def _judge(self, rows: int, outcome: Outcome | None = None, *, ended: bool = False) -> None:
        if rows > 0:
            whole = rows == len(self.history.rows)
            history = self.history if whole else self.history.until(self.history.rows[rows - 1][0])
            before = _is_bad(self.verdict)
            self.findings = judge(history, outcome=outcome or _returns_in(history), ended=ended)
            self.verdict = verdict_of(self.findings, enough_to_judge(history))
            self.sure = _is_bad(self.verdict) and (before or self.verdict == LEVELS[-1])

    def _probe(self, network: str) -> Tensor:
        return self.agent.probe(PROBE_ROWS)[network]


def outcome_of(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Outcome | None:
    """The returns of a run, from its config.json and the lines of its metrics.jsonl; None: it is no agent's."""
    if "env" not in config:
        return None
    steps, returns = returns_of(rows)
    outcome = Outcome(steps, returns, budget=int(config["total_steps"]))
    known = references("train/return", {str(config["env"])})
    if known is None:
        return outcome
    return dataclasses.replace(outcome, random=known.random, target=known.target, kind=known.kind)


def fresh_network(agent: Agent, name: str) -> nn.Module:
    """One of an agent's networks with fresh weights."""
    return agent.make_networks()[name]


def apply_live(agent: Agent, name: str, factor: float | None) -> None:
    """Apply one of the prescriptions of ``LIVE`` to all networks of a running agent.

    Args:
        agent: whose configuration, optimizers or optimizer states are changed in place.
        name: the prescription's.
        factor: of the learning rates; None: 10, or a tenth.
    """
    intervention, options = INTERVENTIONS[name], flatten(dataclasses.asdict(agent.config))
    if not intervention.settings:
        for network, optimizer in agent.optimizers.items():
            intervention.apply(agent.networks[network], optimizer)
        return
    changes = intervention.changes(options, factor)
    agent.config = apply_changes(agent.config, with_rates(changes, options))
    # Rates that follow a schedule are set by the agent; of a constant one nobody else would hear. They are computed
    # from the configuration, as a checkpoint may hold the rate of before the change or the new one.
    for network, optimizer in agent.optimizers.items() if RATE in changes else ():
        for group in optimizer.param_groups:
            group["lr"] = agent.config.optimizer_of(network).initial_learning_rate


def _returns_in(history: History) -> Outcome:
    """The returns of the lines of a log that looks were taken for."""
    series = history.series("train")
    if "return" not in series.sites:
        return Outcome(np.empty(0, np.int64), np.empty(0))
    values = series.site("return")
    there = np.isfinite(values)
    return Outcome(series.steps[there], values[there])


def _is_bad(verdict: str | None) -> bool:
    return verdict in LEVELS[LEVELS.index("collapsing") :]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

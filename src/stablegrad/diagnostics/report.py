"""What a diagnosis says: a verdict, its reasons, what to do, and the figures behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from stablegrad.diagnostics.capacity import newest_capacities
from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.notebook import report_html
from stablegrad.diagnostics.prescriptions import Prescription, prescribe
from stablegrad.diagnostics.risk import Risk, assess
from stablegrad.diagnostics.rules import (
    LEVELS,
    OUTCOME_RULES,
    TOO_EARLY,
    Finding,
    Outcome,
    Thresholds,
    enough_to_judge,
    judge,
    verdict_of,
)
from stablegrad.diagnostics.sb3_code import AgentSettings
from stablegrad.diagnostics.settings import WriteCommand
from stablegrad.errors import StablegradError, UsageError

#: Characters of a finding's reason in ``repr``.
MAX_REPR = 200
#: Prescriptions that are printed.
SHOWN = 3
VERIFY = "to have them tried in your training: stablegrad.diagnostics.verify_training(train, report.prescriptions)"


@dataclass(frozen=True, repr=False)
class Report:
    """The outcome of a diagnosis.

    Attributes:
        findings: the worst first; empty where nothing was found.
        history: all figures.
        notes: what could not be seen, and why.
        cost: what the diagnosis took: "seconds", and "share" of the time it watched.
        fitting: interventions that have something to change on this network; None: it is not known.
        trial: outcomes of a trial of the prescriptions (:class:`stablegrad.diagnostics.trial.Trial`), as dictionaries,
            where there was one.
        thresholds: what the rules alarmed at; None: the defaults.
        beside: what it was judged beside, in words; "" for nothing.
        agent: of Stable-Baselines3, for which prescriptions are written; None: it is not known.
        command: writes the command that trains the diagnosed run with a change; None: no run is known.
        reference: what the training beside it has, where it learned more; None: nothing of the kind is known.
        outcome: an agent's returns; None: it is not known to be an agent's.
        verify: how to have the prescriptions tried, a sentence.
    """

    findings: list[Finding]
    history: History
    notes: list[str] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    fitting: frozenset[str] | None = None
    trial: list[dict[str, Any]] = field(default_factory=list)
    thresholds: Thresholds | None = None
    beside: str = ""
    agent: AgentSettings | None = None
    command: WriteCommand | None = field(default=None, compare=False)
    reference: Prescription | None = None
    outcome: Outcome | None = field(default=None, compare=False)
    verify: str = VERIFY

    @property
    def verdict(self) -> str:
        """healthy, at risk, collapsing or collapsed: the worst level of the findings.

        "too early" where there are none, in fewer snapshots than a rule needs to find anything
        (``Thresholds.patience``).
        """
        return verdict_of(self.findings, self._judged)

    @property
    def doubts(self) -> list[str]:
        """Why nothing more may be concluded from a network in which no cause was found yet, sentences."""
        if self.findings and {finding.rule for finding in self.findings} <= OUTCOME_RULES:
            return ["no other rule found anything: the settings, or a budget too small for the task, may be the reason"]
        limits, seen = self.thresholds or Thresholds(), len(self.history.series("gradient_norm").steps)
        beginning = limits.reference_looks + limits.patience
        if self.findings or seen >= beginning:
            return []
        snapshots = f"{seen} snapshot{'s' if seen != 1 else ''} so far"
        if self.verdict == TOO_EARLY:
            return [f"{snapshots}; a condition must hold for {limits.patience} in a row until a rule speaks"]
        return [f"{snapshots}; what changes against the network's own beginning shows from {beginning} on"]

    @property
    def prescriptions(self) -> list[Prescription]:
        """What to change, the most promising first."""
        found = prescribe(self.findings, self.fitting, self.agent, self.command)
        return found if self.reference is None else [self.reference, *found]

    @property
    def capacity(self) -> list[str]:
        """What each network can still learn, sentences; empty where it was not measured."""
        found = newest_capacities(self.history)
        return [f"{site}: {one.in_words}" if len(found) > 1 else one.in_words for site, one in found.items()]

    @cached_property
    def risk(self) -> Risk | None:
        """The probability that an agent's training ends failed; None where too little was measured."""
        return assess(self.history, self.outcome) if self._judged and self.outcome is not None else None

    def layers(self) -> dict[str, str]:
        """Verdict of every layer and activation that was watched, in the order of the data's way; as ``verdict``."""
        sites = dict.fromkeys([*self.history.series("gradient_norm").sites, *self.history.series("dormant").sites])
        place = {site: number for number, site in enumerate(self.history.order)}
        sites = dict.fromkeys(sorted(sites, key=lambda site: place.get(site, len(place))))
        by_site = {site: [finding for finding in self.findings if finding.site == site] for site in sites}
        return {site: verdict_of(found, self._judged) for site, found in by_site.items()}

    @property
    def _judged(self) -> bool:
        return enough_to_judge(self.history, self.thresholds)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the verdict, all that it rests on, and what to do."""
        return {
            "verdict": self.verdict,
            "findings": [_finite(vars(finding)) for finding in self.findings],
            "prescriptions": [vars(prescription) for prescription in self.prescriptions],
            "layers": self.layers(),
            "notes": self.notes,
            "cost": self.cost,
            "capacity": {site: _finite(one.figures()) for site, one in newest_capacities(self.history).items()},
            "risk": None if self.risk is None else vars(self.risk),
            "history": self.history.to_dict(),
            "trial": self.trial,
            "beside": self.beside,
        }

    def save_html(self, path: Path | str) -> Path:
        """Write the report as one page that needs no network; returns its path.

        Raises:
            UsageError: the path is a folder, or no path.
            StablegradError: it cannot be written to.
        """
        if not isinstance(path, str | Path) or not str(path):
            raise UsageError(f"path must name a file, such as 'report.html', got {path!r}")
        path = Path(path)
        if path.is_dir():
            raise UsageError(f"'{path}' is a folder; give a file in it, such as '{path / 'report.html'}'")
        # Imported here, as plotly takes a second, which only a page needs.
        from stablegrad.diagnostics.page import write_diagnosis_page

        try:
            return write_diagnosis_page(self, path)
        except OSError as error:
            raise StablegradError(f"cannot write '{path}': {error.strerror or error}") from error

    def __str__(self) -> str:
        lines = [f"verdict: {self.verdict}" + (f", beside {self.beside}" if self.beside else "")]
        for level in reversed(LEVELS[1:]):
            for rule, findings in _by_rule(self.findings, level).items():
                more = f" (and {len(findings) - 1} more sites)" if len(findings) > 1 else ""
                lines.append(f"  {level}: {findings[0].reason}{more} [{rule}, since step {findings[0].since:,}]")
        lines += [f"  capacity: {sentence}" for sentence in self.capacity]
        lines += [f"  outlook: {self.risk.in_words}"] if self.risk is not None else []
        prescriptions = self.prescriptions[:SHOWN]
        told = [f"  try: {prescription.title}: {prescription.helps}" for prescription in prescriptions]
        lines += [*told[:1], *self._first_code(prescriptions), *told[1:]]
        lines += [f"  {self.verify}"] if prescriptions else []
        lines += [f"  note: {note}" for note in [*self.doubts, *self.notes]]
        return "\n".join(lines)

    def _first_code(self, prescriptions: list[Prescription]) -> list[str]:
        """The code of the first prescription, for what is watched."""
        if not prescriptions:
            return []
        stack = "cli" if self.command is not None else "torch" if self.agent is None else "sb3"
        code = prescriptions[0].code.get(stack) or prescriptions[0].code.get("torch", "")
        return [f"    {line}".rstrip() for line in code.strip().splitlines()]

    def __repr__(self) -> str:
        found = f"{len(self.findings)} finding{'s' if len(self.findings) != 1 else ''}"
        if self.findings:
            found += f", first: {_shortened(self.findings[0].reason)}"
        return f"<{type(self).__name__}: {self.verdict}; {found}; print(report) tells more>"

    def _repr_html_(self) -> str:
        stack = "torch" if self.agent is None else "sb3"
        return report_html(self.verdict, self.findings, self.doubts, self.prescriptions, stack)


def beside_in_words(twin: History | None, thresholds: Thresholds | None) -> str:
    """What a training was judged beside, for ``Report.beside``; says so where that is ill itself."""
    if twin is None:
        return ""
    verdict = verdict_of(judge(twin, thresholds), enough_to_judge(twin, thresholds))
    ill = {"healthy": "", TOO_EARLY: ", too few to judge it by itself"}.get(verdict, f", itself {verdict}")
    looks = len(twin.series("gradient_norm").steps)
    return f"a training with {looks:,} look{'s' if looks != 1 else ''} up to step {twin.rows[-1][0]:,}{ill}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_REPR else text[: MAX_REPR - 1] + "…"


def _by_rule(findings: list[Finding], level: str) -> dict[str, list[Finding]]:
    grouped: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.level == level:
            grouped.setdefault(finding.rule, []).append(finding)
    return grouped


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in figures.items()
    }

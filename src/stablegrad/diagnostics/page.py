"""The page of a diagnosis: the verdict in words, what to do about it, and the figures behind it.

The same sections stand in the page of a run that was diagnosed while it trained (``run_page``): both show what
:func:`view` prepares, with the macros of ``templates/diagnosis_parts.html``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stablegrad.diagnostics.page_figures import (
    MAX_LOOKS,
    MEASURED,
    PHASES,
    Drawn,
    charts,
    heatmaps,
    phase_bars,
    short_name,
)
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.rules import LEVELS, TOO_EARLY, Finding
from stablegrad.diagnostics.verdicts import COLOURS, MARKS, MEANINGS
from stablegrad.pages import write_page
from stablegrad.text import MISSING, duration, number

if TYPE_CHECKING:  # a report knows its page, not the page its report
    from stablegrad.diagnostics.report import Report

STACKS = {"torch": "Plain PyTorch", "sb3": "Stable-Baselines3", "cli": "stablegrad command"}
TOP = 3  # findings that stand as sentences at the top
NAMED_SITES = 30  # from here on layers are marks without a name


@dataclass(frozen=True)
class Site:
    """One layer or activation and its verdict."""

    name: str
    short: str
    level: str


@dataclass(frozen=True)
class Change:
    """A prescription, ready to print: facts as (label, value), code for each of the view's stacks, "" for none."""

    title: str
    why: str
    facts: list[tuple[str, str]]
    codes: list[str]


@dataclass(frozen=True)
class TrialRow:
    """What a short paired trial of one prescription showed."""

    title: str
    effect: str
    step_time: str
    decision: str
    mark: str
    reason: str


@dataclass(frozen=True)
class View:
    """What a page shows of a diagnosis.

    Attributes:
        verdict: healthy, at risk, collapsing or collapsed, or too early.
        sentences: what it means, then the worst findings.
        watched: what was looked at, how often, from when to when, and beside what.
        sites: all layers and activations in the order of the data's way.
        ordered: whether that order is known of all; else activations follow the layers.
        counts: (level, sites of it), the worst first; levels without a site are left out.
        findings: all of them, the worst first.
        stacks: names of the stacks for which there is code.
        changes: prescriptions, the most promising first.
        trial: what was tried of them.
        relearning: what was learned in the phases of a pre-flight's synthetic task.
        heatmaps: layer x time.
        charts: lines over time.
        notes: what could not be seen.
        cost: what the diagnosis itself took, a sentence; "" where that is not known.
    """

    verdict: str
    sentences: list[str]
    watched: str
    sites: list[Site]
    ordered: bool
    counts: list[tuple[str, int]]
    findings: list[Finding]
    stacks: list[str]
    changes: list[Change]
    trial: list[TrialRow]
    relearning: list[Drawn]
    heatmaps: list[Drawn]
    charts: list[Drawn]
    notes: list[str]
    cost: str
    levels: ClassVar = (*LEVELS, TOO_EARLY)
    marks: ClassVar = MARKS
    colours: ClassVar = COLOURS
    short = staticmethod(short_name)

    @property
    def colour(self) -> str:
        """The verdict's colour."""
        return COLOURS[self.verdict]

    @property
    def named(self) -> bool:
        """Whether the sites are few enough to stand with their names."""
        return len(self.sites) <= NAMED_SITES


def write_diagnosis_page(report: Report, path: Path) -> Path:
    """Write the report as one HTML page that needs no network.

    Args:
        report: of a monitor, or of a pre-flight: what that has more (``relearning``, ``speed``) gets its
            sections.
        path: where to; missing folders are made.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = view(report)
    template = "diagnostics/templates/diagnosis.html"
    return write_page(path, template, title=f"Diagnosis: {shown.verdict}", accent=shown.colour, diagnosis=shown)


def view(report: Report) -> View:
    """What pages show of a report."""
    place = {name: number for number, name in enumerate(report.history.order)}
    layers = sorted(report.layers().items(), key=lambda layer: place.get(layer[0], len(place)))
    sites = [Site(name, short_name(name), level) for name, level in layers]
    counts = [(level, sum(site.level == level for site in sites)) for level in (*reversed(LEVELS), TOO_EARLY)]
    prescriptions = report.prescriptions
    found = {stack for prescription in prescriptions for stack in prescription.code}
    stacks = [stack for stack in STACKS if stack in found] + sorted(found.difference(STACKS))
    looks = [step for step, figures in report.history.rows if is_look(figures)]
    phases = [(getattr(report, attribute, {}), chart) for chart in PHASES for attribute in chart.metrics]
    outlook = [] if report.risk is None else [report.risk.in_words]
    told = [f"{one[:1].upper()}{one[1:]}." for one in (*report.capacity, *outlook, *report.doubts)]
    return View(
        verdict=report.verdict,
        sentences=[MEANINGS[report.verdict], *_sentences(report.findings), *told],
        watched=_watched(looks, len(sites), report.history.step_name)
        + (f" Judged beside {report.beside} as well." if report.beside else ""),
        sites=sites,
        ordered=all(name in place for name, _ in layers),
        counts=[(level, count) for level, count in counts if count],
        findings=report.findings,
        stacks=[STACKS.get(stack, stack) for stack in stacks],
        changes=[_change(prescription, stacks) for prescription in prescriptions],
        trial=[_trial_row(trial) for trial in report.trial],
        relearning=[drawn for accuracies, chart in phases if (drawn := phase_bars(accuracies, chart))],
        heatmaps=heatmaps(report.history),
        charts=charts(report.history),
        notes=report.notes,
        cost=_cost(report.cost),
    )


def is_look(figures: Iterable[str]) -> bool:
    """Whether figures, by ``<metric>/<site>``, are of a look of the diagnosis, and not of the training alone."""
    return not MEASURED.isdisjoint(key.partition("/")[0] for key in figures)


def _sentences(findings: Sequence[Finding]) -> list[str]:
    """The worst findings; of several places with the same trouble the first is named and the others are counted."""
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        grouped.setdefault((finding.level, finding.rule), []).append(finding)
    sentences = []
    for (level, _), same in list(grouped.items())[:TOP]:
        first = same[0]
        since = f"step {first.since:,}"
        details = [] if since in first.reason else [f"since {since}"]
        details += [f"and {len(same) - 1} more like it"] if len(same) > 1 else []
        more = f" ({', '.join(details)})" if details else ""
        sentences.append(f"{MARKS[level]} {level.capitalize()}: {first.reason}{more}.")
    rest = len(grouped) - TOP
    if rest > 0:
        sentences.append(f"{rest} more {'kind' if rest == 1 else 'kinds'} of trouble in the table of findings.")
    return sentences


def _watched(looks: Sequence[int], sites: int, step_name: str) -> str:
    if not looks:
        return ""
    span = f"from {looks[0]:,} to {looks[-1]:,}" if len(looks) > 1 else f"at {looks[0]:,}"
    thinned = f"; the figures draw {MAX_LOOKS} of them, evenly chosen" if len(looks) > MAX_LOOKS else ""
    number_of_looks = f"{len(looks):,} looks" if len(looks) > 1 else "1 look"
    return f"{sites:,} layers and activations, {number_of_looks} {span} {step_name}{thinned}."


def _change(prescription: Prescription, stacks: Sequence[str]) -> Change:
    title, why = (text[:1].upper() + text[1:] for text in (prescription.title, prescription.why))
    facts = [
        ("Expected cost", prescription.cost),
        ("Without starting over", "yes, it can be applied to a run as it goes" if prescription.live else "no"),
    ]
    return Change(title, why, facts, [prescription.code.get(stack, "").strip() for stack in stacks])


def _trial_row(trial: Mapping[str, Any]) -> TrialRow:
    effect, low, high = (trial.get(key) for key in ("effect", "low", "high"))
    shown = MISSING if effect is None else number(effect, signed=True)
    if effect is not None and low is not None and high is not None:
        shown += f" ({number(low, signed=True)} to {number(high, signed=True)})"
    if effect is not None and trial.get("score"):
        shown += f" in {trial['score']}"
    decision = str(trial.get("decision", MISSING))
    mark = {"go": "✓", "no-go": "✕"}.get(decision, MISSING)
    return TrialRow(
        str(trial.get("title") or trial["name"]),
        shown,
        _factor(trial.get("step_time")),
        decision,
        mark,
        str(trial.get("reason") or ""),
    )


def _factor(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f} times"


def _cost(cost: Mapping[str, float]) -> str:
    if "seconds" not in cost:
        return ""
    share = f", {cost['share']:.2%} of the time that it watched" if "share" in cost else ""
    return f"The diagnosis itself took {duration(cost['seconds'])}{share}."

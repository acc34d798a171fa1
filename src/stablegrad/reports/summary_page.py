"""summary.html: two printed pages for those who decide, in the words of their language.

What is decided is :mod:`~stablegrad.studies.decision`'s; here it gets words and links. Every number is a link to the
entry of its runs at the end of the page, and every entry links to the runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from stablegrad.errors import UsageError
from stablegrad.pages import write_page
from stablegrad.reports.currencies import currency_code
from stablegrad.reports.languages import Words
from stablegrad.reports.summary_chart import ChartSeries, score_chart
from stablegrad.studies.decision import LONGER, SAME_TIME, Cell, Criterion, Decision, Effect, Risk, Stage, decide
from stablegrad.studies.evidence import Evidence, read_evidence
from stablegrad.studies.next_command import next_command
from stablegrad.studies.summary import FEW_SEEDS
from stablegrad.text import memory, number

MOST_LINKS = 12  # of an entry's runs that are printed; the screen has them all
MOST_SIZES = 6  # rows of the table; more would not fit on two pages
#: Scores that are shares of 1; differences of them are told in percentage points.
SHARES = (
    "human_normalized_return",
    "evaluation.human_normalized_score",
    "relearning.mean_final_accuracy",
    "final_accuracy",
    "train/accuracy",
)


def write_summary_page(
    directory: Path | str,
    language: str = "en",
    price_per_hour: float | None = None,
    currency: str | None = None,
    watts: float | None = None,
) -> Path:
    """Write ``summary.html`` into a comparison folder or a study folder.

    Args:
        directory: the folder; its runs may be in any state.
        language: one of :data:`~stablegrad.reports.languages.LANGUAGES`.
        price_per_hour: of the machine; None: no prices are told.
        currency: of the price: an ISO 4217 code or its sign.
        watts: that the machine draws under load; None: no energy is told.

    Returns:
        its path.

    Raises:
        UsageError: no such language or currency, a price without a currency or the other way round, a price or a draw
            that is none, a folder that holds neither a comparison nor a study, or a study from which nothing can be
            decided.
        StablegradError: a file in it cannot be read.
    """
    words = Words(language)
    if (price_per_hour is None) != (currency is None):
        raise UsageError("--price-per-hour and --currency go together: --price-per-hour 1.2 --currency USD")
    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise UsageError(f"price-per-hour must be at least 0 and finite, got {price_per_hour}")
    if watts is not None and not 0 < watts < float("inf"):
        raise UsageError(f"watts must be above 0 and finite, got {watts}")
    currency = None if currency is None else currency_code(currency)
    evidence = read_evidence(directory)
    page = _Page(evidence, decide(evidence), words, price_per_hour, currency, watts)
    return write_page(evidence.directory / "summary.html", "reports/templates/summary.html", **page.context())


@dataclass
class _Page:
    evidence: Evidence
    decision: Decision
    words: Words
    price: float | None
    currency: str | None
    watts: float | None
    sources: list[Cell | None] = field(default_factory=list)
    """Cells in the order in which the page names them; None: all runs."""

    def context(self) -> dict[str, Any]:
        """What the template shows. Sources come last: they are collected while the rest is worded."""
        evidence, decision, words = self.evidence, self.decision, self.words
        names = self._names
        several = len(evidence.sizes) > 1
        facts = self._facts()
        shown: dict[str, Any] = {
            "language": words.language,
            "words": words,
            "title": words("title.study") if several else words("title.comparison", **names),
            "lead": evidence.title or words("lead.comparison", task=words.join(list(evidence.tasks)), **names),
            "facts": facts,
            "verdict": decision.verdict,
            "chip": words("chip", verdict=words(f"verdict.{decision.verdict}"), stage=words(f"stage.{decision.stage}")),
            "answer": self._answer(),
            "recommendation": self._recommendation(),
            "details": self._details(),
            "size_heading": words("heading.sizes") if several else words("heading.scores"),
            "sizes": self._sizes(),
            "several": several,
            "chart": self._chart(),
            "changes": self._changes(),
            "claims": self._claims(),
            "certainty_legend": words("certainty.legend", fewest=FEW_SEEDS),
            "costs": self._costs(),
            "cost_notes": self._cost_notes(),
            "risks": [self._risk(risk) for risk in decision.risks],
            "stages": [self._stage(stage) for stage in decision.stages],
            "command": next_command(evidence, decision),
            "folder": str(evidence.directory),
            "most_links": MOST_LINKS,
            **names,
        }
        return {**shown, "sources": [self._source(cell) for cell in self.sources]}

    @property
    def _names(self) -> dict[str, str]:
        return {"baseline": self.evidence.baseline, "candidate": self.evidence.candidate}

    # Numbers and their links

    def _link(self, text: object, *cells: Cell | None) -> Markup:
        """A number with a link to where it came from, and that entry's number for readers on paper."""
        numbers = [self._number_of(cell) for cell in dict.fromkeys(cells)]
        marks = Markup(",").join(Markup('<a href="#s{0}">{0}</a>').format(one) for one in numbers)
        return Markup('<span class="n"><a href="#s{}">{}</a><sup>{}</sup></span>').format(numbers[0], text, marks)

    def _number_of(self, cell: Cell | None) -> int:
        if cell not in self.sources:
            self.sources.append(cell)
        return self.sources.index(cell) + 1

    def _source(self, cell: Cell | None) -> dict[str, Any]:
        directory = self.evidence.directory
        links: list[dict[str, str | None]] = []
        if cell is None:
            files = ("study.toml", "results.json", "comparison.json", "comparison_summary.json", "report.html")
            links += [{"text": name, "href": name} for name in files if (directory / name).exists()]
            return {"label": self.words("sources.all"), "links": links}
        for run in self.evidence.of(cell.setting, cell.size):
            task = f" {self.evidence.tasks[run.task]}" if len(self.evidence.tasks) > 1 else ""
            target = next(
                (run.path / name for name in ("report.html", "summary.json") if (run.path / name).exists()), None
            )
            href = None if target is None else quote(Path(os.path.relpath(target, directory)).as_posix())
            links.append({"text": f"{run.seed}{task}", "href": href})
        size = self._size(cell.size)
        return {"label": self.words("sources.cell", setting=cell.setting, size=size), "links": links}

    def _size(self, index: int) -> str:
        parts = self.evidence.sizes[index].parts
        named = [
            self.words(f"size.{axis}", value=value)
            if self.words.has(f"size.{axis}")
            else self.words("size.other", axis=axis, value=value)
            for axis, value in parts
        ]
        return str(self.words.join([str(one) for one in named]))

    def _score(self, value: float) -> str:
        return f"{100 * value:.1f}%" if self.evidence.score in SHARES else number(value)

    def _change(self, value: float, *, signed: bool = True, unit: bool = True) -> str:
        if self.evidence.score not in SHARES:
            return number(value, signed=signed)
        text = f"{100 * value:{'+' if signed else ''}.1f}"
        return str(self.words("unit.points", value=text)) if unit else text

    def _score_link(self, value: float | None, cell: Cell) -> Markup:
        return Markup("–") if value is None else self._link(self._score(value), cell)

    def _interval(self, effect: Effect) -> Markup:
        if effect.mean is None:
            return Markup("–")
        cells = (effect.before, effect.after)
        if effect.interval is None:
            return self._link(self._change(effect.mean), *cells)
        low, high = (self._change(end, unit=False) for end in effect.interval)
        text = self.words("interval", value=self._change(effect.mean), low=low, high=high)
        return self._link(text, *cells)

    # Parts of the page

    def _facts(self) -> Markup:
        evidence, words = self.evidence, self.words
        finished = sum(run.status == "finished" for run in evidence.runs)
        unit = "steps" if evidence.agents else "epochs"
        if evidence.budget is None:
            budget = words("budget.mixed")
        else:
            budget = words(f"budget.{unit}", count=words.count(evidence.budget))
        return words(
            "facts",
            runs=self._link(finished, None),
            total=len(evidence.runs),
            seeds=len(evidence.seeds),
            budget=budget,
            score=words(f"score.{evidence.score}"),
        )

    def _answer(self) -> Markup:
        code = self.decision.answer
        if code == "worse" and len(self.evidence.sizes) > 1:
            code = "worse_big"
        return self.words(f"answer.{code}", fewest=FEW_SEEDS, size=self._size(self.decision.best_size), **self._names)

    def _recommendation(self) -> Markup:
        decision = self.decision
        step = decision.next_step
        if step == "adopt" and not self.evidence.agents:
            step = "adopt_mechanism"
        elif step == "adopt" and decision.stage != "scale":
            step = "adopt_at_size"  # nothing has been tried of other sizes, and nothing is said of them
        return self.words(
            f"recommend.{step}",
            count=sum(run.status == "left" for run in self.evidence.runs),
            seeds=decision.next_seeds,
            stage=self.words(f"stage.{decision.stage}_in_text"),
            size=self._size(decision.best_size),
            score=self._candidate_score(),
            longer=LONGER,
            **self._names,
        )

    def _candidate_score(self) -> str:
        mean = self.decision.means.get((self.evidence.candidate, self.decision.best_size))
        return "–" if mean is None else self._score(mean)

    def _details(self) -> list[Markup]:
        evidence, words, effect = self.evidence, self.words, self.decision.advantage
        sentences = []
        if effect.mean is not None:
            cells = (effect.before, effect.after)
            values = {
                "size": self._size(effect.after.size),
                "before": self._score_link(effect.before_mean, effect.before),
                "after": self._score_link(effect.after_mean, effect.after),
                "change": self._link(self._change(effect.mean), *cells),
                **self._names,
            }
            if effect.interval is None:
                sentences.append(words("detail.advantage_no_interval", **values))
            else:
                low, high = self._change(effect.interval[0], unit=False), self._change(effect.interval[1])
                sentences.append(words("detail.advantage", low=low, high=high, **values))
        known = dict(self._references())
        if effect.mean is not None and known:
            key = "_".join(name for name in ("random", "solved", "human") if name in known)
            shown = {name: self._score(value) for name, value in known.items()}
            sentences.append(words(f"detail.references_{key}", **shown))
        for setting, growth in self.decision.growth.items():
            if growth.mean is None or growth.before_mean is None:
                continue
            sizes = [evidence.sizes[cell.size].parameters for cell in (growth.before, growth.after)]
            small, large = ("–" if size is None else words.count(size) for size in sizes)
            key = "detail.growth" if growth.direction else "detail.growth_level"
            sentences.append(
                words(
                    key,
                    small=small,
                    large=large,
                    setting=setting,
                    went=words("went.up" if growth.direction > 0 else "went.down"),
                    before=self._score_link(growth.before_mean, growth.before),
                    after=self._score_link(growth.after_mean, growth.after),
                    certainty=self._certainty(growth),
                )
            )
        return sentences

    def _certainty(self, effect: Effect) -> Markup:
        return self.words(f"certainty.{effect.certainty}", fewest=FEW_SEEDS)

    def _shown_sizes(self) -> list[int]:
        """All sizes, or as many as there is room for, the ends among them and the rest evenly between."""
        count = len(self.evidence.sizes)
        if count <= MOST_SIZES:
            return list(range(count))
        return [round(index * (count - 1) / (MOST_SIZES - 1)) for index in range(MOST_SIZES)]

    def _sizes(self) -> dict[str, Any]:
        rows = []
        for index in self._shown_sizes():
            effect, parameters = self.decision.by_size[index], self.evidence.sizes[index].parameters
            means = self.decision.means
            before, after = means[effect.before.setting, index], means[effect.after.setting, index]
            if effect.count:  # so that the two differ by the difference beside them
                before, after = effect.before_mean, effect.after_mean
            weights = "–" if parameters is None else self._link(self.words.count(parameters), effect.before)
            rows.append(
                {
                    "size": self._size(index),
                    "parameters": weights,
                    "before": self._score_link(before, effect.before),
                    "after": self._score_link(after, effect.after),
                    "difference": self._interval(effect),
                    "certainty": self._certainty(effect),
                }
            )
        count = len(self.evidence.sizes)
        more = self.words("sizes.more", shown=len(rows), count=count) if len(rows) < count else None
        return {"rows": rows, "more": more}

    def _chart(self) -> Markup | None:
        evidence, words = self.evidence, self.words
        percent = evidence.score in SHARES
        styles = ((evidence.baseline, "first"), (evidence.candidate, "second"))
        shown = self._shown_sizes()
        scores = {name: [_present(evidence.scores(name, size)) for size in shown] for name, _ in styles}
        if len(evidence.sizes) == 1:
            # The two settings side by side.
            labels = [evidence.baseline, evidence.candidate]
            series = [
                ChartSeries(name, style, [scores[name][0] if name == one else [] for one in labels])
                for name, style in styles
            ]
            key = "chart.description_one_size"
        else:
            counts = [evidence.sizes[size].parameters for size in shown]
            labels = ["–" if count is None else words.count(count, short=True) for count in counts]
            series = [ChartSeries(name, style, scores[name]) for name, style in styles]
            key = "chart.description"
        lines = [
            (str(words(f"reference.{name}", score=self._score(value))), value) for name, value in self._references()
        ]
        return score_chart(labels, series, lines, str(words(key, **self._names)), percent=percent)

    def _references(self) -> list[tuple[str, float]]:
        """Names and scores of what is known to hold the scores against."""
        known = self.evidence.references
        pairs = [] if known is None else [("random", known.random), (known.kind, known.target)]
        return [(name, value) for name, value in pairs if value is not None]

    def _changes(self) -> list[dict[str, Any]]:
        rows = []
        for change in self.evidence.changes:
            key = f"option.{change.option}"
            label = self.words(key) if self.words.has(key) else self.words("option.other", option=change.option)
            before, after = (self._value(change.option, value) for value in (change.before, change.after))
            row = self.words("changes.row", before=before, after=after)
            plain = f"{change.option}: {change.before} → {change.after}"
            rows.append({"label": label, "change": row, "plain": plain})
        return rows

    def _value(self, option: str, value: Any) -> Markup:
        key = f"value.{option}.{value}"
        if self.words.has(key):
            return self.words(key)
        return self.words("value.absent") if value is None else escape(value)

    def _claims(self) -> list[dict[str, Any]]:
        decision = self.decision
        effects: list[tuple[str, Effect, dict[str, str]]] = [("advantage", decision.advantage, {})]
        effects += [("growth", effect, {"setting": setting}) for setting, effect in decision.growth.items()]
        if decision.scaling is not None:
            effects.append(("scaling", decision.scaling, {}))
        rows = []
        for code, effect, values in effects:
            way = {1: "up", -1: "down", 0: "level"}[effect.direction]
            claim = self.words(f"claim.{code}_{way}", size=self._size(effect.after.size), **self._names, **values)
            rows.append(
                {
                    "claim": claim,
                    "certainty": self._certainty(effect),
                    "difference": self._interval(effect),
                    "pairs": self._link(effect.count, effect.before, effect.after),
                }
            )
        return rows

    def _costs(self) -> list[dict[str, Any]]:
        """Rows of label, baseline, candidate; rows of one value have no "after"."""
        words, decision, missing = self.words, self.decision, self.words("cost.not_measured")
        costs, even = decision.costs, decision.break_even

        def both(label: Markup, values: Sequence[str | None]) -> dict[str, Any]:
            shown = [
                missing if value is None else self._link(value, cost.cell)
                for cost, value in zip(costs, values, strict=True)
            ]
            return {"label": label, "before": shown[0], "after": shown[1]}

        times = [None if cost.seconds is None else words.duration(cost.seconds) for cost in costs]
        rows = [both(words("cost.time", size=self._size(costs[0].cell.size)), times)]
        if self.price is not None:
            rows.append(both(words("cost.money"), [self._money(cost.seconds) for cost in costs]))
        rows.append(both(words("cost.energy"), [self._energy(cost.seconds) for cost in costs]))
        sizes = [None if cost.memory_bytes is None else memory(cost.memory_bytes) for cost in costs]
        rows.append(both(words("cost.memory"), sizes))
        cells = (costs[0].cell, costs[1].cell)
        ratio = None if even.time_ratio is None else words("unit.times", value=number(even.time_ratio))
        step = missing if ratio is None else self._link(ratio, *cells)
        rows.append({"label": words("cost.step", **self._names), "before": step, "after": None})
        total = self._spent(decision.total_seconds)
        rows.append(
            {
                "label": words("cost.total"),
                "before": missing if total is None else self._link(total, None),
                "after": None,
            }
        )
        coming = self._spent(decision.next_seconds)
        if coming is not None:
            label = words("cost.next_bigger" if decision.next_step == "bigger" else "cost.next")
            rows.append({"label": label, "before": self._link(coming, None), "after": None})
        return rows

    def _money(self, seconds: float | None) -> str | None:
        if self.price is None or self.currency is None or seconds is None:
            return None
        return self.words.money(seconds / 3600 * self.price, self.currency)

    def _energy(self, seconds: float | None) -> str | None:
        if self.watts is None or seconds is None:
            return None
        watt_hours = seconds / 3600 * self.watts
        return f"{number(watt_hours)} Wh" if watt_hours < 1000 else f"{number(watt_hours / 1000)} kWh"

    def _spent(self, seconds: float | None) -> str | None:
        """Time, money and energy, as far as they are known."""
        if seconds is None:
            return None
        parts = [self.words.duration(seconds), self._money(seconds), self._energy(seconds)]
        return str(self.words.join([part for part in parts if part is not None]))

    def _cost_notes(self) -> list[Markup]:
        words, even = self.words, self.decision.break_even
        cells = (self.decision.costs[0].cell, self.decision.costs[1].cell)
        notes = []
        if even.time_ratio is not None and even.allowed_share is not None:
            key = "break_even.bound" if even.time_ratio > SAME_TIME else "break_even.cheap"
            ratio = self._link(number(even.time_ratio), *cells)
            notes.append(words(key, ratio=ratio, allowed=f"{even.allowed_share:.0%}", **self._names))
        share = None if even.steps_share is None else self._link(f"{even.steps_share:.0%}", *cells)
        notes.append(words(f"break_even.{even.state}", share=share, **self._names))
        if self.evidence.equal_time is not None:
            before, after = (
                self._link(number(value), cell) for value, cell in zip(self.evidence.equal_time, cells, strict=True)
            )
            notes.append(words("break_even.equal_time", before=before, after=after, **self._names))
        if self.watts is None:
            notes.append(words("cost.note_no_energy"))
        else:
            notes.append(words("cost.note_energy", watts=number(self.watts)))
        if self.price is not None and self.currency is not None:
            notes.append(words("cost.note_price", price=words.money(self.price, self.currency)))
        else:
            notes.append(words("cost.note_no_price"))
        return notes

    def _risk(self, risk: Risk) -> Markup:
        values: dict[str, object] = {}
        for name, value in risk.values.items():
            if name == "size":
                values[name] = self._size(int(value))
            elif name == "share":
                values[name] = f"{value:.1%}" if float(value) < 0.1 else f"{value:.0%}"
            elif isinstance(value, str):
                values[name] = value
            else:
                values[name] = self.words.count(value)
        if risk.cells:
            linked = "count" if "count" in values else "pairs" if "pairs" in values else None
            if linked is not None:
                # A risk of many cells is one of all runs.
                cells: Sequence[Cell | None] = risk.cells if len(risk.cells) <= 2 else [None]
                values[linked] = self._link(values[linked], *cells)
        if risk.code == "peak":
            for name, cell in zip(("best", "largest"), risk.cells, strict=True):
                values[name] = self._score_link(float(risk.values[name]), cell)
        return self.words(f"risk.{risk.code}", **values)

    def _stage(self, stage: Stage) -> dict[str, Any]:
        here = stage.name == self.decision.stage
        return {
            "name": self.words(f"stage.{stage.name}"),
            "state": stage.state,
            "shown": self.words(f"state.{stage.state}"),
            "here": here,
            "criteria": [self._criterion(stage, criterion) for criterion in stage.criteria],
        }

    def _criterion(self, stage: Stage, criterion: Criterion) -> dict[str, Any]:
        code, required, observed = criterion.code, criterion.required, criterion.observed
        key = f"criterion.{code}"
        show = {
            "pairs": lambda value: f"{value:.0f}",
            "steady": lambda value: f"{value:.0%}",
            "time": lambda value: str(self.words("unit.times", value=number(value))),
        }.get(code, self._change)
        if required is None:
            key += "_unknown"
        elif code == "improvement" and stage.name == "probe":
            key += "_any"
        elif code == "improvement" and observed is None:
            key += "_promised"
        if code == "above_random":
            show = self._score
        bound = None if required is None else show(required)
        if required is not None and code in ("improvement", "growth", "beats_small"):
            bound = self._change(required, signed=False)
        result = {True: "met", False: "not_met", None: "open"}[criterion.met]
        return {
            "text": self.words(key, required=bound, **self._names),
            "observed": None if observed is None else self._link(show(observed), *criterion.cells),
            "result": result,
            "shown": self.words(f"result.{result}"),
        }


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]

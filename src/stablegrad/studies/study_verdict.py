"""What a study shows, in plain sentences: which settings are best at which size, what size does, what was expected.

Nothing is claimed where the interval of a difference includes 0. Differences are paired by seed.
"""

from __future__ import annotations

from collections.abc import Sequence

from stablegrad.studies.study import Expectation
from stablegrad.studies.summary import FEW_SEEDS
from stablegrad.studies.table import (
    CONFIDENCE,
    Estimate,
    Row,
    Table,
    counts,
    difference,
    estimate,
    improvement_probability,
)
from stablegrad.studies.wording import number

PERCENT = f"{CONFIDENCE:.0%}"
MANY = 6  # settings


def study_verdict(table: Table, expectations: Sequence[Expectation] = ()) -> list[str]:
    """The sentences, the answer first.

    Args:
        table: the study's runs.
        expectations: what its file expects.
    """
    if not any(row.status == "finished" for row in table.rows):
        return ["No run has finished yet, so there is nothing to say."]
    if table.score is None:
        return ["This study reports no score, only costs: see the table of costs."]
    sentences = []
    for name, rows in table.parts():
        where = f"{name}: " if name else ""
        sentences += [where + sentence for sentence in [*best_by_size(table, rows), *falls_with_size(table, rows)]]
        sentences += [where + expectation_in_words(table, rows, one) for one in expectations]
    sentences += over_tasks(table)
    seeds = [len({row.seed for row in own if row.status == "finished"}) for own in _cells(table)]
    if any(0 < count < FEW_SEEDS for count in seeds):
        sentences.append(f"Fewer than {FEW_SEEDS} seeds in places: a first look, not evidence.")
    return sentences


def counts_in_words(table: Table) -> str:
    """How many runs are finished, failed and left."""
    found = counts(table.rows)
    return f"{found['finished']} of {len(table.rows)} runs finished, {found['failed']} failed, {found['left']} left"


def best_by_size(table: Table, rows: Sequence[Row]) -> list[str]:
    """Which setting is best at each size, and which others cannot be told from it."""
    assert table.score is not None
    if len(table.groups(rows, table.settings)) < 2:
        return []
    best: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    unknown = []
    sizes = table.groups(rows, table.sizes)
    for size, own in sizes.items():
        groups = table.groups(own, table.settings)
        values = {setting: estimate(group, table.score).value for setting, group in groups.items()}
        known = {setting: value for setting, value in values.items() if value is not None}
        label = table.label(table.sizes, size)
        if not known:
            unknown.append(label)
            continue
        first = max(known, key=lambda setting: known[setting])
        # what has no number is not beaten
        level = [
            table.label(table.settings, setting)
            for setting in known
            if setting != first and difference(groups[setting], groups[first], table.score).sign <= 0
        ]
        best.setdefault((table.label(table.settings, first), tuple(level)), []).append(label)
    sentences = []
    for (name, others), places in best.items():
        where = _places(places, len(sizes))
        if others:
            sentences.append(
                f"{name} is highest {where}, but not told from {_listed(others)}: the interval includes 0."
            )
        else:
            sentences.append(f"{name} is best {where}: every paired difference has a {PERCENT} interval above 0.")
    if unknown:
        sentences.append(f"No setting has a finished run {_places(unknown, len(sizes))}.")
    return sorted(sentences, key=lambda sentence: " is best " not in sentence)


def over_tasks(table: Table) -> list[str]:
    """What every setting gains over the first on all tasks together, sizes averaged over."""
    groups = table.groups(table.rows, table.settings)
    if len(table.tasks) < 2 or not table.comparable or table.score is None or len(groups) < 2:
        return []
    names = list(groups)
    first = groups[names[0]]
    sentences = []
    for name in names[1:]:
        gain = difference(first, groups[name], table.score)
        better = improvement_probability(first, groups[name], table.score)
        if gain.value is None or better.value is None:
            continue
        ends = "" if better.interval is None else f" [{number(better.interval[0])}, {number(better.interval[1])}]"
        sentences.append(
            f"Over {len(table.tasks)} tasks {table.label(table.settings, name)} differs from "
            f"{table.label(table.settings, names[0])} by {in_words(gain)} in the interquartile mean; one of its runs "
            f"is better with a probability of {number(better.value)}{ends}."
        )
    return sentences


def falls_with_size(table: Table, rows: Sequence[Row]) -> list[str]:
    """Whether the score of each setting rises or falls from the smallest to the largest size, axis by axis."""
    sentences = []
    for axis in table.sizes:
        smallest, largest = table.axes[axis][0], table.axes[axis][-1]
        if smallest == largest:
            continue
        words: dict[int, list[str]] = {-1: [], 1: [], 0: []}
        groups = table.groups(rows, table.settings)
        for setting, group in groups.items():
            found = size_difference(table, group, axis)
            if found.value is not None:
                label = table.label(table.settings, setting)
                # of many settings only the changes are worth their numbers
                brief = found.sign == 0 and len(groups) > MANY
                words[found.sign].append(label if brief else f"{label} ({in_words(found)})")
        parts = [
            f"{verb} for {_listed(names)}"
            for verb, names in (("falls", words[-1]), ("rises", words[1]), ("shows no change", words[0]))
            if names
        ]
        if parts:
            short = axis.split(".")[-1]
            sentences.append(f"From {short} {smallest} to {largest} the score {'; it '.join(parts)}.")
    return sentences


def size_difference(table: Table, rows: Sequence[Row], axis: str) -> Estimate:
    """The score at the largest value of an axis minus that at the smallest, the other size averaged over."""
    assert table.score is not None
    groups = table.groups(rows, (axis,))
    first, last = ((table.axes[axis][0],), (table.axes[axis][-1],))
    return difference(groups.get(first, []), groups.get(last, []), table.score)


def expectation_in_words(table: Table, rows: Sequence[Row], expected: Expectation) -> str:
    """Whether what the study's file expects is what came out."""
    assert table.score is not None
    own = _of(table, rows, expected.setting)
    said = f'Expected "{expected.text}"'
    if expected.axis is not None:
        found = size_difference(table, own, expected.axis)
        if found.value is None:
            return f"{said}: cannot be said yet."
        if found.interval is None:
            return f"{said}: one seed cannot say ({in_words(found)})."
        fell = found.sign < 0
        if expected.falls:
            verdict = "holds" if fell else "does not hold" if found.sign > 0 else "is not shown"
        else:
            verdict = "does not hold: it falls" if fell else "is not contradicted"
        return f"{said}: {verdict} ({in_words(found)})."
    other = _of(table, rows, expected.other or "")
    places: dict[int, list[str]] = {1: [], -1: [], 0: []}
    ours, theirs = table.groups(own, table.sizes), table.groups(other, table.sizes)
    for size, group in ours.items():
        found = difference(theirs.get(size, []), group, table.score)
        if found.value is not None:
            places[found.sign].append(f"{table.label(table.sizes, size)} ({in_words(found)})")
    total = sum(map(len, places.values()))
    if not total:
        return f"{said}: cannot be said yet."
    words = f"{said}: holds at {len(places[1])} of {total} sizes"
    if places[-1]:
        words += f"; does not hold at {_listed(places[-1])}"
    if places[0]:
        words += f"; is not shown at {_listed(places[0])}"
    return words + "."


def in_words(found: Estimate) -> str:
    """A difference with its interval."""
    if found.value is None:
        return "no number"
    if found.interval is None:
        return f"{number(found.value, signed=True)}, one seed"
    low, high = found.interval
    return f"{number(found.value, signed=True)} [{number(low, signed=True)}, {number(high, signed=True)}]"


def _of(table: Table, rows: Sequence[Row], setting: str) -> list[Row]:
    """The rows with this value on one of the axes of settings; "all": all."""
    if setting == "all":
        return list(rows)
    return [row for row in rows if any(row.values[axis] == setting for axis in table.settings)]


def _cells(table: Table) -> list[list[Row]]:
    cells: dict[str, list[Row]] = {}
    for row in table.rows:
        cells.setdefault(row.cell, []).append(row)
    return list(cells.values())


def _places(places: Sequence[str], total: int) -> str:
    if len(places) == total:
        return "at every size" if total > 1 else "here"
    return f"at {len(places)} of {total} sizes ({'; '.join(places)})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

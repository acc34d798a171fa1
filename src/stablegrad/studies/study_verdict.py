"""What a study shows, in plain sentences: which settings are best at which size, what size does, what was expected.

Nothing is claimed where the interval of a difference includes 0. Differences are paired by seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stablegrad.studies.scores import without_rounding
from stablegrad.studies.study import Expectation
from stablegrad.studies.summary import FEW_SEEDS
from stablegrad.studies.table import (
    CONFIDENCE,
    Estimate,
    Row,
    Table,
    by_seed,
    counts,
    difference,
    estimate,
    improvement_probability,
)
from stablegrad.text import number

PERCENT = f"{CONFIDENCE:.0%}"
MANY = 6  # settings
#: What the score does from the smallest to the largest size.
VERBS = FALLS, RISES, EQUAL, UNSURE, ONE_SEED = (
    "falls for",
    "rises for",
    "stays the same for",
    "neither falls nor rises for sure for",
    "has one seed, which cannot say, for",
)


def study_verdict(table: Table, expectations: Sequence[Expectation] = ()) -> list[str]:
    """The sentences, the answer first.

    Args:
        table: the study's runs.
        expectations: what its file expects.
    """
    if not any(row.status == "finished" for row in table.rows):
        return ["No run has finished yet, so there is nothing to say."]
    if table.score is None:
        return ["This study reports no score by which settings could be ranked: see its figures and costs."]
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
    if len(table.groups(rows, table.settings)) < 2:
        return []
    sizes = table.groups(rows, table.sizes)
    places: dict[tuple[str, str], list[str]] = {}
    for size, own in sizes.items():
        places.setdefault(_ranking(table, own), []).append(table.label(table.sizes, size))
    sentences = [f"{before} {_places(where, len(sizes))}{after}" for (before, after), where in places.items()]
    return sorted(sentences, key=lambda sentence: " is best " not in sentence)


def _ranking(table: Table, rows: Sequence[Row]) -> tuple[str, str]:
    """What is said of the settings at one size: the words before the size, and those after it.

    All that is said is of the seeds that every setting has which has any.
    """
    assert table.score is not None
    names = {table.label(table.settings, labels): own for labels, own in table.groups(rows, table.settings).items()}
    seeds = {name: set(by_seed(own, table.score)) for name, own in names.items()}
    silent = [name for name, own in seeds.items() if not own]
    known = [name for name, own in seeds.items() if own]
    missing = f"; there is no score of {_listed(silent)} yet" if silent else ""
    if not known:
        return "There is no score yet", "."
    if len(known) == 1:
        return f"There is a score of {known[0]} alone", ", so nothing is compared."
    shared = set.intersection(*(seeds[name] for name in known))
    if not shared:
        return f"{_listed(known)} share no seed", f", so they are not compared{missing}."
    groups = {name: [row for row in names[name] if row.seed in shared] for name in known}
    values = without_rounding(np.array([estimate(groups[name], table.score).value for name in known]))[0]
    top = [name for name, value in zip(known, values, strict=True) if value == values.max()]
    below = [name for name in known if name not in top]
    of_seeds = f" (of the {len(shared)} seeds that {'both' if len(known) == 2 else 'all'} have)"
    after = (of_seeds if 1 < len(shared) < table.seeds else "") + missing + "."
    if not below:
        alike = all(difference(groups[top[0]], groups[name], table.score).equal for name in top[1:])
        same = "are equal" if alike else "have the same mean"
        return f"{_listed(top)} {same}", ", of one seed" + after if len(shared) == 1 else after
    verb = "are" if len(top) > 1 else "is"
    if len(shared) == 1:
        return (
            f"{_listed(top)} {verb} highest",
            f", but one seed cannot tell {'it' if len(top) == 1 else 'them'} from {_listed(below)}{after}",
        )
    level = [
        name for name in below if any(difference(groups[name], groups[best], table.score).sign <= 0 for best in top)
    ]
    if level:
        words = f", but not told from {_listed(level)}: the interval includes 0"
        return f"{_listed(top)} {verb} highest", words + after
    words = f": every paired difference has a {PERCENT} interval above 0"
    return f"{_listed(top)} {verb} best", words + after


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
            f"{table.label(table.settings, names[0])} by {in_words(table, gain)} in the interquartile mean; one of its "
            f"runs is better with a probability of {number(better.value)}{ends}."
        )
    return sentences


def falls_with_size(table: Table, rows: Sequence[Row]) -> list[str]:
    """Whether the score of each setting rises or falls from the smallest to the largest size, axis by axis."""
    sentences = []
    for axis in table.sizes:
        smallest, largest = table.axes[axis][0], table.axes[axis][-1]
        if smallest == largest:
            continue
        words: dict[str, list[str]] = {}
        groups = table.groups(rows, table.settings)
        for setting, group in groups.items():
            found = size_difference(table, group, axis)
            if found.value is not None:
                verb = _verb(found)
                label = table.label(table.settings, setting)
                # of many settings only the changes are worth their numbers
                brief = verb in (EQUAL, UNSURE) and len(groups) > MANY
                words.setdefault(verb, []).append(label if brief else f"{label} ({in_words(table, found)})")
        parts = [f"{verb} {_listed(words[verb])}" for verb in VERBS if verb in words]
        if parts:
            short = axis.split(".")[-1]
            sentences.append(f"From {short} {smallest} to {largest} the score {'; it '.join(parts)}.")
    return sentences


def _verb(found: Estimate) -> str:
    """What a difference between two sizes says."""
    if found.interval is None:
        return ONE_SEED
    return EQUAL if found.equal else {1: RISES, -1: FALLS, 0: UNSURE}[found.sign]


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
            return f"{said}: one seed cannot say ({in_words(table, found)})."
        fell = found.sign < 0
        if expected.falls:
            verdict = "holds" if fell else "does not hold" if found.sign > 0 else "is not shown"
        else:
            verdict = "does not hold: it falls" if fell else "is not contradicted"
        return f"{said}: {verdict} ({in_words(table, found)})."
    other = _of(table, rows, expected.other or "")
    places: dict[str, list[str]] = {}
    ours, theirs = table.groups(own, table.sizes), table.groups(other, table.sizes)
    for size, group in ours.items():
        found = difference(theirs.get(size, []), group, table.score)
        label = table.label(table.sizes, size)
        if found.value is None:
            places.setdefault("cannot be said yet", []).append(label)
        else:
            verdict = {1: "holds", -1: "does not hold", 0: "is not shown"}[found.sign]
            verdict = "one seed cannot say" if found.interval is None else verdict
            places.setdefault(verdict, []).append(f"{label} ({in_words(table, found)})")
    if places.keys() <= {"cannot be said yet"}:
        return f"{said}: cannot be said yet."
    words = f"{said}: holds at {len(places.get('holds', []))} of {len(ours)} sizes"
    for verdict in ("does not hold", "is not shown", "one seed cannot say", "cannot be said yet"):
        if verdict in places:
            words += f"; {verdict} at {_listed(places[verdict])}"
    return words + "."


def in_words(table: Table, found: Estimate) -> str:
    """A difference with its interval, and of how many seeds it is where these are not all."""
    if found.value is None:
        return "no number"
    if found.interval is None:
        return f"{number(found.value, signed=True)}, one seed"
    low, high = found.interval
    words = f"{number(found.value, signed=True)} [{number(low, signed=True)}, {number(high, signed=True)}]"
    return words if found.seeds == table.seeds else f"{words}, {found.seeds} seeds"


def _of(table: Table, rows: Sequence[Row], setting: str) -> list[Row]:
    """The rows with this value on one of the axes; "all": all."""
    if setting == "all":
        return list(rows)
    return [row for row in rows if setting in row.values.values()]


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

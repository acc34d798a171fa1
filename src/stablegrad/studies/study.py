"""A study: one readable TOML file that says which runs to make.

The file::

    title = "..."                    one line; claim and look_at, if there, are shown with the results
    seeds = 3                        1 to 3, or a list of seeds
    report = ["final_return", ...]   figures of the table
    expect = ["baseline falls with depth", "stable does not fall with depth", "stable above baseline"]
                                     what the report says whether it came out
    [base]                           options that all runs share, with their names on the command line
    [axes]                           options with lists of values; every combination is a cell
    [tune]                           what every cell tries first, on other seeds (stablegrad.studies.tuning)
    [small]                          the same keys again: what is different in the small form
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stablegrad.errors import StablegradError, UsageError, unknown_name
from stablegrad.files import read_text
from stablegrad.networks.sizes import resolve_depth, resolve_width
from stablegrad.options import flatten
from stablegrad.studies.kinds import (
    ALIASES,
    CHOICES,
    DEFAULT_REPORT,
    RESERVED,
    SCORES,
    Config,
    kind_of,
    known_figures,
    known_options,
    make_config,
    with_data,
    with_learning_rate,
    with_options,
)
from stablegrad.studies.seeds import seed_list
from stablegrad.studies.tuning import FACTORS, RATE, Trial, TrialScore, Tuning, parse_tuning

FORMAT = 1
FORMS = ("full", "small")
LONGEST_NAME = 200  # bytes; file systems hold 255, of which the seed needs some
MAX_CELLS, MAX_RUNS = 10_000, 100_000  # a grid beyond is a slip of the pen
TEXTS = ("title", "claim", "look_at", "needs_data")
SIZES = {"depth": resolve_depth, "width": resolve_width}
KEYS = (*TEXTS, "seeds", "report", "expect", "base", "axes", "tune", "small")
EXPECTATION = re.compile(r"(?P<setting>.+?) (?:(?P<verb>falls|does not fall) with (?P<axis>.+)|above (?P<other>.+))")


@dataclass(frozen=True)
class Cell:
    """One combination of the axes' values.

    Attributes:
        name: unique in the study; names its run folders.
        values: what each axis says here, for people.
        config: the runs' configuration; its seed does not matter.
    """

    name: str
    values: dict[str, str]
    config: Config


@dataclass(frozen=True)
class Run:
    """One run of a study: a cell and a seed."""

    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """Names its folder."""
        return f"{self.cell.name}-seed{self.seed}"

    @property
    def config(self) -> Config:
        """The cell's configuration with the seed."""
        return dataclasses.replace(self.cell.config, seed=self.seed)


@dataclass(frozen=True)
class Expectation:
    """What a study expects of its score.

    Attributes:
        text: as it stands in the file.
        setting: a value of an axis; "all": every run.
        axis: the size with which the score falls or not; None: it is compared with ``other``.
        falls: whether it is to fall.
        other: the value above which ``setting`` should be, at every size.
    """

    text: str
    setting: str
    axis: str | None = None
    falls: bool = False
    other: str | None = None


@dataclass(frozen=True)
class Study:
    """What a study file says, in one of its forms.

    Attributes:
        name: the file's name without its ending.
        form: "full" or "small".
        texts: title, claim and look_at, where there are any.
        axes: names of the axes.
        cells: all combinations, the last axis changing fastest.
        seeds: the seeds of every cell.
        report: figures to report, see ``stablegrad.studies.kinds.FIGURES``.
        specification: base, axes, seeds, tune and report as they stand in the file, by which two studies are compared.
        expect: what is expected, see :func:`parse_expectation`.
        tuning: what every cell tries before the study's own runs; None: nothing.
        tuned: once that is done, the trials of every cell, by its name; the cells have the best trial's options.
    """

    name: str
    form: str
    texts: dict[str, str]
    axes: tuple[str, ...]
    cells: tuple[Cell, ...] = field(repr=False)
    seeds: tuple[int, ...]
    report: tuple[str, ...]
    specification: dict[str, Any] = field(repr=False)
    expect: tuple[str, ...] = ()
    tuning: Tuning | None = None
    tuned: Mapping[str, tuple[TrialScore, ...]] | None = field(default=None, repr=False)

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed: whenever the study stops, as many cells as can be have the same seeds."""
        return [Run(cell, seed) for seed in self.seeds for cell in self.cells]

    def trials(self) -> Study:
        """The study that tunes this one: every cell with everything that is tried, on the seeds of the tuning.

        Raises:
            UsageError: a trial cannot be run.
        """
        assert self.tuning is not None
        cells = []
        for cell in self.cells:
            for trial in self.tuning.trials(_label):
                values = {**cell.values, **{_short(axis): value for axis, value in trial.values.items()}}
                cells.append(Cell(_cell_name(values), values, _trial_config(cell, trial)))
        axes = (*self.axes, *self.tuning.trials(_label)[0].values)
        return dataclasses.replace(
            self, texts={}, axes=axes, cells=tuple(cells), seeds=self.tuning.seeds, expect=(), tuning=None
        )

    @property
    def default_directory(self) -> Path:
        """Where the study lies unless a folder is named."""
        name = self.name.strip(".") or "study"
        return Path("runs") / (name if self.form == FORMS[0] else f"{name}-{self.form}")

    def to_json(self) -> dict[str, Any]:
        """The expanded study as JSON values."""
        cells = [{"name": cell.name, "values": cell.values, "config": cell.config.to_json()} for cell in self.cells]
        value = dataclasses.asdict(dataclasses.replace(self, cells=()))
        value = {key: item for key, item in value.items() if item is not None}  # as studies without tuning were
        return dict(json.loads(json.dumps({"format": FORMAT, **value, "cells": cells})))


def read_study(path: Path | str, form: str = FORMS[0], data: str | None = None) -> Study:
    """Read a study file and expand it; nothing is run and no data or environment is opened that has a name.

    Args:
        path: the TOML file.
        form: "full", or "small": the file's ``[small]`` laid over the rest.
        data: data folder of a study of classifiers, instead of the file's.

    Raises:
        UsageError: one line on what is wrong in it.
    """
    path = Path(path)
    if form not in FORMS:
        raise unknown_name("form of a study", form, FORMS)
    try:
        content = tomllib.loads(read_text(path))
    except OSError as error:
        raise UsageError(f"cannot read study file '{path}': {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"'{path}' is not TOML: {error}") from error
    except StablegradError as error:
        raise UsageError(str(error)) from error
    try:
        return _expand(path.stem, _in_form(content, form), form, data)
    except UsageError as error:
        raise UsageError(f"'{path}': {error}") from error


def _in_form(content: dict[str, Any], form: str) -> dict[str, Any]:
    """The file's keys, with what the form changes, checked for their names and kinds."""
    content = dict(content)
    small = content.pop("small", {})
    if not isinstance(small, dict):
        raise UsageError(f"small should be a table, [small], got {small!r}")
    for where, table in (("key of a study", content), ("key in [small]", small)):
        for key in table:
            if key not in KEYS:
                raise unknown_name(where, key, KEYS)
    for name in ("base", "axes", "tune"):
        for table in (content, small):
            if not isinstance(table.get(name, {}), dict):
                raise UsageError(f"{name} should be a table, [{name}], got {table[name]!r}")
        full, changed = (_resolved(flatten(table.get(name, {})), name) for table in (content, small))
        content[name] = {**full, **changed} if form == "small" else full
    if form == "small":
        content.update({key: value for key, value in small.items() if key not in ("base", "axes", "tune")})
    for key in TEXTS:
        if not isinstance(content.get(key, ""), str):
            raise UsageError(f"{key} should be text, got {content[key]!r}")
    return content


def _expand(name: str, content: Mapping[str, Any], form: str, data: str | None) -> Study:
    base, axes = dict(content["base"]), content["axes"]
    if data is not None:
        if kind_of(str(base.get("algorithm"))) == "agent":
            raise UsageError("a data folder is for studies of classifiers; this one trains agents")
        base["data"] = str(Path(data).absolute())
    algorithm = base.get("algorithm")
    if algorithm is None:
        raise UsageError(f"name the algorithm in [base]: algorithm = one of {', '.join(CHOICES)}")
    known = known_options(algorithm)
    if content.get("needs_data") and "data" not in base:
        raise UsageError(f"this study needs data: --data FOLDER, with {content['needs_data']}")
    settings = {axis: _settings(axis, values, known) for axis, values in axes.items()}
    _refuse_contradictions(base, settings, [name for name in content["tune"] if name not in (FACTORS, "seeds")])
    for option in base:
        if option not in known:
            raise unknown_name("option in [base]", option, known)
    seeds = content.get("seeds", 3)
    seeds = seed_list(seeds, f"one run of the seed {seeds} is seeds = [{seeds}]")
    tuning = parse_tuning(content["tune"], seeds, known)
    count = math.prod(len(own) for own in settings.values())
    if count > MAX_CELLS or count * len(seeds) > MAX_RUNS:
        raise UsageError(
            f"the axes make {count:,} cells of {len(seeds)} seeds; at most {MAX_CELLS:,} cells and {MAX_RUNS:,} runs"
        )
    report = check_report(content.get("report", list(DEFAULT_REPORT[kind_of(algorithm)])), algorithm)
    cells = _cells(base, settings)
    texts = {key: _one_line(content[key]) for key in TEXTS if content.get(key) and key != "needs_data"}
    specification = {"base": base, "axes": dict(axes), "seeds": list(seeds), "report": list(report)}
    if tuning is not None:
        specification["tune"] = dict(content["tune"])
    expect = check_expectations(content.get("expect", []), cells)
    study = Study(name, form, texts, tuple(settings), cells, seeds, report, specification, expect, tuning)
    if tuning is not None:
        _check_trials(study)
    return study


def _check_trials(study: Study) -> None:
    """Raise UsageError where trials cannot be told apart, cannot be judged or cannot be run."""
    trials = study.trials()
    if len(set(trials.axes)) < len(trials.axes):
        raise UsageError(f"tune: the study has an axis {RATE!r} already; call it something else")
    scores = SCORES[kind_of(study.cells[0].config.algorithm)]
    if not set(scores) & set(study.report):
        raise UsageError(f"tune: report should name the score to tune for: {', '.join(scores)}")
    _refuse_equal(trials.cells)


def _settings(axis: str, values: Any, known: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The values of one axis: a name for each, and the options it sets."""
    if not isinstance(values, list) or not values:
        raise UsageError(f"axis {axis!r} should be a list of at least one value, got {values!r}")
    settings: dict[str, dict[str, Any]] = {}
    texts: dict[str, Any] = {}
    coupled = any(isinstance(value, dict) for value in values)
    if not coupled and axis not in known:
        raise unknown_name("axis", _short(axis), {*known, *ALIASES})
    for value in values:
        if not coupled:
            label, options = _label(value), {axis: value}
        elif not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise UsageError(f"axis {axis!r}: every value should be a table with a name, got {value!r}")
        else:
            label = _label(value["name"])
            options = _resolved(flatten({key: item for key, item in value.items() if key != "name"}), f"axis {axis}")
            for option in options:
                if option not in known:
                    raise unknown_name(f"option of {label!r} in axis {axis!r}", option, {*known, *ALIASES})
        text = value["name"] if coupled else value
        same = texts.setdefault(_folded(label), text)
        if label in settings or same is not text:
            folder = "" if same == text else f": {same!r} and {text!r} would have one folder; change one of them"
            raise UsageError(f"axis {axis!r} has the value {label!r} twice{folder}")
        if _short(axis) in SIZES:
            SIZES[_short(axis)](label)  # raises for a name that is no size: the axis is sorted by size
        settings[label] = options
    return settings


def _refuse_contradictions(
    base: Mapping[str, Any], settings: Mapping[str, Mapping[str, dict[str, Any]]], tuned: Sequence[str]
) -> None:
    """An option that two places set has no one value."""
    places = {**dict.fromkeys(tuned, "[tune]"), **dict.fromkeys(base, "[base]")}
    for option in tuned:
        if option in base:
            raise UsageError(f"option {option!r} is set in [base] and in [tune]; keep one")
    for axis, values in settings.items():
        for option in dict.fromkeys(option for options in values.values() for option in options):
            if option in places:
                raise UsageError(f"option {option!r} is set in {places[option]} and in axis {axis!r}; keep one")
            places[option] = f"axis {axis!r}"
    for option in places:
        if option in RESERVED:
            hint = "; a study has seeds = 3, or a list of them" if option == "seed" else ""
            raise UsageError(f"option {option!r} cannot be set in a study{hint}")


def _cells(base: Mapping[str, Any], settings: Mapping[str, Mapping[str, dict[str, Any]]]) -> tuple[Cell, ...]:
    cells: dict[str, Cell] = {}
    for labels in itertools.product(*settings.values()):
        values = {_short(axis): label for axis, label in zip(settings, labels, strict=True)}
        name = _cell_name(values)
        options = dict(base)
        for axis, label in zip(settings, labels, strict=True):
            options.update(settings[axis][label])
        try:
            config = with_data(make_config(options))
        except UsageError as error:
            raise UsageError(f"{error}, in {name}" if settings else str(error)) from error
        cells[name] = Cell(name, values, config)
    _refuse_equal(cells.values())
    return tuple(cells.values())


def _cell_name(values: Mapping[str, str]) -> str:
    """What a cell is called, and its runs' folders."""
    name = "_".join(f"{_label(axis, '_')}={label}" for axis, label in values.items()) or "all"
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UsageError(f"the folder's name {name!r} would be too long; give values shorter names")
    return name


def _trial_config(cell: Cell, trial: Trial) -> Config:
    try:
        return with_options(with_learning_rate(cell.config, trial.factor), trial.options)
    except (StablegradError, TypeError) as error:
        raise UsageError(f"tune: {str(error).removeprefix('config.')}, in {cell.name}") from error


def _refuse_equal(cells: Iterable[Cell]) -> None:
    """Raise UsageError for two cells that are the same runs; what a run is called does not make it another one."""
    found: dict[str, str] = {}
    for cell in cells:
        content = json.dumps({**cell.config.to_json(), "preset": None}, sort_keys=True)
        if content in found:
            raise UsageError(f"{found[content]} and {cell.name} are the same runs; leave one out")
        found[content] = cell.name


def check_report(value: Any, algorithm: str) -> tuple[str, ...]:
    """The figures to report, each once; raises UsageError where they are not those of the algorithm's runs."""
    if not isinstance(value, list) or not value or not all(isinstance(figure, str) for figure in value):
        raise UsageError(f"report should be a list of figures, got {value!r}")
    known = known_figures(algorithm)
    for figure in value:
        if figure not in known:
            raise unknown_name("figure to report", figure, known)
    return tuple(dict.fromkeys(value))


def check_expectations(value: Any, cells: Sequence[Cell]) -> tuple[str, ...]:
    """The expectations; raises UsageError for one that :func:`parse_expectation` cannot read."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UsageError(f"expect should be a list of sentences, got {value!r}")
    for text in value:
        parse_expectation(text, cells)
    return tuple(value)


def parse_expectation(text: str, cells: Sequence[Cell]) -> Expectation:
    """Read ``"A falls with depth"``, ``"A does not fall with depth"`` or ``"A above B"``.

    A and B are values of axes, or A is ``all`` for every run of the study.

    Args:
        text: the sentence.
        cells: of the study, whose values it may name.

    Raises:
        UsageError: it is another sentence, or names what the study does not have.
    """
    found = EXPECTATION.fullmatch(" ".join(text.split()))
    if found is None:
        raise UsageError(
            f"expect should say 'A falls with depth', 'A does not fall with depth' or 'A above B', got {text!r}"
        )
    values = {value for cell in cells for value in cell.values.values()}
    setting, other, axis = found["setting"], found["other"], found["axis"]
    named = [_label(name) for name in (setting, other) if name is not None and name != "all"]
    for name in named:
        if name not in values:
            raise unknown_name("value of an axis in expect", name, values)
    if axis is not None:
        sizes = [size for size in ("depth", "width") if size in cells[0].values]
        if axis not in sizes:
            raise unknown_name("axis of sizes in expect", axis, sizes)
    return Expectation(text, _label(setting), axis, found["verb"] == "falls", None if other is None else _label(other))


def _resolved(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same with the options' full names."""
    full: dict[str, Any] = {}
    for name, value in options.items():
        resolved = ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
        if resolved in full:
            raise UsageError(f"option {resolved!r} is set twice in {where}; keep one")
        full[resolved] = value
    return full


def _short(option: str) -> str:
    return next((alias for alias, name in ALIASES.items() if name == option), option)


def _label(value: Any, keep: str = "") -> str:
    """A value as a part of a folder's name: letters of any language stay, of other signs ``.+-`` and ``keep``."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    signs = (sign if _stays(sign, keep) else " " for sign in unicodedata.normalize("NFC", text))
    label = "-".join("".join(signs).split()).strip("-")
    if not label.strip(".-"):
        raise UsageError(f"a value and an axis need letters or digits, as they name folders; got {value!r}")
    return label


def _one_line(text: str) -> str:
    """Words with one space between them, and no control characters, which a terminal would obey."""
    return " ".join("".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in text).split())


def _stays(sign: str, keep: str) -> bool:
    return sign.isalnum() or sign in f".+-{keep}" if sign.isascii() else sign.isprintable()


def _folded(label: str) -> str:
    """The same for two labels whose folders are one on a file system that takes capitals and small letters alike."""
    return unicodedata.normalize("NFC", label.casefold())

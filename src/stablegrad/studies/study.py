"""A study: one readable TOML file that says which runs to make, and the folder in which they lie.

The file::

    title = "..."                    one line; claim and look_at, if there, are shown with the results
    seeds = 3                        1 to 3, or a list of seeds
    report = ["final_return", ...]   figures of the table
    expect = ["baseline falls with depth", "stable does not fall with depth", "stable above baseline"]
                                     what the report says whether it came out
    [base]                           options that all runs share, with their names on the command line
    [axes]                           options with lists of values; every combination is a cell
    [small]                          the same keys again: what is different in the small form

The folder::

    <dir>/study.toml                 copy of the file
          study.json                 the study as it was expanded, written before the first run
          results.json               a row a run (stablegrad.studies.runner)
          runs/<cell>-seed<n>/       run folders, each with the last process's stderr.log
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

from stablegrad.errors import StablegradError, UsageError, command, unknown_name
from stablegrad.files import read_json, read_text, write_atomically, write_json
from stablegrad.networks.sizes import resolve_depth, resolve_width
from stablegrad.options import flatten
from stablegrad.studies.comparison import differences
from stablegrad.studies.kinds import (
    ALIASES,
    CHOICES,
    DEFAULT_REPORT,
    RESERVED,
    Config,
    config_from_json,
    kind_of,
    known_figures,
    known_options,
    make_config,
    with_data,
)
from stablegrad.studies.seeds import seed_list
from stablegrad.training.run_folder import RunFolder

FORMAT = 1
FORMS = ("full", "small")
LONGEST_NAME = 200  # bytes; file systems hold 255, of which the seed needs some
MAX_CELLS, MAX_RUNS = 10_000, 100_000  # a grid beyond is a slip of the pen
TEXTS = ("title", "claim", "look_at", "needs_data")
SIZES = {"depth": resolve_depth, "width": resolve_width}
KEYS = (*TEXTS, "seeds", "report", "expect", "base", "axes", "small")
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
        specification: base, axes, seeds and report as they stand in the file, by which two studies are compared.
        expect: what is expected, see :func:`parse_expectation`.
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

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed: whenever the study stops, as many cells as can be have the same seeds."""
        return [Run(cell, seed) for seed in self.seeds for cell in self.cells]

    @property
    def default_directory(self) -> Path:
        """Where the study lies unless a folder is named."""
        name = self.name.strip(".") or "study"
        return Path("runs") / (name if self.form == FORMS[0] else f"{name}-{self.form}")

    def to_json(self) -> dict[str, Any]:
        """The expanded study as JSON values."""
        cells = [{"name": cell.name, "values": cell.values, "config": cell.config.to_json()} for cell in self.cells]
        value = dataclasses.asdict(dataclasses.replace(self, cells=()))
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
    for name in ("base", "axes"):
        for table in (content, small):
            if not isinstance(table.get(name, {}), dict):
                raise UsageError(f"{name} should be a table, [{name}], got {table[name]!r}")
        full, changed = (_resolved(flatten(table.get(name, {})), name) for table in (content, small))
        content[name] = {**full, **changed} if form == "small" else full
    if form == "small":
        content.update({key: value for key, value in small.items() if key not in ("base", "axes")})
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
    _refuse_contradictions(base, settings)
    for option in base:
        if option not in known:
            raise unknown_name("option in [base]", option, known)
    seeds = content.get("seeds", 3)
    seeds = seed_list(seeds, f"one run of the seed {seeds} is seeds = [{seeds}]")
    count = math.prod(len(own) for own in settings.values())
    if count > MAX_CELLS or count * len(seeds) > MAX_RUNS:
        raise UsageError(
            f"the axes make {count:,} cells of {len(seeds)} seeds; at most {MAX_CELLS:,} cells and {MAX_RUNS:,} runs"
        )
    report = _report(content.get("report", list(DEFAULT_REPORT[kind_of(algorithm)])), algorithm)
    cells = _cells(base, settings)
    texts = {key: _one_line(content[key]) for key in TEXTS if content.get(key) and key != "needs_data"}
    specification = {"base": base, "axes": dict(axes), "seeds": list(seeds), "report": list(report)}
    expect = _expect(content.get("expect", []), cells)
    return Study(name, form, texts, tuple(settings), cells, seeds, report, specification, expect)


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


def _refuse_contradictions(base: Mapping[str, Any], settings: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """An option that two places set has no one value."""
    places = dict.fromkeys(base, "[base]")
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
    found: dict[str, str] = {}
    for labels in itertools.product(*settings.values()):
        values = {_short(axis): label for axis, label in zip(settings, labels, strict=True)}
        name = "_".join(f"{_label(axis, '_')}={label}" for axis, label in values.items()) or "all"
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise UsageError(f"the folder's name {name!r} would be too long; give values shorter names")
        options = dict(base)
        for axis, label in zip(settings, labels, strict=True):
            options.update(settings[axis][label])
        try:
            config = with_data(make_config(options))
        except UsageError as error:
            raise UsageError(f"{error}, in {name}" if settings else str(error)) from error
        # What a run is called does not make it another one.
        content = json.dumps({**config.to_json(), "preset": None}, sort_keys=True)
        if content in found:
            raise UsageError(f"{found[content]} and {name} are the same runs; leave one out")
        found[content] = name
        cells[name] = Cell(name, values, config)
    return tuple(cells.values())


def _report(value: Any, algorithm: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(figure, str) for figure in value):
        raise UsageError(f"report should be a list of figures, got {value!r}")
    known = known_figures(algorithm)
    for figure in value:
        if figure not in known:
            raise unknown_name("figure to report", figure, known)
    return tuple(dict.fromkeys(value))


def _expect(value: Any, cells: Sequence[Cell]) -> tuple[str, ...]:
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


class StudyFolder:
    """Reads and writes the folder of one study."""

    def __init__(self, directory: Path | str, study: Study):
        self.directory = Path(directory)
        self.study = study

    @property
    def path(self) -> Path:
        """Where study.json lies."""
        return self.directory / "study.json"

    @property
    def results_path(self) -> Path:
        """Where results.json lies."""
        return self.directory / "results.json"

    def run_folder(self, run: Run) -> RunFolder:
        """The folder of one run, whether it exists or not."""
        return RunFolder(self.directory / "runs" / run.name)

    @classmethod
    def open(cls, directory: Path | str, study: Study, file: Path | str) -> StudyFolder:
        """Make the folder of a study, or return to it.

        Args:
            directory: a new or empty folder, or one that holds this very study.
            study: what ``file`` says.
            file: the study file, of which a copy is kept.

        Raises:
            UsageError: the study has changed since it started (with what has), or the folder holds something else or
                cannot be written.
        """
        folder = cls(directory, study)
        try:
            if folder.path.exists():
                found = cls.read(directory)
                runs = ("base", "axes", "seeds")
                asked, there = ({name: one.specification.get(name) for name in runs} for one in (study, found.study))
                changed = differences(asked, there)
                if changed:
                    raise UsageError(
                        f"the study in '{directory}' has changed since it started: {'; '.join(changed)}. Name another "
                        f"--dir for the new one, or go on with the old one: " + command("study", "resume", directory)
                    )
                # What is said of the runs may change: words, figures to report, expectations.
                folder = cls(directory, dataclasses.replace(study, cells=found.study.cells))
                if folder.study != found.study:
                    folder._write(file)
                return folder
            ours = (".lock", ".study.", "study.toml")  # what a kill in the middle of this function left behind
            if folder.directory.exists() and any(
                not entry.name.startswith(ours) for entry in folder.directory.iterdir()
            ):
                raise UsageError(f"folder '{directory}' is not empty and holds no study; name a new or an empty --dir")
            folder.directory.mkdir(parents=True, exist_ok=True)
            folder._write(file)
        except OSError as error:
            raise UsageError(f"cannot write study folder '{directory}': {error.strerror or error}") from error
        return folder

    def _write(self, file: Path | str) -> None:
        write_atomically(self.directory / "study.toml", read_text(Path(file)))
        write_json(self.path, self.study.to_json())

    @classmethod
    def read(cls, directory: Path | str) -> StudyFolder:
        """The study that a folder holds.

        Raises:
            UsageError: there is none.
            StablegradError: study.json cannot be read.
        """
        path = Path(directory) / "study.json"
        if not path.exists():
            raise UsageError(f"'{directory}' is no study folder: it has no study.json")
        try:
            content = read_json(path)
            if content.pop("format") != FORMAT:
                raise StablegradError(f"'{path}' is of another format than this version of stablegrad reads, {FORMAT}")
            return cls(directory, _study_from_json(content))
        except StablegradError as error:
            raise StablegradError(f"'{path}' cannot be read as a study: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StablegradError(f"'{path}' cannot be read as a study: {error!r}") from error


def _study_from_json(content: dict[str, Any]) -> Study:
    """Read what ``Study.to_json`` has written; whatever is wrong in it raises."""
    content = dict(content)
    cells = []
    for cell in content.pop("cells"):
        name, values = cell["name"], cell["values"]
        # What names a folder must not lead out of the study's.
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise ValueError(f"{name!r} names no folder")
        cells.append(
            Cell(name, {str(axis): str(value) for axis, value in values.items()}, config_from_json(cell["config"]))
        )
    study = Study(
        cells=tuple(cells),
        **{**content, **{name: tuple(content.get(name) or ()) for name in ("axes", "seeds", "report", "expect")}},
    )
    if not cells or len({cell.name for cell in cells}) < len(cells) or len({tuple(cell.values) for cell in cells}) > 1:
        raise ValueError("its cells should be distinct, and have the same axes")
    seed_list(study.seeds, "")
    _report(list(study.report), cells[0].config.algorithm)
    if not isinstance(study.specification, dict) or not isinstance(study.texts, dict):
        raise ValueError("specification and texts should be objects")
    for text in (*study.texts.values(), study.name, study.form, *study.expect):
        if not isinstance(text, str):
            raise ValueError(f"{text!r} should be text")
    _expect(list(study.expect), cells)
    return study

"""The folder of a study.

::

    <dir>/study.toml                 copy of the file
          study.json                 the study as it was expanded, written before the first run
          results.json               a row a run (stablegrad.studies.runner)
          runs/<cell>-seed<n>/       run folders, each with the last process's stderr.log
          tuning/                    the study of the trials, where it is tuned: a folder like this one
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

from stablegrad.errors import StablegradError, UsageError, command
from stablegrad.files import read_json, read_text, write_atomically, write_json
from stablegrad.studies.comparison import differences
from stablegrad.studies.kinds import config_from_json
from stablegrad.studies.seeds import seed_list
from stablegrad.studies.study import FORMAT, Cell, Run, Study, check_expectations, check_report
from stablegrad.studies.tuning import TrialScore, Tuning
from stablegrad.training.run_folder import RunFolder

TUNING = "tuning"


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

    @cached_property
    def trials(self) -> StudyFolder:
        """The folder of the trials of a study that is tuned, whether it exists or not."""
        return StudyFolder(self.directory / TUNING, self.study.trials())

    @property
    def to_be_tuned(self) -> bool:
        """Whether trials come before the study's own runs."""
        return self.study.tuning is not None and self.study.tuned is None

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
                runs = ("base", "axes", "tune", "seeds")
                asked, there = ({name: one.specification.get(name) for name in runs} for one in (study, found.study))
                changed = differences(asked, there)
                if changed:
                    raise UsageError(
                        f"the study in '{directory}' has changed since it started: {'; '.join(changed)}. Name another "
                        f"--dir for the new one, or go on with the old one: " + command("study", "resume", directory)
                    )
                # What is said of the runs may change: words, figures to report, expectations.
                study = dataclasses.replace(study, cells=found.study.cells, tuned=found.study.tuned)
                folder = cls(directory, study)
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
        self.write()

    def write(self) -> None:
        """Write study.json."""
        self.directory.mkdir(parents=True, exist_ok=True)
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
    tuning, tuned = content.pop("tuning", None), content.pop("tuned", None)
    study = Study(
        cells=tuple(cells),
        tuning=None if tuning is None else _tuning_from_json(tuning),
        tuned=None if tuned is None else {cell.name: _scores_from_json(tuned[cell.name]) for cell in cells},
        **{**content, **{name: tuple(content.get(name) or ()) for name in ("axes", "seeds", "report", "expect")}},
    )
    if not cells or len({cell.name for cell in cells}) < len(cells) or len({tuple(cell.values) for cell in cells}) > 1:
        raise ValueError("its cells should be distinct, and have the same axes")
    seed_list(study.seeds, "")
    check_report(list(study.report), cells[0].config.algorithm)
    if not isinstance(study.specification, dict) or not isinstance(study.texts, dict):
        raise ValueError("specification and texts should be objects")
    for text in (*study.texts.values(), study.name, study.form, *study.expect):
        if not isinstance(text, str):
            raise ValueError(f"{text!r} should be text")
    check_expectations(list(study.expect), cells)
    return study


def _tuning_from_json(content: dict[str, Any]) -> Tuning:
    options = {str(name): tuple(values) for name, values in content["options"].items()}
    return Tuning(tuple(map(float, content["factors"])), options, seed_list(content["seeds"], ""))


def _scores_from_json(content: list[dict[str, Any]]) -> tuple[TrialScore, ...]:
    return tuple(
        TrialScore(
            {str(axis): str(value) for axis, value in trial["values"].items()},
            float(trial["factor"]),
            None if trial["score"] is None else float(trial["score"]),
            int(trial["failed"]),
        )
        for trial in content
    )

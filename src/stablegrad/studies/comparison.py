"""The comparison folder: two settings, the same seeds, one run each.

::

    <dir>/comparison.json           settings, seeds and both configurations, written before the first run
          runs/<setting>/seed-<s>/  run folders, each with the child's last stderr.log
          tuning/                   the study of the learning rates that were tried before, if any
          comparison_summary.json   the figures (stablegrad.studies.summary)
          report.html, figures/     the page and its pictures (stablegrad.reports)
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablegrad.errors import StablegradError, UsageError
from stablegrad.files import read_json, write_json
from stablegrad.options import flatten
from stablegrad.studies.seeds import seed_list
from stablegrad.training.run_folder import RunFolder

if TYPE_CHECKING:
    from stablegrad.training.config import RunConfig

FORMAT = 1
SETTING_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,63}")  # it names a folder
FAILURE_MARK = "stablegrad compare: this run failed: "


@dataclass(frozen=True)
class RunRecord:
    """One run of a comparison, as its folder tells it.

    Attributes:
        setting: name of the setting.
        seed: its seed.
        status: "finished", "failed", "stopped" (continues on demand), "unfinished" (no summary yet) or "waiting"
            (not started).
        error: one line on why it failed; None for all other states.
        summary: content of summary.json, empty where there is none.
        metrics: lines of metrics.jsonl.
    """

    setting: str
    seed: int
    status: str
    error: str | None
    summary: dict[str, Any] = field(repr=False)
    metrics: list[dict[str, float]] = field(repr=False)

    @property
    def finished(self) -> bool:
        """Whether the run counts in means."""
        return self.status == "finished"

    @property
    def final_return(self) -> float | None:
        """Mean return of the last episodes of a finished run; None without one."""
        value = self.summary.get("final_return") if self.finished else None
        return None if value is None else float(value)


@dataclass(frozen=True)
class Comparison:
    """What is compared with what, and where it lies.

    Attributes:
        directory: the comparison folder.
        settings: names of the first and the second setting; differences are second minus first.
        seeds: the seeds, each run under both settings.
        configs: setting -> JSON form of its configuration, without the seed.
        command: the command line that asked for it, if known.
        tuning: sentences on how the settings were tuned; none where they were not.
    """

    directory: Path
    settings: tuple[str, str]
    seeds: tuple[int, ...]
    configs: dict[str, dict[str, Any]]
    command: tuple[str, ...] | None = None
    tuning: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where comparison.json lies."""
        return self.directory / "comparison.json"

    @property
    def summary_path(self) -> Path:
        """Where comparison_summary.json lies."""
        return self.directory / "comparison_summary.json"

    def run_folder(self, setting: str, seed: int) -> RunFolder:
        """The folder of one run, whether it exists or not."""
        return RunFolder(self.directory / "runs" / setting / f"seed-{seed}")

    @classmethod
    def open(
        cls,
        directory: Path | str,
        configs: Mapping[str, RunConfig],
        seeds: Sequence[int],
        command: Sequence[str] | None = None,
        tuning: Sequence[str] = (),
    ) -> Comparison:
        """Make the folder of a comparison, or return to it.

        Args:
            directory: a new or empty folder, or one that holds this very comparison.
            configs: the two settings by name, first the one to compare against; their seeds do not matter.
            seeds: distinct seeds.
            command: the command line, for the report.
            tuning: sentences on how the settings were tuned, for the report.

        Raises:
            UsageError: not two settings, a name that cannot name a folder, no or repeated seeds, a folder that holds
                something else (with what differs) or cannot be written.
        """
        check_settings(configs)
        seeds = seed_list(list(seeds), "")
        first, second = configs
        wanted = cls(
            Path(directory),
            (first, second),
            seeds,
            {name: _without_seed(config.to_json()) for name, config in configs.items()},
            tuple(command) if command else None,
            tuple(tuning),
        )
        try:
            if wanted.path.exists():
                found = cls.read(directory)
                changed = differences(wanted._identity(), found._identity())
                if changed:
                    raise UsageError(
                        f"'{directory}' already holds another comparison; it differs in {'; '.join(changed)}. "
                        "Name another folder, or repeat the command that made it"
                    )
                return found
            if wanted.directory.exists() and any(
                entry.name not in (".lock", "tuning") and not entry.name.startswith(".comparison.json.")
                for entry in wanted.directory.iterdir()
            ):
                raise UsageError(f"folder '{directory}' is not empty and holds no comparison; name a new or empty one")
            wanted.directory.mkdir(parents=True, exist_ok=True)
            write_json(
                wanted.path,
                {"format": FORMAT, **wanted._identity(), "command": wanted.command, "tuning": wanted.tuning},
            )
        except OSError as error:
            raise UsageError(f"cannot write comparison folder '{directory}': {error.strerror or error}") from error
        return wanted

    @classmethod
    def read(cls, directory: Path | str) -> Comparison:
        """The comparison that a folder holds.

        Raises:
            UsageError: there is none.
            StablegradError: comparison.json cannot be read.
        """
        path = Path(directory) / "comparison.json"
        if not path.exists():
            raise UsageError(f"'{directory}' is no comparison folder: it has no comparison.json")
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                raise StablegradError(
                    f"'{path}' has format {content['format']!r}, this version of stablegrad reads {FORMAT}"
                )
            first, second = content["settings"]
            for name in (first, second):
                if not SETTING_NAME.fullmatch(name):
                    raise ValueError(f"{name!r} names no setting")
            configs = {name: dict(content["configs"][name]) for name in (first, second)}
            for config in configs.values():
                _check_config(config)
            command = content.get("command")
            if command is not None and not (isinstance(command, list) and all(isinstance(w, str) for w in command)):
                raise TypeError(f"command should be a list of words, found {command!r}")
            return cls(
                Path(directory),
                (first, second),
                seed_list(list(content["seeds"]), ""),
                configs,
                tuple(command) if command else None,
                tuple(map(str, content.get("tuning") or ())),
            )
        except StablegradError as error:
            raise StablegradError(f"'{path}' cannot be read as a comparison: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StablegradError(f"'{path}' cannot be read as a comparison: {error!r}") from error

    def records(self) -> list[RunRecord]:
        """All runs, seed by seed, the first setting before the second."""
        return [self.record(setting, seed) for seed in self.seeds for setting in self.settings]

    def record(self, setting: str, seed: int) -> RunRecord:
        """What one run's folder tells."""
        folder = self.run_folder(setting, seed)
        summary = folder.read_summary() or {}
        error = read_failure(folder)
        status = summary.get("status")
        if status != "finished" and error is not None:
            status = "failed"
        elif status is None:
            status = "unfinished" if folder.config_path.exists() else "waiting"
        if status == "failed" and error is None:
            error = str(summary.get("error") or "it left no reason")
        return RunRecord(setting, seed, status, error if status == "failed" else None, summary, folder.read_metrics())

    def _identity(self) -> dict[str, Any]:
        """What makes two comparisons the same, as plain JSON values."""
        identity = {"settings": self.settings, "seeds": self.seeds, "configs": self.configs}
        return dict(json.loads(json.dumps(identity)))


def check_settings(names: Collection[str]) -> None:
    """Raise UsageError unless these name the two settings of a comparison and their folders."""
    if len(names) != 2:
        raise UsageError(f"a comparison is of 2 settings, got {len(names)}: {', '.join(names) or 'none'}")
    for name in names:
        if not SETTING_NAME.fullmatch(name):
            raise UsageError(
                f"setting {name!r} names a folder: use up to 64 of letters, digits and . _ + = -, the first no sign"
            )


def stderr_path(folder: RunFolder) -> Path:
    """Where the standard error of a run's last process is kept."""
    return folder.path / "stderr.log"


def record_failure(folder: RunFolder, reason: str) -> None:
    """Note in a run's stderr.log that its child failed, so that whoever reads the folder later knows."""
    with stderr_path(folder).open("a") as file:
        file.write(f"{FAILURE_MARK}{reason}\n")


def read_failure(folder: RunFolder) -> str | None:
    """Why the last child of this run failed, in one line; None where it did not."""
    path = stderr_path(folder)
    if not path.exists():
        return None
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix(FAILURE_MARK) if lines and lines[-1].startswith(FAILURE_MARK) else None


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any], most: int = 4) -> list[str]:
    """In words, what two comparisons or studies do not share; ``most`` at the most, then a count."""
    asked, there = flatten(wanted), flatten(found)
    words = [
        f"{name.removeprefix('configs.')}: {_shown(asked, name)} asked for, {_shown(there, name)} there"
        for name in dict.fromkeys([*asked, *there])
        if (name in asked) != (name in there) or asked.get(name) != there.get(name)
    ]
    return words if len(words) <= most else [*words[:most], f"and {len(words) - most} more"]


def _check_config(config: Mapping[str, Any]) -> None:
    """Raise TypeError where what pages show of a configuration has another shape; options come and go by version."""
    kinds = {"env": str, "algorithm": str, "total_steps": int, "agent": dict, "torso": dict}
    for part in (config, config.get("agent") or {}):
        for name, kind in kinds.items():
            if name in part and type(part[name]) is not kind and (part[name] is not None or kind is dict):
                raise TypeError(f"{name} should not be {part[name]!r}")


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "seed"}


def _shown(flat: Mapping[str, Any], name: str) -> str:
    return json.dumps(flat[name]) if name in flat else "nothing"

"""All that is needed to run a training again, as one dataclass that can be written to JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import subprocess
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import tyro
from torch import nn

from stablegrad.agents.catalogue import DEFAULT_ALGORITHM, check_suits, find_algorithm
from stablegrad.agents.contract import AgentConfig
from stablegrad.agents.presets import apply_changes, parse_setting, preset_config
from stablegrad.environments import AtariOptions, EnvironmentSpec, environment_spec
from stablegrad.errors import StablegradError, UsageError, unknown_name
from stablegrad.packages import load_package
from stablegrad.training.distributed import Ranks
from stablegrad.training.health import DiagnosisConfig
from stablegrad.training.memory import MemoryNeed, check_memory, memory_need

MAX_THREADS = 1024


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    env: str
    """Environment: an envpool or gymnasium id, or package.module:factory."""
    algorithm: str = DEFAULT_ALGORITHM
    """What learns, see ``stablegrad.agents.catalogue``."""
    preset: str = "baseline"
    """Name of the setting; what it changes stands in ``agent``."""
    total_steps: int = 1_000_000
    """Environment steps to train for, rounded up to whole rollouts."""
    seed: int = 1
    """Seed of weights, actions, minibatches and environments."""
    agent: Annotated[AgentConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: cast(AgentConfig, None))
    """The agent's settings, of the algorithm's configuration class; on the command line without a prefix."""
    atari: Annotated[AtariOptions | None, tyro.conf.AvoidSubcommands] = None
    """Atari preprocessing; None for every other environment."""
    action_repeat: int = 1
    """Steps of the environment for which each action is taken; their rewards are summed. Atari has frame_skip."""
    diagnosis: Annotated[DiagnosisConfig, tyro.conf.arg(name="")] = field(default_factory=DiagnosisConfig)
    """How the run is watched; on the command line without a prefix."""
    threads: int = 0
    """Threads of torch and of the environment engine; 0: one a core."""
    device: str = "auto"
    """cpu, cuda, cuda:<n>; auto: cuda where there is one."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints. Each starts fresh episodes (exact resume), so keep it well above
    num_envs times an episode's length. None: a tenth of the run, but at least 2,000 steps an environment."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    log_every: int | None = None
    """Environment steps between lines of metrics; None: a 500th of the run, at least one rollout."""
    eval_episodes: int = 0
    """Greedy episodes on fresh environments after training; 0: none."""
    wandb: str | None = None
    """Weights & Biases project to log to as well."""

    def __post_init__(self) -> None:
        kind = find_algorithm(self.algorithm).config
        if cast(AgentConfig | None, self.agent) is None:
            object.__setattr__(self, "agent", kind())
        if not isinstance(self.agent, kind):
            raise UsageError(f"{self.algorithm} takes a {kind.__name__} as agent, got {type(self.agent).__name__}")
        for name, minimum in (
            ("total_steps", 1),
            ("seed", 0),
            ("threads", 0),
            ("action_repeat", 1),
            ("keep_checkpoints", 1),
            ("eval_episodes", 0),
        ):
            if getattr(self, name) < minimum:
                raise UsageError(f"{name.replace('_', '-')} must be at least {minimum}, got {getattr(self, name)}")
        check_threads(self.threads)
        for name in ("checkpoint_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1, got {value}")

    @property
    def checkpoint_interval(self) -> int:
        """Environment steps between checkpoints, the default worked out."""
        return self.checkpoint_every or max(self.total_steps // 10, 2000 * self.agent.num_envs)

    @property
    def log_interval(self) -> int:
        """Environment steps between lines of metrics, the default worked out."""
        return self.log_every or max(self.total_steps // 500, 1)

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment's observations and actions; raises what ``environment_spec`` raises."""
        return environment_spec(self.env, atari=self.atari, action_repeat=self.action_repeat)

    def build_networks(self) -> dict[str, nn.Module]:
        """The agent's networks by name, freshly initialised; also on the meta device."""
        return find_algorithm(self.algorithm).build_networks(self.agent, self.spec)

    def check(self) -> None:
        """Raise UsageError for an environment that does not exist or suit the agent, or a missing device or package.

        Under torchrun also for a run that its processes cannot share.
        """
        spec = self.spec
        check_suits(self.algorithm, spec)
        # Builds the network without memory: what it cannot be is said here, too.
        ranks = Ranks()
        if ranks.size > 1 and not find_algorithm(self.algorithm).distributed:
            raise UsageError(f"torchrun: {self.algorithm} is trained by one process; this run has {ranks.size}")
        if ranks.size > 1 and self.diagnosis.on_collapse != "continue":
            raise UsageError(
                f"on-collapse {self.diagnosis.on_collapse!r} is for one process; this run has {ranks.size}"
            )
        check_memory(self.algorithm, ranks.share(self.agent), spec, ranks.device(resolve_device(self.device)))
        if self.wandb is not None:
            advice = "logging to Weights & Biases needs its package: pip install 'stablegrad[wandb]'"
            load_package("wandb", "init", advice)

    def memory_need(self) -> MemoryNeed:
        """What the run (under torchrun, each of its processes) needs in memory, as far as it is known beforehand."""
        ranks = Ranks()
        return memory_need(
            self.algorithm, ranks.share(self.agent), self.spec, ranks.device(resolve_device(self.device))
        )

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunConfig:
        """Read ``to_json()`` or the content of config.json.

        Raises:
            StablegradError: an option is missing, unknown or of the wrong type.
        """
        value = {name: item for name, item in value.items() if name not in ("format", "provenance")}
        agent = value.pop("agent", None)
        config: RunConfig = config_from_json(cls, value, "config")
        if agent is None:
            return config
        kind = find_algorithm(config.algorithm).config
        return dataclasses.replace(config, agent=config_from_json(kind, agent, "config.agent"))


def default_run(algorithm: str, env: str, setting: str = "baseline") -> RunConfig:
    """The configuration that a setting (see ``stablegrad.agents.presets``) gives for an environment.

    Raises:
        UsageError: unknown algorithm, environment, preset or option, or the algorithm cannot be used there.
    """
    preset, changes = parse_setting(setting)
    find_algorithm(algorithm)
    spec = environment_spec(env)
    agent = apply_changes(preset_config(algorithm, preset, spec), changes)
    atari = AtariOptions() if spec.atari_game else None
    return RunConfig(env=env, algorithm=algorithm, preset=setting, agent=agent, atari=atari)


def config_from_json(cls: Any, value: Any, where: str) -> Any:
    """A configuration dataclass from JSON values, every one of them checked; ``where`` names it in errors."""
    if not isinstance(value, Mapping):
        raise StablegradError(f"{where} should be a JSON object, got {value!r}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, item in value.items():
        if name not in hints:
            raise StablegradError(str(unknown_name(f"option in {where}", name, hints)))
        alternatives = typing.get_args(hints[name]) or (hints[name],)
        nested = next((kind for kind in alternatives if dataclasses.is_dataclass(kind)), None)
        if nested is not None and item is not None:
            arguments[name] = config_from_json(nested, item, f"{where}.{name}")
        elif type(item) in alternatives or (float in alternatives and type(item) is int):
            arguments[name] = item
        else:
            expected = " or ".join(kind.__name__ for kind in alternatives)
            raise StablegradError(f"{where}.{name} should be {expected}, got {item!r}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise StablegradError(f"{where}: {error}") from error


def check_threads(threads: int) -> None:
    """Raise UsageError for more threads than a process can have."""
    if threads > MAX_THREADS:
        raise UsageError(f"threads must be at most {MAX_THREADS:,}, got {threads}")


def resolve_device(device: str) -> torch.device:
    """The torch device for a name.

    Raises:
        UsageError: no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    index = re.fullmatch(r"cuda(?::(0|[1-9]\d{0,3}))?", device)
    if index is None:
        raise UsageError(f"unknown device {device!r}; expected cpu, cuda, cuda:<n> or auto")
    count = torch.cuda.device_count()
    if int(index[1] or 0) >= count:
        others = f"cuda:0 to cuda:{count - 1}, or cpu" if count else "cpu"
        raise UsageError(f"device {device!r} is not there: torch sees {count} CUDA devices; try --device {others}")
    return torch.device(device)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def provenance() -> dict[str, Any]:
    """Versions, git revision and machine, for config.json."""
    program = Path(sys.argv[0])
    as_module = program.parts[-2:] == ("stablegrad", "__main__.py")  # python -m stablegrad
    packages = ("stablegrad", "torch", "envpool", "gymnasium", "numpy", "pytorch_optimizer")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "git_revision": _git_revision(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": usable_cores(),
            "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": ["stablegrad" if as_module else program.name, *sys.argv[1:]],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git_revision() -> str | None:
    """Revision of the repository that the program was started in, if any."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None

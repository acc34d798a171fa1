"""The two kinds of run that a study can hold, agents and classifiers, behind one set of functions.

Options have the names that they have on the command line: ``torso.depth``, ``total_steps``, ``look_every``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch
from torch import nn

from stablegrad.agents.catalogue import ALGORITHMS, check_suits, find_algorithm
from stablegrad.agents.off_policy import OffPolicyConfig
from stablegrad.agents.presets import option_names
from stablegrad.environments.atari_scores import ALE_57, human_normalized_score
from stablegrad.errors import StablegradError, UsageError, unknown_name
from stablegrad.networks import parameter_count
from stablegrad.options import flatten
from stablegrad.studies.processes import last_metrics
from stablegrad.supervised import Classifier, DataSet, SupervisedConfig, load_data, resume_supervised
from stablegrad.supervised import preset_config as classifier_preset
from stablegrad.supervised.config import ALGORITHM as SUPERVISED
from stablegrad.supervised.data import DIGITS
from stablegrad.training.config import RunConfig, default_run, resolve_device
from stablegrad.training.interaction import resume
from stablegrad.training.memory import optimizer_bytes
from stablegrad.training.run_folder import RunFolder

Config: TypeAlias = RunConfig | SupervisedConfig

#: The command that trains classifiers, beside the agents' algorithms.
RELEARN = "relearn"
CHOICES = (*ALGORITHMS, RELEARN)

#: Short names of the options that studies are mostly about.
ALIASES = {
    "depth": "torso.depth",
    "width": "torso.width",
    "torso": "torso.kind",
    "norm": "torso.norm",
    "activation": "torso.activation",
    "optimizer": "optimizer.name",
    "encoder": "encoder.kind",
    "environment": "env",
}
#: Parts of a run's configuration whose options have no prefix on the command line.
UNPREFIXED = ("agent", "diagnosis")
#: Not an option of a study: it has seeds. The others are said by hand where a run is asked for.
RESERVED = ("seed", "wandb", "atari")

#: What can be reported of a run: figures of summary.json and, with a "/", of metrics.jsonl; see ``figure_of``.
FIGURES = {
    "agent": (
        "final_return",
        "human_normalized_return",
        "evaluation.mean_return",
        "evaluation.human_normalized_score",
        "steps_per_second",
        "wall_seconds",
        "parameters",
        "peak_memory_bytes",
        "train/return",
        "gradients/norm",
        "dormant/*",
        "srank/*",
        "hessian_trace/*",
        "hessian_top/*",
        "gradient_covariance_rank/*",
        "ntk_rank/*",
    ),
    RELEARN: (
        "relearning.mean_final_accuracy",
        "relearning.relearned",
        "relearning.mean_epochs",
        "final_accuracy",
        "wall_seconds",
        "parameters",
        "peak_memory_bytes",
        "train/accuracy",
        "loss/cross_entropy",
        "gradients/norm",
        "speed/images_per_second",
    ),
}
DEFAULT_REPORT = {
    "agent": ("final_return", "gradients/norm"),
    RELEARN: ("relearning.mean_final_accuracy", "gradients/norm"),
}

#: Options that are learning rates of networks, by their last part.
LEARNING_RATES = ("learning_rate", "adam_learning_rate")
HUMAN_NORMALIZED = "human_normalized_return"
#: What can be told apart as better and worse, most telling first.
SCORES = {
    "agent": ("final_return", HUMAN_NORMALIZED, "evaluation.mean_return", "evaluation.human_normalized_score"),
    RELEARN: ("relearning.mean_final_accuracy", "final_accuracy", "relearning.relearned"),
}

CALIBRATION_BATCHES = 16
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Needs:
    """What a run takes, known before it starts.

    Attributes:
        parameters: of the network.
        memory_bytes: weights, gradients, optimizer and rollout or data; activations and the program come on top.
        steps: what "step" in its metrics ends at: environment steps of an agent, updates of a classifier.
    """

    parameters: int
    memory_bytes: int
    steps: int


def kind_of(algorithm: str) -> str:
    """The key of ``FIGURES``."""
    return RELEARN if algorithm in (RELEARN, SUPERVISED) else "agent"


def known_figures(algorithm: str) -> tuple[str, ...]:
    """What can be reported of the runs of an algorithm: ``FIGURES`` of its kind, and the algorithm's own metrics."""
    kind = kind_of(algorithm)
    return FIGURES[kind] + (() if kind == RELEARN else find_algorithm(algorithm).metrics)


def known_options(algorithm: str) -> list[str]:
    """Names of all options of an algorithm's runs.

    Raises:
        UsageError: there is no such algorithm.
    """
    if algorithm not in CHOICES and ":" not in str(algorithm):
        raise unknown_name("algorithm", algorithm, CHOICES)
    config: Config = SupervisedConfig() if algorithm == RELEARN else RunConfig(env="", algorithm=algorithm)
    return sorted({*_paths(config).keys(), "algorithm"} - set(RESERVED))


def make_config(options: Mapping[str, Any]) -> Config:
    """The configuration that options give over the defaults of their algorithm, environment and preset.

    Args:
        options: values by name, as JSON has them. Runs have one thread unless ``threads`` says otherwise.

    Raises:
        UsageError: no algorithm or environment, an unknown option, a value of the wrong type, or a contradiction.
    """
    options = dict(options)
    algorithm, preset = options.pop("algorithm", None), options.pop("preset", "baseline")
    if algorithm is None:
        raise UsageError(f"name the algorithm in [base]: algorithm = one of {', '.join(CHOICES)}")
    known = known_options(algorithm)
    for name in options:
        if name not in known:
            raise unknown_name("option", name, known)
    if not isinstance(preset, str):
        raise UsageError(f"preset should be a name, got {preset!r}")
    try:
        if algorithm == RELEARN:
            default: Config = classifier_preset(preset)
        elif isinstance(options.get("env"), str):
            default = default_run(algorithm, options.pop("env"), preset)
        else:
            raise UsageError("name an environment: env = ID ('stablegrad envs' lists them)")
        return with_options(default, {"threads": 1, **options})
    except UsageError:
        raise
    except (StablegradError, TypeError) as error:
        raise UsageError(str(error).removeprefix("config.")) from error


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """The configuration with other values of some options; raises what ``from_json`` of its class raises."""
    value = json.loads(json.dumps(config.to_json()))
    paths = _paths(config)
    for name, option in options.items():
        inner = value
        for part in paths[name][:-1]:
            inner = inner[part]
        inner[paths[name][-1]] = option
    return config_from_json(value)


def with_learning_rate(config: Config, factor: float) -> Config:
    """The configuration with every optimizer's learning rate times ``factor``; what is no network's stays."""
    flat = flatten(config.to_json())
    rates = {
        name: flat[".".join(path)] * factor
        for name, path in _paths(config).items()
        if path[-1] in LEARNING_RATES and flat.get(".".join(path)) is not None
    }
    return with_options(config, rates)


def config_from_json(value: Mapping[str, Any]) -> Config:
    """Read what ``config.to_json()`` has written; raises what ``from_json`` of the two configurations raises."""
    if value.get("algorithm") == SUPERVISED:
        return SupervisedConfig.from_json(value)
    return RunConfig.from_json(value)


def resume_run(path: Path | str) -> None:
    """Continue the run in a folder, without a word, to its end; raises what ``resume`` and its like raise.

    A signal kills it: it goes on from its last scheduled checkpoint then, and ends as if undisturbed.
    """
    if RunFolder(path).read_config().get("algorithm") == SUPERVISED:
        resume_supervised(path, quiet=True, clean_stop=False)
    else:
        resume(path, quiet=True, clean_stop=False)


def needs(config: Config) -> Needs:
    """What a run takes; its environment or data are looked at, its network is not allocated.

    Raises:
        UsageError: it cannot be run: no such environment, data folder or device, or parts that do not fit together.
    """
    if isinstance(config, RunConfig):
        run = config
        check_suits(run.algorithm, run.spec)
        parameters = parameter_count(lambda: nn.ModuleDict(run.build_networks()))
        return Needs(parameters, config.memory_need().total, config.total_steps)
    resolve_device(config.device)  # raises where there is none
    _ = config.reshuffles
    data = _data(config.data, config.data_limit)
    one_image = data.limited(1)  # sizes do not depend on how many there are
    with torch.device("meta"):
        network = list(Classifier(config, one_image).parameters())
    weights = sum(parameter.numel() for parameter in network)
    images = data.train_images.numel() + data.test_images.numel()  # bytes
    memory = 2 * FLOAT_BYTES * weights + optimizer_bytes(network, config.optimizer) + images
    return Needs(weights, memory, config.epochs * -(-len(data.train_labels) // config.batch_size))


def calibration(config: Config) -> Config:
    """A run that takes the same steps and logs as often as it can, to see how long a step takes."""
    if isinstance(config, RunConfig):
        agent = config.agent
        if isinstance(agent, OffPolicyConfig):
            # Steps before the first update take less time, and are few in a long run.
            agent = dataclasses.replace(agent, learning_starts=min(agent.learning_starts, agent.batch_size))
        return dataclasses.replace(
            config, agent=agent, log_every=1, checkpoint_every=config.total_steps, eval_episodes=0, wandb=None
        )
    images = len(_data(config.data, config.data_limit).train_labels)
    # A line an epoch, so epochs are short; only the first is of labels that are tested.
    limit = min(images, CALIBRATION_BATCHES * config.batch_size)
    epochs = max(config.epochs, 1000)
    return dataclasses.replace(
        config, data_limit=limit, epochs=epochs, reshuffle_every=1, reshuffle_at=None, checkpoint_every=epochs
    )


def figure_of(config: Config, folder: RunFolder, summary: Mapping[str, Any], name: str) -> float | None:
    """One figure of a finished run; None where there is none.

    Args:
        config: the run's.
        folder: its folder.
        summary: content of its summary.json.
        name: one of ``FIGURES``. With a "/": the last value in metrics.jsonl; with "/*": the mean over all places that
            the diagnosis looked at last. ``human_normalized_return`` is of ``final_return``, for Atari games.
    """
    value: Any
    if name.endswith("*"):
        looks = (
            [item for key, item in row.items() if key.startswith(name[:-1])] for row in folder.read_metrics()[::-1]
        )
        last_look = next((look for look in looks if look), None)
        value = None if last_look is None else fmean(last_look)
    elif "/" in name:
        value = (last_metrics(folder) or {}).get(name)
    elif name == "human_normalized_return":
        value, game = summary.get("final_return"), getattr(config, "env", "").removesuffix("-v5")
        value = human_normalized_score(game, value).item() if value is not None and game in ALE_57 else None
    else:
        value = summary
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if type(value) in (int, float) else None


def with_data(config: Config) -> Config:
    """The same with the data's folder by its full name, so that it is found from everywhere."""
    if isinstance(config, SupervisedConfig) and config.data != DIGITS:
        return dataclasses.replace(config, data=str(Path(config.data).absolute()))
    return config


@lru_cache(maxsize=4)
def _data(data: str, limit: int | None) -> DataSet:
    return load_data(data, limit)


def _paths(config: Config) -> dict[str, tuple[str, ...]]:
    """Where each option stands in the nested configuration, by its name."""
    paths = {}
    for name in option_names(config):
        first, *rest = name.split(".")
        paths[".".join(rest) if first in UNPREFIXED and rest else name] = (first, *rest)
    return paths

"""Named settings: the field's standard agent, the stabilised one, and each intervention alone.

A setting is a preset's name, optionally followed by changes: ``stable``, ``baseline+optimizer.name=kron``,
``stable+torso.skip_blocks=2+q_lambda=0.9``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from stablegrad.agents.catalogue import check_suits, find_algorithm
from stablegrad.environments import EnvironmentSpec
from stablegrad.errors import UsageError, unknown_name

#: What each preset changes in an algorithm's defaults. The first five are of arXiv 2506.15544, section 5; LayerNorm is
#: one of its interventions, and an algorithm that has it by default, such as PQN, has it in its baseline too. The
#: others are what the field offers instead: those of its appendix, whose values we do not know, and later ones.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "baseline": {},
    "stable": {
        "torso.kind": "multi_skip",
        "torso.norm": "layer",
        "encoder.norm": "auto",
        "optimizer.name": "kron",
    },
    "multi_skip": {"torso.kind": "multi_skip"},
    "kron": {"optimizer.name": "kron"},
    "residual": {"torso.kind": "residual"},
    "gelu": {"torso.activation": "gelu", "encoder.activation": "gelu"},
    "crelu": {"torso.activation": "crelu", "encoder.activation": "crelu"},  # Abbas et al., 2303.07507
    "cosine": {"optimizer.schedule": "cosine"},
    "cyclic": {"optimizer.schedule": "cyclic"},
    "l2": {"optimizer.l2": 1e-4},
    "l2_init": {"optimizer.l2_init": 1e-4},  # Kumar et al., 2308.11958, who choose it by a sweep
    "weight_decay": {"optimizer.name": "adamw", "optimizer.weight_decay": 1e-2},  # torch's default, and SimBa's
    # Elsayed et al., 2407.01704; first weights here are wider than torch's, so that less would cut them.
    "weight_clip": {"optimizer.weight_clip": 5.0},
    "spectral_norm": {"torso.spectral_norm": True},  # Bjorck et al., 2106.01151; Gogianu et al., 2105.05246
    "pruned": {"torso.sparsity": 0.8},  # the example of Ma et al., 2506.17204
    # Bounds on weights and gradients with plain Adam, after FlashSAC, 2604.04539. That bounds gradients by its
    # cross-entropy loss; here they are clipped at 10, as in arXiv 2506.15544.
    "norm_bounded": {
        "torso.norm": "layer",
        "optimizer.name": "adam",
        "optimizer.project_rows": "first",
        "max_grad_norm": 10.0,
    },
    # Rivals (docs/rivals.md), at the published weight and thresholds.
    "sigreg": {"sigreg": 0.2},
    "redo": {"reset": "redo"},
    "regrama": {"reset": "regrama"},
    # Farebrother et al., 2403.03950; rewards are normalised so that one range of returns suits every task.
    "two_hot": {"value_loss": "two_hot", "v_min": -10.0, "v_max": 10.0, "normalize_rewards": True},
    "hl_gauss": {"value_loss": "hl_gauss", "v_min": -10.0, "v_max": 10.0, "normalize_rewards": True},
    # Palenicek et al., 2509.25174: BatchNorm, rows of norm 1 and a categorical critic.
    "xqc": {
        "encoder.norm": "batch",
        "torso.norm": "batch",
        "optimizer.name": "adam",
        "optimizer.project_rows": "unit",
        "value_loss": "c51",
        "num_atoms": 101,
        "v_min": -5.0,
        "v_max": 5.0,
        "normalize_rewards": True,
    },
}
#: What all agents of the authors of SimBa share: sizes, observations and how often they learn.
_SIMBA = {
    "torso.width": 512,
    "torso.depth": 2,
    "actor.width": 128,
    "actor.depth": 1,
    "num_critics": 1,  # on the DeepMind Control suite no episode ends early
    "normalize_observations": True,
    "optimizer.adam_learning_rate": 1e-4,
    "learning_starts": 5000,
    "gradient_steps": 2,
}
#: Their policy and temperature.
_SIMBA_SAC = {
    "squash_log_std": True,
    "temperature": 0.01,
    "temperature_learning_rate": 1e-4,
    "entropy_per_number": -0.5,
}
#: Their first network and its optimizer (Lee et al., 2410.09754).
_SIMBA_V1 = {
    "torso.kind": "simba",
    "torso.norm": "layer",
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 1e-2,
}
#: Published recipes: presets that change options which not every algorithm has, by algorithm.
RECIPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "simba": {
        "sac": {**_SIMBA, **_SIMBA_V1, **_SIMBA_SAC},
        "ddpg": {
            **_SIMBA,
            **_SIMBA_V1,
            # One noise, which only the box of actions bounds: in acting, in targets and in the actor's loss.
            "exploration_noise": 0.1,
            "target_policy_noise": 0.1,
            "target_noise_clip": 2.0,
            "policy_noise": 0.1,
            "target_actor": False,
        },
    },
    # Lee et al., 2502.15280: weights and features on the sphere, a categorical critic.
    "simba_v2": {
        "sac": {
            **_SIMBA,
            **_SIMBA_SAC,
            "torso.kind": "simba_v2",
            "torso.norm": "none",
            "optimizer.name": "adam",
            "optimizer.schedule": "linear",
            "optimizer.schedule_end": 0.5,
            "optimizer.project_rows": "unit",
            "normalize_rewards": True,
            "max_return": 5.0,
            "value_loss": "c51",
            "num_atoms": 101,
            "v_min": -5.0,
            "v_max": 5.0,
        },
    },
}
#: Options of the encoder that presets change where the encoder has them.
ENCODER = "encoder."


def preset_config(algorithm: str, preset: str, spec: EnvironmentSpec) -> Any:
    """The agent's configuration for a preset, over the algorithm's defaults for an environment.

    Raises:
        UsageError: unknown algorithm or preset, or the algorithm cannot be used in the environment.
    """
    check_preset(preset)
    check_suits(algorithm, spec)
    defaults = find_algorithm(algorithm).defaults(spec)
    if preset not in RECIPES:
        return with_preset(defaults, preset)
    if algorithm not in RECIPES[preset]:
        raise UsageError(
            f"preset {preset!r} is a recipe of {', '.join(RECIPES[preset])}; {algorithm} has none by this name"
        )
    return apply_changes(defaults, RECIPES[preset][algorithm])


def check_preset(preset: str) -> None:
    """Raise UsageError for a name that is no preset's."""
    if preset not in (*PRESETS, *RECIPES):
        raise unknown_name("preset", preset, (*PRESETS, *RECIPES))


def parse_setting(setting: str) -> tuple[str, dict[str, str]]:
    """Split ``preset+option=value+...`` into the preset's name and its changes."""
    preset, *changes = setting.split("+")
    check_preset(preset)
    parsed: dict[str, str] = {}
    for change in changes:
        name, separator, value = change.partition("=")
        if not separator or not name or not value:
            raise UsageError(f"setting {setting!r}: expected option=value after '+', got {change!r}")
        parsed[name.replace("-", "_")] = value
    return preset, parsed


Config = typing.TypeVar("Config")


def with_preset(config: Config, preset: str) -> Config:
    """A copy of a config dataclass with what a preset changes; of the encoder, what this kind of encoder has."""
    known = option_names(config)
    changes = {name: value for name, value in PRESETS[preset].items() if name in known or not name.startswith(ENCODER)}
    return apply_changes(config, changes)


def apply_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of a (nested) config dataclass with options changed.

    Args:
        config: the dataclass to start from.
        changes: values by dotted name; strings are read as the option's type ("true", "none", "3", "1e-3").

    Raises:
        UsageError: an option that does not exist (with the nearest one) or a value of the wrong type.
    """
    known = option_names(config)
    for name in changes:
        if name not in known:
            raise unknown_name("option", name, known)
    return _replace(config, {tuple(name.split(".")): value for name, value in changes.items()}, "")


def option_names(config: Any, prefix: str = "") -> list[str]:
    """Dotted names of all options of a (nested) config dataclass."""
    names: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        names += (
            option_names(value, f"{prefix}{field.name}.") if dataclasses.is_dataclass(value) else [prefix + field.name]
        )
    return names


def _replace(config: Any, changes: Mapping[tuple[str, ...], Any], prefix: str) -> Any:
    """All changes of one dataclass at once, so that it is checked as a whole and not half changed."""
    hints = typing.get_type_hints(type(config))
    values: dict[str, Any] = {}
    for field in {path[0] for path in changes}:
        inner = {path[1:]: value for path, value in changes.items() if path[0] == field}
        name = prefix + field
        values[field] = (
            _read(inner[()], hints[field], name) if () in inner else _replace(getattr(config, field), inner, f"{name}.")
        )
    return dataclasses.replace(config, **values)


def _read(value: Any, annotation: Any, name: str) -> Any:
    """A string as the annotated type; other values as they are."""
    if not isinstance(value, str):
        return value
    alternatives = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if type(None) in alternatives and value.lower() == "none":
        return None
    for kind in (bool, int, float, str):
        if kind not in alternatives:
            continue
        if kind is bool:
            if value.lower() in ("true", "false"):
                return value.lower() == "true"
            continue
        try:
            return kind(value)
        except ValueError:
            continue
    expected = " or ".join("none" if kind is type(None) else kind.__name__ for kind in alternatives)
    raise UsageError(f"option {name} should be {expected}, got {value!r}")

"""All that is needed to run a reshuffled-label training again, as one dataclass that can be written to JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stablegrad.agents.presets import ENCODER, PRESETS, RECIPES, apply_changes, option_names, parse_setting, with_preset
from stablegrad.errors import StablegradError, UsageError, unknown_name
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.supervised.labels import reshuffle_epochs
from stablegrad.training.config import check_threads, config_from_json

ALGORITHM = "supervised"
ENCODERS = ("auto", "cnn", "none")
ENCODER_NORMS = ("auto", "group", "none")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class ImageEncoderConfig:
    """What turns an image into features."""

    kind: str = "auto"
    """cnn (the paper's six convolutions) or none (the torso reads the pixels); auto: none for the digits, else cnn."""
    norm: str = "auto"
    """cnn: GroupNorm before every pool: group or none; auto: group where the torso has LayerNorm."""
    dropout: float = 0.2
    """cnn: share of channels that are set to zero in training, after every pool."""

    def __post_init__(self) -> None:
        if self.kind not in ENCODERS:
            raise unknown_name("encoder", self.kind, ENCODERS)
        if self.norm not in ENCODER_NORMS:
            raise unknown_name("encoder norm", self.norm, ENCODER_NORMS)
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"encoder dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def has_cnn_options(self) -> bool:
        """Whether anything is asked of the cnn."""
        return (self.norm, self.dropout) != ("auto", ImageEncoderConfig.dropout)


@dataclass(frozen=True)
class SupervisedConfig:
    """One training on labels that are reshuffled, or stay; the defaults are those of arXiv 2506.15544 for CIFAR."""

    data: str = "digits"
    """digits (bundled with scikit-learn), or a folder of CIFAR-10, CIFAR-100 or MNIST-like IDX files."""
    data_limit: int | None = None
    """Training images to take, from the first (the paper's code: 10,000); None: all."""
    preset: str = "baseline"
    """Name of the setting; what it changes stands in ``encoder``, ``torso`` and ``optimizer``."""
    epochs: int = 100
    """Passes over the training images."""
    reshuffle_every: int = 20
    """Epochs between two reshuffles of the training labels; 0: they stay."""
    reshuffle_at: tuple[int, ...] | None = None
    """Numbers of epochs after which labels are reshuffled, instead of reshuffle_every."""
    relearn_accuracy: float = 0.9
    """Training accuracy at which labels count as learned."""
    batch_size: int = 256
    """Images an update; the last batch of an epoch may be smaller."""
    max_grad_norm: float | None = None
    """Global gradient norm above which gradients are scaled down; None: never."""
    precision: str = "fp32"
    """fp32, or bf16: matrix products and convolutions in bfloat16, weights and optimizer in fp32."""
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    torso: TorsoConfig = field(default_factory=lambda: TorsoConfig(norm="none", out_features=512))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 1
    """Seed of weights, labels, batches and dropout."""
    threads: int = 0
    """Threads of torch; 0: one a core."""
    device: str = "auto"
    """cpu, cuda, cuda:<n>; auto: cuda where there is one."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints; None: a tenth of the run."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""

    def __post_init__(self) -> None:
        for name, minimum in (
            ("data_limit", 1),
            ("epochs", 1),
            ("reshuffle_every", 0),
            ("batch_size", 1),
            ("seed", 0),
            ("threads", 0),
            ("checkpoint_every", 1),
            ("keep_checkpoints", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UsageError(f"{name.replace('_', '-')} must be at least {minimum}, got {value}")
        check_threads(self.threads)
        if not 0.0 < self.relearn_accuracy <= 1.0:
            raise UsageError(f"relearn-accuracy must be above 0 and at most 1, got {self.relearn_accuracy}")
        if self.max_grad_norm is not None and not 0.0 < self.max_grad_norm < float("inf"):
            raise UsageError(f"max-grad-norm must be above 0 and finite, got {self.max_grad_norm}")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    @property
    def algorithm(self) -> str:
        """What says in config.json that this is no agent's run."""
        return ALGORITHM

    @property
    def reshuffles(self) -> list[int]:
        """After how many epochs labels are reshuffled.

        Raises:
            UsageError: a reshuffle that never comes.
        """
        return reshuffle_epochs(self.epochs, self.reshuffle_every, self.reshuffle_at)

    @property
    def checkpoint_interval(self) -> int:
        """Epochs between checkpoints, the default worked out."""
        return self.checkpoint_every or max(self.epochs // 10, 1)

    @property
    def normalizes_encoder(self) -> bool:
        """Whether a cnn encoder has GroupNorm."""
        return self.torso.norm == "layer" if self.encoder.norm == "auto" else self.encoder.norm == "group"

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {"algorithm": ALGORITHM, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SupervisedConfig:
        """Read ``to_json()`` or the content of config.json.

        Raises:
            StablegradError: it is of another algorithm, or an option is missing, unknown or of the wrong type.
        """
        if value.get("algorithm") != ALGORITHM:
            raise StablegradError(f"config.algorithm should be {ALGORITHM!r}, got {value.get('algorithm')!r}")
        options = {name: item for name, item in value.items() if name not in ("algorithm", "format", "provenance")}
        at = options.pop("reshuffle_at", None)  # the one option that is a list
        if at is not None and not (isinstance(at, list | tuple) and all(type(epoch) is int for epoch in at)):
            raise StablegradError(f"config.reshuffle_at should be a list of epochs or null, got {at!r}")
        config: SupervisedConfig = config_from_json(cls, options, "config")
        return dataclasses.replace(config, reshuffle_at=None if at is None else tuple(at))


def preset_config(setting: str) -> SupervisedConfig:
    """The configuration of a setting: a preset's name, with changes or without (see ``stablegrad.agents.presets``).

    Raises:
        UsageError: unknown preset or option.
    """
    preset, changes = parse_setting(setting)
    config = SupervisedConfig(preset=setting)
    if preset in RECIPES:
        raise UsageError(f"preset {preset!r} is a recipe of {', '.join(RECIPES[preset])}; take another for this task")
    changed = {name for name in PRESETS[preset] if not name.startswith(ENCODER)}
    if other := changed - set(option_names(config)):
        raise UsageError(f"preset {preset!r} changes {min(other)}, which only agents have; take another for this task")
    return apply_changes(with_preset(config, preset), changes)

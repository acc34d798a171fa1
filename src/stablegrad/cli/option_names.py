"""Which option a person meant who typed another name: a part of it, a slip, or what other libraries call it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

#: Options, without dashes, and other names for them: those of Stable-Baselines3, CleanRL, Gymnasium, RLlib and PyTorch.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "batch-size": ("minibatch-size", "train-batch-size"),
    "checkpoint-every": ("checkpoint-freq", "checkpoint-frequency", "checkpoint-interval", "save-every", "save-freq"),
    "device": ("accelerator", "cuda", "gpu", "use-gpu"),
    "dir": ("folder", "log-dir", "logdir", "out", "output", "output-dir", "path", "run-dir", "save-dir", "save-path"),
    "discount": ("discount-factor", "gamma"),
    "encoder.kind": ("cnn", "encoder", "features-extractor"),
    "encoder.pool": ("average-pool", "global-average-pooling", "pooling"),
    "env": ("env-id", "env-name", "environment", "game", "id", "task"),
    "episodes": ("eval-episodes", "n-episodes", "n-eval-episodes", "num-episodes", "num-eval-episodes"),
    "epochs": ("num-epochs", "n-epochs"),
    "epsilon-end": ("end-e", "exploration-final-eps", "final-epsilon"),
    "epsilon-start": ("eps", "epsilon", "exploration-initial-eps", "initial-epsilon", "start-e"),
    "eval-episodes": ("episodes", "n-eval-episodes", "num-eval-episodes"),
    "log-every": ("log-freq", "log-frequency", "log-interval"),
    "max-grad-norm": ("clip-grad", "clip-grad-norm", "grad-clip", "gradient-clip", "max-gradient-norm"),
    "max-hours": ("max-time", "time", "time-budget", "timeout"),
    "num-envs": ("envs", "n-env", "n-envs", "nenvs", "num-env", "num-environments"),
    "num-epochs": ("epochs", "n-epochs", "noptepochs", "update-epochs"),
    "num-minibatches": ("batch-size", "minibatch-size", "minibatches", "n-minibatches", "nminibatches"),
    "num-steps": ("horizon", "n-step", "n-steps", "rollout-length", "rollout-steps", "unroll-length"),
    "optimizer.learning-rate": ("alpha", "learning-rate", "lr", "rate", "step-size"),
    "optimizer.name": ("optim", "optimiser", "optimizer", "optimizer-class"),
    "optimizer.schedule": ("anneal-lr", "lr-schedule", "schedule", "scheduler"),
    "optimizer.weight-decay": ("wd", "weight-decay"),
    "precision": ("amp", "bf16", "dtype", "fp16", "half", "mixed-precision"),
    "preset": ("config", "setting", "settings"),
    "q-lambda": ("gae-lambda", "lam", "lambda", "td-lambda"),
    "quiet": ("silent", "verbose"),
    "run-dir": (
        "dir",
        "exp-name",
        "folder",
        "log-dir",
        "logdir",
        "out",
        "output",
        "output-dir",
        "save-dir",
        "save-path",
    ),
    "seed": ("random-seed", "seeds"),
    "seeds": ("n-seeds", "num-seeds", "runs", "seed"),
    "settings": ("configs", "preset", "presets", "setting"),
    "torso.activation": ("activation", "activation-fn", "activation-function"),
    "torso.depth": ("layers", "n-layers", "num-layers", "num-hidden-layers", "hidden-layers"),
    "torso.kind": ("model", "network", "policy", "torso"),
    "torso.norm": ("layer-norm", "layernorm", "norm", "use-layer-norm"),
    "torso.sparsity": ("pruning", "sparse"),
    "torso.width": ("features-dim", "hidden-dim", "hidden-size", "hidden-units", "hidden", "num-units", "units"),
    "total-steps": (
        "frames",
        "max-steps",
        "n-timesteps",
        "num-frames",
        "num-timesteps",
        "steps",
        "timesteps",
        "total-timesteps",
        "training-steps",
    ),
    "trials": ("n-trials", "num-samples", "num-trials"),
    "video": ("capture-video", "record", "record-video", "save-video"),
    "wandb": ("track", "wandb-project", "wandb-project-name"),
    "workers": ("cpus", "jobs", "n-jobs", "n-workers", "num-workers", "parallel", "processes"),
}
#: One name for several options together.
SEVERAL = dict.fromkeys(
    ("arch", "fcnet-hiddens", "hidden-layer-sizes", "hidden-sizes", "net-arch", "policy-kwargs", "pi", "qf"),
    ("torso.width", "torso.depth"),
)


def nearest_options(name: str, options: Collection[str]) -> list[str]:
    """The options that were meant by ``name``, at most two; none where nothing is near.

    In this order: what the field calls so, options whose last part it is, and names that differ by a slip.

    Args:
        name: what was typed, such as "--lr".
        options: all options of the command, such as "--optimizer.learning-rate".
    """
    asked = name.lstrip("-").lower().replace("_", "-")
    known = sorted(option.removeprefix("--") for option in options if option != "--help")
    if not asked.startswith("no-"):
        known = [option for option in known if not option.rpartition(".")[2].startswith("no-")]
    *_, last = asked.rpartition(".")
    found = [option for option in SEVERAL.get(last, ()) if option in known]
    for wanted in (asked, last):
        found = found or [option for option in known if option.rpartition(".")[2] == wanted]
        found = found or [option for option, others in SYNONYMS.items() if wanted in others and option in known]
    if not found:
        by_part = {part: option for option in known for part in (option.rpartition(".")[2], option)}
        close = [*difflib.get_close_matches(asked, by_part, n=1, cutoff=0.7), *_begin_alike(asked, by_part)]
        found = [by_part[close[0]]] if close else []
    return [f"--{option}" for option in found[:2]]


def _begin_alike(asked: str, names: Collection[str]) -> list[str]:
    """Names of which ``asked`` is the beginning, or the other way round."""
    return [name for name in names if len(asked) > 2 and (name.startswith(asked) or asked.startswith(f"{name}-"))]

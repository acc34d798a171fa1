"""Checkpoints: written whole or not at all, and never a file that can run code.

::

    checkpoints/step-<n>/model.safetensors     the network's weights
                         tensors.safetensors   every other tensor of the state
                         state.json            the state, with tensors named in place
                         SHA256SUMS            of the three; ``sha256sum -c SHA256SUMS`` checks them
    checkpoints/experience/                    a replay's rows, which checkpoints share (``training.experience``)

A checkpoint is written to a hidden folder, flushed to the disk and renamed, so that a kill at any moment leaves the old
ones and either the whole new one or none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from stablegrad.agents.contract import shown_names
from stablegrad.errors import CheckpointError
from stablegrad.files import sync_folder
from stablegrad.training.experience import EXPERIENCE, Manifest, Rings, remove_unlisted, save_experience

MODEL, TENSORS, STATE, SUMS = "model.safetensors", "tensors.safetensors", "state.json", "SHA256SUMS"


def save_checkpoint(
    directory: Path,
    step: int,
    networks: Mapping[str, nn.Module],
    state: Mapping[str, Any],
    keep: int,
    *,
    protected: Path | None = None,
    experience: Rings | None = None,
) -> Path:
    """Write ``directory/step-<step>`` and remove all but the newest ``keep`` checkpoints.

    Args:
        directory: the run's checkpoints folder.
        step: environment steps, the checkpoint's name.
        networks: by name; their weights become model.safetensors, where there are several under their names.
        state: nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        keep: how many checkpoints stay.
        protected: one that stays however old it is.
        experience: a replay, whose new rows are written to ``directory/experience``; the state then has what
            ``load_experience`` needs under "experience".

    Raises:
        CheckpointError: a weight is not finite: such a checkpoint would be worth nothing.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in _weights(networks).items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"weights of '{name}' are not finite at step {step}; no checkpoint is written of them"
            )
    directory.mkdir(exist_ok=True)
    if experience is not None:
        state = {**state, EXPERIENCE: save_experience(directory / EXPERIENCE, experience)}
    tensors: dict[str, Tensor] = {}
    encoded = _encode(state, "", tensors)
    files = {
        MODEL: save(weights),
        TENSORS: save(tensors),
        STATE: json.dumps(encoded, indent=1, allow_nan=False).encode(),
    }
    files[SUMS] = "".join(f"{_sha256(data)}  {name}\n" for name, data in files.items()).encode()

    final = directory / f"step-{step}"
    temporary = directory / f".step-{step}"
    for leftover in directory.glob(".step-*"):
        shutil.rmtree(leftover)
    try:
        temporary.mkdir()
        for name, data in files.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(temporary)
        if final.exists():
            remove_checkpoint(final)
        temporary.rename(final)
        sync_folder(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in list_checkpoints(directory)[:-keep]:
        if old != protected:
            remove_checkpoint(old)
    if experience is not None:
        _remove_unlisted_experience(directory)
    return final


def list_checkpoints(directory: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    found = [path for path in directory.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Environment steps at which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint, checking every byte of it.

    Returns:
        (weights, state): the network's tensors by name, and what was given to ``save_checkpoint``; on the CPU.

    Raises:
        CheckpointError: a file is missing, truncated or edited; the message names it.
    """
    files: dict[str, bytes] = {}
    try:
        lines = (path / SUMS).read_text().splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        for name in (MODEL, TENSORS, STATE):
            files[name] = (path / name).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint '{path}' is damaged: {error}; {_advice(path)}") from error
    for name, data in files.items():
        if expected.get(name) != _sha256(data):
            raise CheckpointError(
                f"checkpoint '{path}' is damaged: {name} was truncated or edited, its checksum differs; {_advice(path)}"
            )
    try:
        weights, tensors = load(files[MODEL]), load(files[TENSORS])
        return weights, _decode(json.loads(files[STATE]), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be read: {error}; {_advice(path)}") from error


def recorded_digests(checkpoint: Path) -> dict[Path, str]:
    """SHA-256 of every file of a checkpoint and of the experience that it lists, as recorded when they were written.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    try:
        sums = (checkpoint / SUMS).read_bytes()
        digests = {checkpoint / SUMS: _sha256(sums)}
        for line in sums.decode().splitlines():
            digest, name = line.split("  ", 1)
            digests[checkpoint / name] = digest
        manifest = _manifest(checkpoint)
        for file in [] if manifest is None else manifest["files"]:
            digests[checkpoint.parent / EXPERIENCE / file["name"]] = file["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint '{checkpoint}' is damaged: {error}; {_advice(checkpoint)}") from error
    return digests


def load_weights(networks: Mapping[str, nn.Module], weights: Mapping[str, Tensor], path: Path) -> None:
    """Put a checkpoint's weights into networks of the same shapes, see ``save_checkpoint``.

    Raises:
        CheckpointError: the checkpoint is of another network; the message names the first difference.
    """
    own = _weights(networks)
    for name in sorted(own.keys() | weights.keys()):
        if name not in own:
            problem = f"it holds '{name}', which the configured network does not have"
        elif name not in weights:
            problem = f"it lacks '{name}', which the configured network has"
        elif own[name].shape != weights[name].shape:
            problem = (
                f"its '{name}' has shape {list(weights[name].shape)}, the configured network's {list(own[name].shape)}"
            )
        else:
            continue
        raise CheckpointError(f"checkpoint '{path}' is of another network: {problem}")
    for name, network in shown_names(networks).items():
        start = f"{name}." if name else ""
        network.load_state_dict({key.removeprefix(start): one for key, one in weights.items() if key.startswith(start)})


def _weights(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}" if name else key: tensor
        for name, network in shown_names(networks).items()
        for key, tensor in network.state_dict().items()
    }


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint, wholly or not at all."""
    # Renamed first: a kill in the middle of the removal must not leave half a checkpoint under a valid name.
    hidden = checkpoint.with_name(f".step-old-{checkpoint.name}")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _remove_unlisted_experience(directory: Path) -> None:
    try:
        listed = [_manifest(path) for path in list_checkpoints(directory)]
    except (OSError, ValueError, KeyError, TypeError):
        return  # damaged: what it lists is not known
    remove_unlisted(directory / EXPERIENCE, [manifest for manifest in listed if manifest is not None])


def _manifest(checkpoint: Path) -> Manifest | None:
    """What a checkpoint says of its experience; None where it has none."""
    state = dict(json.loads((checkpoint / STATE).read_text())["dict"])
    return _decode(state[EXPERIENCE], {}) if EXPERIENCE in state else None


def _advice(path: Path) -> str:
    others = [other.name for other in list_checkpoints(path.parent) if other != path]
    return f"remove the folder to continue from {others[-1]}" if others else "there is no other checkpoint in this run"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a nested state; tensors go to ``tensors`` under the path at which they stand."""
    if isinstance(value, Tensor):
        # A clone, as safetensors refuses two names for one storage.
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, _encode(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a checkpoint holds tensors, numbers and strings, not {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {key: _decode(item, tensors) for key, item in content}
        case "list":
            return [_decode(item, tensors) for item in content]
        case "tuple":
            return tuple(_decode(item, tensors) for item in content)
        case "float":
            return float(content)
    raise KeyError(f"unknown kind {kind!r} in {STATE}")

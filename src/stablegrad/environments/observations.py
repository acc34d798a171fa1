"""Any observation space -> one array an observation: a uint8 image, channels first, or one float32 vector.

The rule, in this order:

* a uint8 ``Box`` of three axes is an image; the shorter of its outer axes is taken as the channels and put first
  (the first axis where they are equal). A uint8 ``Box`` of two axes is an image of one channel;
* everything else becomes one float32 vector, in the layout of ``gymnasium.spaces.flatten``: entries of a ``Dict`` in
  the sorted order of their keys, of a ``Tuple`` in their own; a ``Box`` or ``MultiBinary`` row by row, unscaled; a
  ``Discrete`` or ``MultiDiscrete`` as one-hot vectors. An image *inside* a ``Dict`` or ``Tuple`` is flattened too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from stablegrad.errors import EnvironmentFault, UsageError


@dataclass(frozen=True)
class _Leaf:
    """A part of an observation that is one array, and where it goes in the vector."""

    path: tuple[Any, ...]
    choices: np.ndarray | None
    """int64 [K]: numbers of choices of K discrete values, or None for numbers taken as they are."""
    lowest: np.ndarray | None
    """int64 [K]: the discrete values' smallest."""
    start: int
    size: int

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path)) or "observation"


class ObservationLayout:
    """Brings batched observations of one space to the contract's form.

    Args:
        env_id: the environment's name, for messages.
        space: the space of a single observation.

    Raises:
        UsageError: the space has a part that has no fixed size (``Text``, ``Graph``, ``Sequence``, ``OneOf``).
    """

    shape: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    is_image: bool

    def __init__(self, env_id: str, space: spaces.Space) -> None:
        self._env_id = env_id
        self._leaves: list[_Leaf] = []
        self.is_image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)
        if self.is_image:
            shape = space.shape
            assert shape is not None
            self._channels_last = len(shape) == 3 and shape[2] < shape[0]
            self.dtype = "uint8"
            self.shape = (1, *shape) if len(shape) == 2 else ((shape[2], *shape[:2]) if self._channels_last else shape)
            _refuse_empty(env_id, self.shape)
            return
        start = 0
        for path, leaf in _walk(env_id, (), space):
            choices = lowest = None
            if isinstance(leaf, spaces.Discrete):
                choices, lowest = np.array([leaf.n]), np.array([leaf.start])
            elif isinstance(leaf, spaces.MultiDiscrete):
                choices = leaf.nvec.reshape(-1).astype(np.int64)
                lowest = leaf.start.reshape(-1).astype(np.int64)
            size = int(choices.sum()) if choices is not None else int(np.prod(leaf.shape or (), dtype=np.int64))
            self._leaves.append(_Leaf(path, choices, lowest, start, size))
            start += size
        self.dtype = "float32"
        self.shape = (start,)
        _refuse_empty(env_id, self.shape)

    def __call__(self, observation: Any, *, fresh: bool) -> np.ndarray:
        """Lay out a batch.

        Args:
            observation: what the engine returned: arrays of leading length N, in nested dicts and tuples.
            fresh: whether those arrays are the receiver's to keep; if not, the result shares no memory with them.

        Returns:
            [N, *shape] of ``dtype``, C-contiguous.

        Raises:
            EnvironmentFault: a discrete value lies outside its space.
        """
        if self.is_image:
            image = np.asarray(observation)
            if image.ndim == 3:
                image = image[:, None]
            elif self._channels_last:
                image = np.moveaxis(image, -1, 1)
            return _array(image, np.uint8, fresh)
        # A number too large for float32 becomes infinite and is reported as such.
        with np.errstate(over="ignore"):
            if len(self._leaves) == 1 and self._leaves[0].choices is None:
                only = np.asarray(_at(observation, self._leaves[0].path))
                vector = only.reshape(len(only), self.shape[0])
                return _array(vector, np.float32, fresh)
            parts = [np.asarray(_at(observation, leaf.path)) for leaf in self._leaves]
            vector = np.zeros((len(parts[0]), self.shape[0]), dtype=np.float32)
            for leaf, part in zip(self._leaves, parts, strict=True):
                part = part.reshape(len(part), -1)
                if leaf.choices is None:
                    vector[:, leaf.start : leaf.start + leaf.size] = part
                else:
                    self._one_hot(leaf, part, vector)
        return vector

    def _one_hot(self, leaf: _Leaf, part: np.ndarray, vector: np.ndarray) -> None:
        assert leaf.choices is not None and leaf.lowest is not None
        index = part.astype(np.int64) - leaf.lowest
        outside = (index < 0) | (index >= leaf.choices)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise EnvironmentFault(
                f"environment {self._env_id!r} returned {part[row, column]} for the discrete part {leaf.name!r} of its"
                f" observation in sub-environment {row}; its space has {leaf.choices[column]} values from"
                f" {leaf.lowest[column]} on"
            )
        firsts = leaf.start + np.cumsum(leaf.choices) - leaf.choices
        vector[np.arange(len(index))[:, None], firsts + index] = 1.0


def _walk(env_id: str, path: tuple[Any, ...], space: spaces.Space) -> Iterator[tuple[tuple[Any, ...], spaces.Space]]:
    """All parts of a space that are one array each, in the order of the vector."""
    if isinstance(space, spaces.Dict):
        for key in _sorted_keys(space):
            yield from _walk(env_id, (*path, key), space.spaces[key])
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _walk(env_id, (*path, index), part)
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield path, space
    else:
        name = ".".join(map(str, path)) or "observation"
        raise UsageError(
            f"environment {env_id!r} has a part {name!r} of kind {type(space).__name__} in its observation; expected"
            " Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"
        )


def _sorted_keys(space: spaces.Dict) -> list[Any]:
    try:
        return sorted(space.spaces)
    except TypeError:  # keys of several types have no order: as gymnasium does, in the order in which they were given
        return list(space.spaces)


def _refuse_empty(env_id: str, shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise UsageError(f"environment {env_id!r} has observations of shape {shape}; expected at least one number")


def _array(values: np.ndarray, dtype: type[np.generic], fresh: bool) -> np.ndarray:
    """Convert to ``dtype`` in C order: without a copy where none is needed and ``fresh`` allows it."""
    return np.ascontiguousarray(values, dtype=dtype) if fresh else np.array(values, dtype=dtype, order="C")


def _at(observation: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        observation = observation[key]
    return observation

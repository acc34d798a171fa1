"""Files of images and labels: IDX, and CIFAR's binary and Python versions. Every byte is accounted for, or refused.

A reader returns images ``[N, C, H, W]`` uint8 and labels ``[N]`` int64.

IDX: http://yann.lecun.com/exdb/mnist; CIFAR: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from stablegrad.errors import UsageError
from stablegrad.supervised.unpickle import load_arrays

Images = tuple[np.ndarray, np.ndarray]

CIFAR_SHAPE = (3, 32, 32)
IDX_UINT8 = 0x08
IDX_MAX_DIMENSIONS = 4


def read_cifar_binary(path: Path, label_bytes: int, num_classes: int) -> Images:
    """Records of ``label_bytes`` (the last is the label: CIFAR-100 has a coarse one before) and 3 x 32 x 32 pixels.

    Raises:
        UsageError: the file is no whole number of records, or holds a label that is none.
    """
    record = label_bytes + prod(CIFAR_SHAPE)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if len(data) == 0 or len(data) % record:
        raise UsageError(
            f"'{path}' is truncated or no CIFAR file: {len(data):,} bytes are no whole number of {record:,}-byte rows"
        )
    rows = data.reshape(-1, record)
    images = rows[:, label_bytes:].reshape(-1, *CIFAR_SHAPE)
    return _checked(path, images, rows[:, label_bytes - 1].astype(np.int64), num_classes)


def read_cifar_python(path: Path, label_name: str, num_classes: int) -> Images:
    """A pickled dictionary with "data", uint8 ``[N, 3072]``, and a list of labels; read without running any code.

    Raises:
        UsageError: the file is damaged, holds anything but plain arrays, or lacks one of the two.
    """
    content = load_arrays(path)
    for name in ("data", label_name):
        if name not in content:
            raise UsageError(f"'{path}' is no CIFAR file: it lacks '{name}'")
    data = content["data"]
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != prod(CIFAR_SHAPE):
        raise UsageError(
            f"'{path}' is no CIFAR file: 'data' should be uint8 [N, {prod(CIFAR_SHAPE)}], "
            f"found {data.dtype} {list(data.shape)}"
        )
    labels = content[label_name]
    if labels.dtype.kind not in "iu":
        raise UsageError(f"'{path}' is no CIFAR file: '{label_name}' should be integers, found {labels.dtype}")
    return _checked(path, data.reshape(-1, *CIFAR_SHAPE), labels.astype(np.int64), num_classes)


def read_idx_pair(images_path: Path, labels_path: Path) -> Images:
    """Gray images and their labels, as MNIST, Fashion-MNIST, KMNIST and EMNIST have them.

    Raises:
        UsageError: a file is damaged, or the two do not belong together.
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, ndim, what in ((images_path, images, 3, "images"), (labels_path, labels, 1, "labels")):
        if array.ndim != ndim:
            raise UsageError(f"'{path}' should hold {what}, an array of {ndim} dimensions; found {array.ndim}")
    return _checked(images_path, images[:, None], labels.astype(np.int64), num_classes=256)


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes, gzipped where its name ends in .gz, as uint8.

    Raises:
        UsageError: it is no IDX file of bytes, or not as long as its head says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"'{path}' is truncated or no gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != IDX_UINT8 or len(content) < 4 + 4 * content[3]:
        raise UsageError(f"'{path}' is no IDX file of unsigned bytes")
    if not 0 < content[3] <= IDX_MAX_DIMENSIONS:
        raise UsageError(f"'{path}' should hold images or labels, an array of 3 or 1 dimensions; found {content[3]}")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    start = 4 + 4 * len(shape)
    if len(content) - start != prod(shape):
        raise UsageError(
            f"'{path}' is truncated or damaged: its head promises {prod(shape):,} bytes, it holds "
            f"{len(content) - start:,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _checked(path: Path, images: np.ndarray, labels: np.ndarray, num_classes: int) -> Images:
    if not images.size or labels.shape != (len(images),):
        raise UsageError(f"'{path}' is damaged: {len(images):,} images and {labels.size:,} labels")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UsageError(
            f"'{path}' is damaged: labels should be from 0 to {num_classes - 1}, found {labels.min()} to {labels.max()}"
        )
    return images, labels

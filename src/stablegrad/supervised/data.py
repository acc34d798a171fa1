"""Data sets as tensors: all images of a set as bytes, so that they lie on the device for the whole training."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stablegrad.errors import UsageError
from stablegrad.supervised.formats import Images, read_cifar_binary, read_cifar_python, read_idx_pair

DIGITS = "digits"
DIGITS_TEST_SHARE = 0.2
FORMATS = "CIFAR-10 or CIFAR-100 (binary or Python version) or MNIST-like IDX files"


@dataclass(frozen=True)
class DataSet:
    """Images with their true labels.

    Attributes:
        name: what it is, such as "CIFAR-10".
        train_images: [N, C, H, W] uint8.
        train_labels: [N] int64.
        test_images: [M, C, H, W] uint8.
        test_labels: [M] int64.
        num_classes: labels are from 0 to one less.
    """

    name: str
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def limited(self, images: int) -> DataSet:
        """The same with the first so many training images only.

        Raises:
            UsageError: there are not as many.
        """
        if not 0 < images <= len(self.train_labels):
            raise UsageError(
                f"data-limit must be from 1 to {len(self.train_labels)}, the training images of {self.name}; "
                f"got {images}"
            )
        return dataclasses.replace(
            self, train_images=self.train_images[:images], train_labels=self.train_labels[:images]
        )

    def to(self, device: torch.device) -> DataSet:
        """The same on another device."""
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def checksum(self) -> str:
        """A number for the training data, in hexadecimal, that changes with every bit of them."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def load_data(data: str, limit: int | None = None) -> DataSet:
    """A data set by name or folder, on the CPU.

    Args:
        data: "digits" (bundled with scikit-learn), or a folder that holds, itself or in one folder inside it, CIFAR-10
            or CIFAR-100 in the binary or the Python version, or MNIST-like IDX files, gzipped or not.
        limit: how many training images to take, from the first.

    Raises:
        UsageError: there is no such folder or no data set in it, or a file is missing or damaged.
    """
    loaded = load_digits() if data == DIGITS else _load_folder(Path(data))
    return loaded if limit is None else loaded.limited(limit)


def load_digits() -> DataSet:
    """Optical recognition of handwritten digits: 1,797 images of 8 x 8 pixels, values from 0 to 16.

    The set has no test part: a fifth of it, drawn by a fixed permutation, is held out.
    """
    try:
        from sklearn import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("the digits are bundled with scikit-learn: pip install scikit-learn") from error
    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    held_out = round(DIGITS_TEST_SHARE * len(order))
    images, labels = digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)
    test, train = order[:held_out], order[held_out:]
    return _data_set(DIGITS, (images[train], labels[train]), (images[test], labels[test]), num_classes=10)


def _load_folder(folder: Path) -> DataSet:
    """What is in the folder, or in one of those inside it."""
    if not folder.is_dir():
        raise UsageError(f"no data set '{folder}': it is neither '{DIGITS}' nor a folder of {FORMATS}")
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found = [
        (name, place, load) for place in places for name, (holds, load) in LAYOUTS.items() if _holds_any(place, holds)
    ]
    if not found:
        raise UsageError(f"no data set in '{folder}': expected {FORMATS}")
    if len(found) > 1:
        names = ", ".join(f"{name} in '{place}'" for name, place, _ in found)
        raise UsageError(f"more than one data set in '{folder}': {names}; name a folder that holds one")
    _, place, load = found[0]
    return load(place)


def _load_cifar10_binary(folder: Path) -> DataSet:
    train = [read_cifar_binary(path, 1, 10) for path in _batches(folder, ".bin")]
    test = read_cifar_binary(_one(folder, "test_batch.bin"), 1, 10)
    return _data_set("CIFAR-10", _joined(train), test, 10)


def _load_cifar10_python(folder: Path) -> DataSet:
    train = [read_cifar_python(path, "labels", 10) for path in _batches(folder, "")]
    test = read_cifar_python(_one(folder, "test_batch"), "labels", 10)
    return _data_set("CIFAR-10", _joined(train), test, 10)


def _load_cifar100_binary(folder: Path) -> DataSet:
    train, test = (read_cifar_binary(_one(folder, name), 2, 100) for name in ("train.bin", "test.bin"))
    return _data_set("CIFAR-100", train, test, 100)


def _load_cifar100_python(folder: Path) -> DataSet:
    train, test = (read_cifar_python(_one(folder, name), "fine_labels", 100) for name in ("train", "test"))
    return _data_set("CIFAR-100", train, test, 100)


def _load_idx(folder: Path) -> DataSet:
    """By MNIST's file names, with whatever a set puts in front: emnist-letters-train-images-idx3-ubyte."""
    train, test = (
        read_idx_pair(_idx_file(folder, part, "images"), _idx_file(folder, part, "labels"))
        for part in (("train",), ("t10k", "test"))
    )
    return _data_set("IDX images", train, test, int(max(train[1].max(), test[1].max())) + 1)


#: Layouts by name: a pattern of the file names that tell it, and how to read it.
LAYOUTS: dict[str, tuple[str, Callable[[Path], DataSet]]] = {
    "CIFAR-10 (binary)": (r"data_batch_\d+\.bin", _load_cifar10_binary),
    "CIFAR-10 (Python)": (r"data_batch_\d+", _load_cifar10_python),
    "CIFAR-100 (binary)": (r"train\.bin", _load_cifar100_binary),
    "CIFAR-100 (Python)": (r"train", _load_cifar100_python),
    "IDX": (r".*train-images.idx\d-ubyte(\.gz)?", _load_idx),
}


def _holds_any(folder: Path, pattern: str) -> bool:
    return any(re.fullmatch(pattern, path.name) and path.is_file() for path in folder.iterdir())


def _one(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UsageError(f"data set in '{folder}' is not whole: it lacks {name}")
    return folder / name


def _batches(folder: Path, suffix: str) -> list[Path]:
    """data_batch_1 (or 0) and so on, in the order of their numbers; one that is missing is said."""
    numbers = sorted(
        int(match[1])
        for path in folder.iterdir()
        if (match := re.fullmatch(rf"data_batch_(0|[1-9]\d*){re.escape(suffix)}", path.name, re.ASCII))
    )
    if not numbers:
        raise UsageError(f"data set in '{folder}' is not whole: it lacks data_batch_1{suffix}")
    return [_one(folder, f"data_batch_{number}{suffix}") for number in range(min(numbers[0], 1), numbers[-1] + 1)]


def _idx_file(folder: Path, parts: tuple[str, ...], content: str) -> Path:
    """The one file of a part's images or labels; the plain one where a gzipped copy lies beside it."""
    pattern = rf".*({'|'.join(parts)})-{content}.idx\d-ubyte(\.gz)?"
    files = sorted(path for path in folder.iterdir() if re.fullmatch(pattern, path.name))
    files = [
        path for path in files if path.with_name(path.name.removesuffix(".gz")) not in files or path.suffix != ".gz"
    ]
    if not files:
        names = " or ".join(f"{part}-{content}-idx{3 if content == 'images' else 1}-ubyte" for part in parts)
        raise UsageError(f"data set in '{folder}' is not whole: it lacks {names}")
    if len(files) > 1:
        raise UsageError(f"more than one data set in '{folder}': {', '.join(path.name for path in files)}; keep one")
    return files[0]


def _joined(parts: list[Images]) -> Images:
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _data_set(name: str, train: Images, test: Images, num_classes: int) -> DataSet:
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UsageError(f"{name}: training images are {train[0].shape[1:]}, test images {test[0].shape[1:]}")
    # Copies, as what was read from a file may not be written to.
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(array.copy()) for array in (*train, *test))
    return DataSet(name, train_images, train_labels, test_images, test_labels, num_classes)

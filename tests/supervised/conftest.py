"""Tiny data sets in the layouts of the real ones, written by hand."""

import gzip
import pickle
import struct
import sys

import numpy as np
import pytest

from stablegrad.networks import TorsoConfig
from stablegrad.supervised import ImageEncoderConfig, SupervisedConfig


def images_and_labels(number, classes, shape=(3, 32, 32), seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (number, *shape), dtype=np.uint8), random.integers(0, classes, number)


def write_cifar10_binary(folder, batches=2, images=6):
    folder.mkdir()
    written = {}
    for number in range(batches + 1):
        name = f"data_batch_{number}.bin" if number else "test_batch.bin"
        pixels, labels = written[name] = images_and_labels(images, 10, seed=number)
        (folder / name).write_bytes(
            b"".join(bytes([label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True))
        )
    return written


def write_cifar100_binary(folder, images=6):
    folder.mkdir()
    written = {}
    for seed, name in enumerate(("train.bin", "test.bin")):
        pixels, labels = written[name] = images_and_labels(images, 100, seed=seed)
        (folder / name).write_bytes(
            b"".join(
                bytes([19 - label % 20, label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True)
            )
        )
    return written


def python2_pickle(pixels, labels, label_name):
    """What Python 2.7 and its NumPy wrote, opcode by opcode: the files of the real CIFAR download."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    data = pixels.reshape(len(pixels), -1).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
        b"(" + number(1) + number(len(pixels)) + number(len(data) // len(pixels)) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
        b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )
    integers = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"image_%d.png" % row) for row in range(len(labels))) + b"e"
    entries = [text(b"data"), array, text(label_name), integers, text(b"filenames"), names]
    return b"\x80\x02}(" + b"".join(entries) + b"u."


def python3_pickle(pixels, labels, label_name, protocol):
    content = {"data": pixels.reshape(len(pixels), -1), label_name: [int(label) for label in labels], "batch": b"x"}
    return pickle.dumps(content, protocol=protocol)


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, compress=(), prefix="", images=7):
    folder.mkdir(exist_ok=True)
    written = {}
    for seed, part in enumerate(("train", "t10k")):
        pixels, labels = written[part] = images_and_labels(images, 10, shape=(9, 8), seed=seed)
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels.astype(np.uint8))):
            file = f"{prefix}{part}-{name}-ubyte"
            if name[:6] in compress:
                (folder / f"{file}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / file).write_bytes(idx(array))
    return written


@pytest.fixture
def images_folder(tmp_path):
    """Thirty gray images of 9 x 8 pixels, ten classes."""
    write_idx(tmp_path / "images", images=30)
    return tmp_path / "images"


@pytest.fixture
def tiny_run(images_folder):
    """A run of a second: 9 epochs of 4 updates with convolutions and dropout, labels reshuffled after 3 and 6."""
    return SupervisedConfig(
        data=str(images_folder),
        epochs=9,
        reshuffle_every=3,
        batch_size=8,
        encoder=ImageEncoderConfig(kind="cnn"),
        torso=TorsoConfig(kind="multi_skip", depth=1, width=16, out_features=16, norm="layer"),
        threads=1,
        checkpoint_every=2,
        keep_checkpoints=10,
    )


@pytest.fixture
def layouts():
    """The writers above, for tests that name one."""
    return sys.modules[__name__]

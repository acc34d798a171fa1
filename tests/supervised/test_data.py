"""Every layout from files written by hand, the digits against scikit-learn, and what is said of damaged files."""

import numpy as np
import pytest
import torch
from sklearn import datasets

from stablegrad.errors import UsageError
from stablegrad.supervised import DataSet, load_data
from stablegrad.supervised.formats import read_idx


def assert_holds(data, train, test, num_classes):
    assert isinstance(data, DataSet)
    assert data.num_classes == num_classes
    for images, labels, (pixels, numbers) in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        np.testing.assert_array_equal(images.numpy(), pixels)
        np.testing.assert_array_equal(labels.numpy(), numbers)


def joined(*parts):
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def test_digits_are_those_of_scikit_learn_each_once():
    data = load_data("digits")
    digits = datasets.load_digits()
    assert data.image_shape == (1, 8, 8)
    assert len(data.test_labels) == 359
    images = torch.cat([data.train_images, data.test_images]).flatten(1).numpy()
    labels = torch.cat([data.train_labels, data.test_labels]).numpy()

    def ordered(pixels, numbers):
        return sorted(map(tuple, np.column_stack([pixels, numbers]).astype(int).tolist()))

    assert ordered(images, labels) == ordered(digits.data, digits.target)
    again = load_data("digits")
    assert torch.equal(again.train_images, data.train_images)
    assert again.checksum() == data.checksum()
    assert (data.test_labels.bincount(minlength=10) > 20).all()


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_cifar10_binary(tmp_path, layouts, inside):
    folder = tmp_path / "cifar"
    if inside:
        folder.mkdir()
    written = layouts.write_cifar10_binary(folder / inside if inside else folder)
    (folder / inside / "batches.meta.txt").write_text("airplane\n")
    data = load_data(str(folder))
    train = joined(written["data_batch_1.bin"], written["data_batch_2.bin"])
    assert_holds(data, train, written["test_batch.bin"], 10)
    assert data.name == "CIFAR-10"


def test_cifar100_binary_has_the_fine_labels(tmp_path, layouts):
    written = layouts.write_cifar100_binary(tmp_path / "cifar")
    assert_holds(load_data(str(tmp_path / "cifar")), written["train.bin"], written["test.bin"], 100)


@pytest.mark.parametrize("protocol", ["Python 2", 2, 4, 5])
@pytest.mark.parametrize(("names", "label_name", "classes"), [("10", b"labels", 10), ("100", b"fine_labels", 100)])
def test_cifar_python(tmp_path, layouts, protocol, names, label_name, classes):
    files = ("data_batch_1", "data_batch_2", "test_batch") if names == "10" else ("train", "test")
    parts = []
    for seed, name in enumerate(files):
        pixels, labels = layouts.images_and_labels(5, classes, seed=seed)
        parts.append((pixels, labels))
        if protocol == "Python 2":
            content = layouts.python2_pickle(pixels, labels, label_name)
        else:
            content = layouts.python3_pickle(pixels, labels, label_name.decode(), protocol)
        (tmp_path / name).write_bytes(content)
    assert_holds(load_data(str(tmp_path)), joined(*parts[:-1]), parts[-1], classes)


def test_the_hand_written_pickle_of_python_2_is_one(layouts):
    """Our own file, so that Python's and NumPy's own way may read it."""
    import pickle

    pixels, labels = layouts.images_and_labels(3, 10)
    content = pickle.loads(layouts.python2_pickle(pixels, labels, b"labels"), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"].reshape(pixels.shape), pixels)
    assert content[b"labels"] == labels.tolist()
    assert content[b"filenames"][2] == b"image_2.png"


@pytest.mark.parametrize("compress", [(), ("images", "labels"), ("images",)])
@pytest.mark.parametrize("prefix", ["", "emnist-letters-"])
def test_idx(tmp_path, layouts, compress, prefix):
    written = layouts.write_idx(tmp_path, compress, prefix)
    train, test = ((pixels[:, None], labels) for pixels, labels in (written["train"], written["t10k"]))
    classes = int(max(train[1].max(), test[1].max())) + 1
    assert_holds(load_data(str(tmp_path)), train, test, classes)


def test_idx_with_dots_and_a_gzipped_copy_beside(tmp_path, layouts):
    written = layouts.write_idx(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    (tmp_path / "train-images.idx3-ubyte.gz").write_bytes(b"not read")
    np.testing.assert_array_equal(load_data(str(tmp_path)).train_images[:, 0].numpy(), written["train"][0])


def test_idx_of_any_dimensions(tmp_path, layouts):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    (tmp_path / "file").write_bytes(layouts.idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "file"), array)


def test_the_limit_takes_the_first(tmp_path, layouts):
    layouts.write_idx(tmp_path)
    whole, limited = load_data(str(tmp_path)), load_data(str(tmp_path), 3)
    assert torch.equal(limited.train_images, whole.train_images[:3])
    assert torch.equal(limited.train_labels, whole.train_labels[:3])
    assert torch.equal(limited.test_images, whole.test_images)
    assert limited.num_classes == whole.num_classes
    assert limited.checksum() != whole.checksum()
    for limit in (8, 0):
        with pytest.raises(UsageError, match="data-limit must be from 1 to 7"):
            load_data(str(tmp_path), limit)


def test_the_checksum_sees_pixels_and_labels():
    data = load_data("digits", 10)
    for name in ("train_images", "train_labels"):
        tensor = getattr(data, name)
        before = data.checksum()
        tensor[0] += 1
        assert data.checksum() != before


def cut(name, by):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-by])


def overwrite(name, place, value):
    def change(folder):
        content = bytearray((folder / name).read_bytes())
        content[place] = value
        (folder / name).write_bytes(bytes(content))

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("write_cifar10_binary", cut("data_batch_2.bin", 5), "data_batch_2.bin' is truncated or no CIFAR file: 18,433"),
        ("write_cifar10_binary", cut("test_batch.bin", 6 * 3073), "test_batch.bin' is truncated .* 0 bytes"),
        ("write_cifar10_binary", overwrite("data_batch_1.bin", 0, 10), "labels should be from 0 to 9, found . to 10"),
        ("write_cifar10_binary", remove("test_batch.bin"), "lacks test_batch.bin"),
        ("write_cifar10_binary", remove("data_batch_1.bin"), "lacks data_batch_1.bin"),
        ("write_cifar100_binary", cut("train.bin", 1), "train.bin' is truncated"),
        ("write_cifar100_binary", overwrite("test.bin", 1, 100), "labels should be from 0 to 99, found \\d+ to 100"),
        ("write_cifar100_binary", remove("test.bin"), "lacks test.bin"),
        ("write_idx", cut("train-images-idx3-ubyte", 1), "its head promises 504 bytes, it holds 503"),
        ("write_idx", cut("t10k-labels-idx1-ubyte", 20 - 5), "no IDX file of unsigned bytes"),
        ("write_idx", overwrite("train-labels-idx1-ubyte", 2, 0x0D), "no IDX file of unsigned bytes"),
        ("write_idx", remove("t10k-labels-idx1-ubyte"), "lacks t10k-labels-idx1-ubyte or test-labels-idx1-ubyte"),
        ("write_idx", remove("train-labels-idx1-ubyte"), "lacks train-labels-idx1-ubyte"),
    ],
)
def test_damaged_data_are_one_line_that_names_the_file(tmp_path, layouts, layout, change, message):
    folder = tmp_path / "data"
    getattr(layouts, layout)(folder)
    load_data(str(folder))
    change(folder)
    with pytest.raises(UsageError, match=message) as caught:
        load_data(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_cut_gzip_file_is_said(tmp_path, layouts):
    layouts.write_idx(tmp_path, ("images", "labels"))
    for damage in (cut("train-images-idx3-ubyte.gz", 30), overwrite("train-images-idx3-ubyte.gz", 0, 0)):
        damage(tmp_path)
        with pytest.raises(UsageError, match=r"train-images-idx3-ubyte.gz' is truncated or no gzip file"):
            load_data(str(tmp_path))


def test_images_and_labels_must_belong_together(tmp_path, layouts):
    layouts.write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(layouts.idx(np.zeros(6, np.uint8)))
    with pytest.raises(UsageError, match="7 images and 6 labels"):
        load_data(str(tmp_path))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(layouts.idx(np.zeros((7, 1), np.uint8)))
    with pytest.raises(UsageError, match=r"should hold labels, an array of 1 dimensions; found 2"):
        load_data(str(tmp_path))


def test_a_pickle_that_is_no_cifar_file_is_said(tmp_path, layouts):
    pixels, labels = layouts.images_and_labels(4, 10)
    (tmp_path / "test_batch").write_bytes(layouts.python2_pickle(pixels, labels, b"labels"))
    for content, message in (
        (layouts.python2_pickle(pixels, labels, b"lables"), "lacks 'labels'"),
        (layouts.python2_pickle(pixels[:, :1], labels, b"labels"), r"found uint8 \[4, 1024\]"),
        (layouts.python2_pickle(pixels, labels[:3], b"labels"), "4 images and 3 labels"),
        (layouts.python2_pickle(pixels, labels + 10, b"labels"), "labels should be from 0 to 9"),
        (layouts.python3_pickle(pixels.astype(float), labels, "labels", 2), "found float64"),
        (layouts.python2_pickle(pixels, labels, b"labels")[:-300], "no pickle of plain arrays"),
        (layouts.python2_pickle(pixels, labels, b"labels").replace(b"_reconstruct", b"fromfile"), "which is refused"),
    ):
        (tmp_path / "data_batch_1").write_bytes(content)
        with pytest.raises(UsageError, match=message):
            load_data(str(tmp_path))


def test_what_is_not_there_or_not_clear(tmp_path, layouts):
    with pytest.raises(UsageError, match=r"no data set '.*/nowhere': it is neither 'digits' nor a folder"):
        load_data(str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"no data set in '.*': expected CIFAR-10"):
        load_data(str(tmp_path))
    layouts.write_cifar10_binary(tmp_path / "one")
    layouts.write_cifar100_binary(tmp_path / "two")
    with pytest.raises(UsageError, match=r"more than one data set .* CIFAR-10 \(binary\) in .*one.*two.*name a folder"):
        load_data(str(tmp_path))
    layouts.write_idx(tmp_path / "three")
    layouts.write_idx(tmp_path / "three", prefix="emnist-letters-")
    with pytest.raises(UsageError, match=r"more than one data set in .* emnist-letters-train-images-idx3-ubyte"):
        load_data(str(tmp_path / "three"))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 1), None), ((1, 2), None), ((0,), None), ((2,), "lacks data_batch_1"), ((0, 2), "lacks data_batch_1")],
)
def test_every_batch_is_read_whether_they_are_counted_from_0_or_1(tmp_path, numbers, message):
    rows = np.zeros((3, 3073), np.uint8)
    for number in numbers:
        rows[:, 0] = number
        (tmp_path / f"data_batch_{number}.bin").write_bytes(rows.tobytes())
    (tmp_path / "test_batch.bin").write_bytes(rows.tobytes())
    if message is None:
        assert load_data(str(tmp_path)).train_labels.tolist() == [number for number in numbers for _ in range(3)]
    else:
        with pytest.raises(UsageError, match=message):
            load_data(str(tmp_path))


@pytest.mark.parametrize("shape", [(), (1,) * 200, (2, 0, 28), (2**31, 2**31, 2**31)])
def test_an_idx_head_of_any_shape_is_one_line(tmp_path, shape):
    head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(head + b"x" * (1 if len(shape) == 200 else 0))
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1]))
    with pytest.raises(UsageError, match="train-images"):
        load_data(str(tmp_path))

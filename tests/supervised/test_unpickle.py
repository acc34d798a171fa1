"""What the restricted unpickler reads, and that it runs nothing."""

import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stablegrad.errors import UsageError
from stablegrad.supervised.unpickle import load_arrays

CALLS = []


def touch(*arguments):
    CALLS.append(arguments)


class Forged:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4)),
        np.arange(5, dtype=">i4"),
        np.linspace(0, 1, 6).reshape(1, 2, 3),
    ],
    ids=["C", "Fortran", "big-endian", "float"],
)
def test_arrays_are_what_numpy_reads(tmp_path, array, protocol):
    path = write(tmp_path / "file", pickle.dumps({"data": array, "labels": [3, 1, 2], "name": "x"}, protocol=protocol))
    content = load_arrays(path)
    assert sorted(content) == ["data", "labels"]
    expected = pickle.loads(path.read_bytes())["data"]
    np.testing.assert_array_equal(content["data"], expected)
    assert content["data"].dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    assert content["labels"].tolist() == [3, 1, 2]


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Forged(touch, 1), r"asks for .*touch, which is refused"),
        (Forged(eval, "touch()"), r"asks for .*eval, which is refused"),
        (Forged(np.fromfile, "/dev/zero"), "which is refused"),
        (np.array([touch], dtype=object), "an array of object"),
        (np.zeros(2, dtype=[("a", "u1"), ("b", "O")]), "an array of "),
        (np.uint8(3), "which is refused"),
        (Path("x"), "which is refused"),
    ],
    ids=["function", "eval", "numpy-function", "objects", "records", "scalar", "path"],
)
def test_everything_else_is_refused_in_one_line(tmp_path, value, message, protocol):
    path = write(tmp_path / "file", pickle.dumps({"data": value}, protocol=protocol))
    CALLS.clear()
    with pytest.raises(UsageError, match=message) as caught:
        load_arrays(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert CALLS == []


def test_numpys_own_constructors_are_not_called(tmp_path):
    """The object at the address 0x3837363534333231 would be looked up, and the process be gone."""
    forged = b"\x80\x03}U\x04datacnumpy\nndarray\n(K\x01U\x01OC\x0812345678tRs."
    with pytest.raises(UsageError, match="no pickle of plain arrays"):
        load_arrays(write(tmp_path / "file", forged))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\x80\x02]q\x00.",
        pickle.dumps({"data": np.arange(3)})[:-20],
        b"\x80\x02}U\x04datacnumpy\nndarray\n}U\x01aK\x01sbs.",
        b"\x80\x02}U\x04dataPid\ns.",
        b"\x80\x02}U\x04data\x82\x01s.",
    ],
    ids=["empty", "text", "list", "cut", "class-state", "persistent", "extension"],
)
def test_what_is_no_such_pickle_is_said(tmp_path, content):
    with pytest.raises(UsageError, match=r"'.*file' is no pickle of plain arrays: .+"):
        load_arrays(write(tmp_path / "file", content))


def test_no_state_reaches_a_class(tmp_path):
    from stablegrad.supervised import unpickle

    before = {name: dict(vars(kind)) for name, kind in unpickle.STANDINS.items()}
    with pytest.raises(UsageError):
        load_arrays(write(tmp_path / "file", b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb."))
    assert before == {name: dict(vars(kind)) for name, kind in unpickle.STANDINS.items()}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    protocol=st.sampled_from([2, 5]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    keep=st.floats(0.3, 1),
)
def test_damaged_files_give_arrays_or_one_line(tmp_path, protocol, edits, keep):
    content = bytearray(pickle.dumps({"data": np.arange(12, dtype=np.uint8), "labels": [1, 2]}, protocol=protocol))
    for place, value in edits:
        content[int(place * len(content))] = value
    path = write(tmp_path / "file", bytes(content[: int(keep * len(content)) + 1]))
    try:
        assert all(isinstance(value, np.ndarray) for value in load_arrays(path).values())
    except UsageError as error:
        assert str(error).startswith(f"'{path}' is no pickle of plain arrays: ")


def test_a_forged_memo_index_takes_no_memory(tmp_path):
    """pickle's machine in C makes a table as long as the index, here of 64 GB."""
    forged = b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."
    assert [opcode.name for opcode, *_ in pickletools.genops(forged)] == ["PROTO", "EMPTY_DICT", "LONG_BINPUT", "STOP"]
    assert load_arrays(write(tmp_path / "file", forged)) == {}

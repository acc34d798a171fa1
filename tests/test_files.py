import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.errors import StablegradError
from stablegrad.files import parse_json, read_json, read_text, write_atomically, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def without_nan(value):
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(JSON)
def test_json_is_read_as_it_was_written_but_for_numbers_that_are_none(value):
    assert parse_json(json.dumps(value)) == without_nan(value)


def test_numbers_beyond_a_float_are_none():
    assert parse_json("[1e999, -1e999, 1" + "0" * 400 + ", 12]") == [None, None, None, 12]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, mark):
    (tmp_path / "t").write_bytes(mark + "設定 = 1\n".encode())
    assert read_text(tmp_path / "t") == "設定 = 1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ('{\n"a": "設"}'.encode("shift-jis"), "line 2 is not UTF-8"),
        (b"[1]", "should hold a JSON object, found list"),
        (b"null", "should hold a JSON object, found NoneType"),
        (b'{"a": ', "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (None, "cannot be read as JSON: Is a directory"),
    ],
)
def test_other_bytes_are_one_line(tmp_path, content, message):
    path = tmp_path / "f.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(StablegradError, match=message) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_what_is_written_can_be_read_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    write_json(path, {"new": [1, None, "ü"]})
    assert read_json(path) == {"new": [1, None, "ü"]}
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "value.txt"
    write_atomically(path, "old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, math.nan)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_usual_permissions(tmp_path):
    write_atomically(tmp_path / "atomic", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode

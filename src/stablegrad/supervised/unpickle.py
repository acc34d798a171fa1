"""Arrays and builtin containers out of a pickle, and nothing else: no file that is read here can run code.

CIFAR's "Python version" is pickles. A pickle may name any function of any module and have it called; here the few names
that NumPy's own pickles use stand for the small classes below, which build an array out of bytes, and every other name
is an error. NumPy's own constructors are not called at all: with arguments out of a forged file they read memory that
is not theirs (``numpy.ndarray(1, object, b"12345678")`` crashes).
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from stablegrad.errors import UsageError

#: Kinds of plain numbers: boolean, signed, unsigned, float.
NUMBERS = "biuf"


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays and lists of integers in a pickled dictionary, by name; what else it holds is left out.

    Raises:
        UsageError: the file is cut, is no dictionary, or asks for anything but arrays; the message names it.
    """
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__} instead of a dictionary")
        values = {_text(key): _as_array(value) for key, value in content.items()}
    except Exception as error:  # a damaged pickle makes the machine raise whatever its opcodes run into
        raise UsageError(f"'{path}' is no pickle of plain arrays: {str(error) or type(error).__name__}") from error
    return {name: value for name, value in values.items() if value is not None}


class _Standin:
    """What a name in the pickle stands for. ``__setstate__`` is there so that no state is ever put on a class."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state where there is none")


class _ArrayType(_Standin):
    """``numpy.ndarray``, which NumPy's pickles only name."""


class _DType(_Standin):
    """``numpy.dtype(code, align, copy)``, then (version, byte order, ...) as its state."""

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = False):
        self.dtype = np.dtype(code.decode("ascii") if isinstance(code, bytes) else str(code))
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"an array of {self.dtype} instead of numbers")

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array(_Standin):
    """``_reconstruct(ndarray, (0,), "b")``, then (version, shape, dtype, is_fortran, bytes) as its state."""

    def __init__(self, kind: Any, shape: Any, code: Any):
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


class _BufferArray(_Array):
    """``_frombuffer(bytes, dtype, shape, order)``, as NumPy pickles with protocol 5."""

    def __init__(self, data: Any, dtype: Any, shape: Any, order: Any):
        self.array = _array(data, dtype, shape, "F" if order in ("F", b"F") else "C")


class _Bytes(_Standin):
    """``_codecs.encode(text, "latin1")``: bytes, as Python 3 pickles them with protocol 2."""

    def __init__(self, text: str | bytes, encoding: str | bytes):
        if encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
        self.data = text.encode("latin1") if isinstance(text, str) else text


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    data = data.data if isinstance(data, _Bytes) else data
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _DType):
        raise pickle.UnpicklingError("an array without its bytes or its dtype")
    return np.frombuffer(bytes(data), dtype.dtype).reshape(tuple(map(int, shape)), order=order)


#: All names that NumPy's pickles of plain arrays use, before and since NumPy 2.
STANDINS: dict[str, type[_Standin]] = {
    "numpy.ndarray": _ArrayType,
    "numpy.dtype": _DType,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _BufferArray,
    "numpy._core.numeric._frombuffer": _BufferArray,
    "_codecs.encode": _Bytes,
}


class _ArrayUnpickler(pickle._Unpickler):
    """Knows the names of ``STANDINS``, and refuses every other.

    The machine is the standard library's in Python: the one in C takes whatever memory a forged memo index asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in STANDINS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return STANDINS[f"{module}.{name}"]


def _text(key: Any) -> str:
    """A dictionary's key; Python 2 wrote bytes."""
    key = key.data if isinstance(key, _Bytes) else key
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _as_array(value: Any) -> np.ndarray | None:
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, list) and all(type(item) is int for item in value):
        return np.array(value, dtype=np.int64)
    return None

"""Numbers, durations and sizes in words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.text import duration, memory, number, percent, power


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (3, "3"), (-248.4, "-248"), (1234567.0, "1,234,567"), (12.345, "12.3"), (1.5, "1.50"),
        (0.2, "0.20"), (0.0123, "0.012"), (1e-9, "1e-09"), (99.99, "100.0"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


@given(st.floats(-1e15, 1e15))
def test_a_number_can_be_read_back(value):
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.05)
    assert number(-value, signed=True) == ("0" if value == 0 else ("+" if value < 0 else "-") + number(abs(value)))


def test_what_is_missing_is_a_dash():
    assert number(None) == percent(None) == duration(None) == memory(None) == "–"


def test_units():
    assert number(3.0, signed=True) == "+3"
    assert percent(0.256) == "26%" and percent(0.256, 1) == "25.6%"
    assert power(-12) == "10⁻¹²"
    assert duration(45.04) == "45.0 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7500) == "2 h 5 min"
    assert memory(512 * 2**20) == "512 MiB"
    assert memory(3 * 2**30) == "3.00 GiB"

"""Verdicts while a history grows: at once at first, and in total not more than in proportion to its length."""

from hypothesis import given
from hypothesis import strategies as st

from stablegrad.diagnostics.cadence import FIRST_ROWS, GROWTH, is_due, last_due


def test_the_first_rows_are_all_judged():
    assert [rows for rows in range(FIRST_ROWS + 1) if is_due(rows)] == list(range(1, FIRST_ROWS + 1))


@given(st.integers(1, 20_000))
def test_a_verdict_is_never_older_than_the_growth(rows):
    last = last_due(rows)
    assert is_due(last) and last <= rows < max(last * GROWTH + 1, FIRST_ROWS + 1)
    assert last == max(n for n in range(rows, max(rows - 2000, 0), -1) if is_due(n))


def test_the_work_of_all_verdicts_grows_in_proportion_to_the_rows():
    def work(rows):
        return sum(n for n in range(1, rows + 1) if is_due(n))

    assert work(1000) < 25 * 1000 and work(10_000) < 25 * 10_000

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.errors import UsageError
from stablegrad.reports.currencies import CODES, NAMES, SIGNS, currency_code


@given(st.sampled_from(sorted(CODES)), st.booleans(), st.sampled_from(["", " "]))
def test_codes_in_any_letters(code, lower, space):
    assert currency_code((code.lower() if lower else code) + space) == code


@pytest.mark.parametrize(("sign", "code"), [("€", "EUR"), ("£", "GBP"), ("$", "USD"), ("¥", "JPY"), ("円", "JPY")])
def test_signs(sign, code):
    assert currency_code(sign) == code


@pytest.mark.parametrize(("text", "nearest"), [("yen", "JPY"), ("Euros", "EUR"), ("EURO", "EUR"), ("USDT", "USD")])
def test_others_are_refused_with_the_nearest(text, nearest):
    with pytest.raises(UsageError, match=f"unknown currency '{text}'; did you mean '{nearest}'?"):
        currency_code(text)


@given(st.text(max_size=5))
def test_nothing_else_is_taken(text):
    try:
        assert currency_code(text) in CODES
    except UsageError as error:
        assert re.match("unknown currency", str(error))


def test_the_tables_lead_to_codes():
    assert {*NAMES.values(), *SIGNS.values()} <= CODES
    assert all(re.fullmatch("[A-Z]{3}", code) for code in CODES)

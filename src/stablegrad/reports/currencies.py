"""Currencies by their ISO 4217 codes."""

from __future__ import annotations

import re

from stablegrad.errors import UsageError, unknown_name

#: Active codes of national currencies (ISO 4217, list one).
CODES = frozenset(
    re.findall(
        "[A-Z]{3}",
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
        "CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL "
        "HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD "
        "MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG "
        "QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD "
        "TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG ",
    )
)
#: Signs that stand for one currency alone, and the two that are shared but mostly mean one.
SIGNS = {"€": "EUR", "£": "GBP", "$": "USD", "US$": "USD", "¥": "JPY", "円": "JPY", "₩": "KRW", "₹": "INR", "元": "CNY"}
#: What people call the common ones.
NAMES = {
    "dollar": "USD",
    "dollars": "USD",
    "euro": "EUR",
    "euros": "EUR",
    "franc": "CHF",
    "pound": "GBP",
    "pounds": "GBP",
    "renminbi": "CNY",
    "rmb": "CNY",
    "rupee": "INR",
    "won": "KRW",
    "yen": "JPY",
    "yuan": "CNY",
}


def currency_code(text: str) -> str:
    """The ISO 4217 code of a code in any letters or of a sign.

    Raises:
        UsageError: no such code; names the nearest one.
    """
    code = SIGNS.get(text.strip(), text.strip().upper())
    if code in CODES:
        return code
    meant = NAMES.get(text.strip().lower())
    if meant is None:
        error = unknown_name("currency", text, CODES)
        raise UsageError(f"{error} (expected an ISO 4217 code, such as USD, EUR or JPY)")
    raise UsageError(f"unknown currency {text!r}; did you mean {meant!r}? (expected an ISO 4217 code)")

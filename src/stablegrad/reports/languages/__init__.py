"""The texts of the page for those who decide, one catalogue a language, and how numbers are written in each.

A catalogue is a JSON file of texts by key, the same keys in every language; ``{name}`` is where a value goes.
"""

from __future__ import annotations

import json
from importlib.resources import files

from markupsafe import Markup, escape

from stablegrad.errors import unknown_name
from stablegrad.text import number

LANGUAGES = ("en", "ja")

#: Where large counts get a unit: (from which value on, its key, what it counts), the largest first. Japanese counts in
#: ten thousands.
LARGE = {
    "en": ((1e6, "unit.large", 1e6), (1e4, "unit.middle", 1e3)),
    "ja": ((1e8, "unit.large", 1e8), (1e4, "unit.middle", 1e4)),
}
#: Currencies without a smaller coin.
WHOLE = {"JPY", "KRW", "円"}


class Words:
    """One language: texts by key, and numbers as its readers expect them."""

    def __init__(self, language: str):
        if language not in LANGUAGES:
            raise unknown_name("language", language, LANGUAGES)
        self.language = language
        text = files("stablegrad.reports.languages").joinpath(f"{language}.json").read_text(encoding="utf-8")
        self.texts: dict[str, str] = json.loads(text)

    def __call__(self, key: str, **values: object) -> Markup:
        """The text of a key with its values; what is not markup already is escaped."""
        return Markup(escape(self.texts[key])).format(**values)

    def has(self, key: str) -> bool:
        """Whether there is such a text."""
        return key in self.texts

    def count(self, value: float, *, short: bool = False) -> str:
        """A count: exact while it is small, then in thousands or millions (Japanese: ten thousands)."""
        for bound, key, unit in LARGE[self.language]:
            if abs(value) >= bound:
                amount = value / unit
                digits = f"{amount:,.0f}" if amount >= 100 else f"{amount:.2g}" if short else f"{amount:.3g}"
                return str(self(f"{key}_short" if short else key, value=digits))
        return f"{value:,.0f}"

    def duration(self, seconds: float) -> str:
        """Seconds in the two largest units that fit."""
        if seconds < 60:
            return str(self("unit.second", value=number(seconds)))
        minutes, rest = divmod(round(seconds), 60)
        hours, left = divmod(minutes, 60)
        if hours:
            return str(self("unit.hours", hours=f"{hours:,}", minutes=left))
        return str(self("unit.minutes", minutes=minutes, seconds=rest))

    def money(self, amount: float, currency: str) -> str:
        """An amount in whole units where the currency has no smaller ones; below a hundredth to two digits."""
        if currency in WHOLE:
            value = f"{amount:,.0f}" if amount >= 1 else f"{amount:.2g}"
        else:
            value = f"{amount:,.2f}" if amount >= 0.01 or amount == 0 else f"{amount:.1g}"
        own = f"unit.money.{currency}"
        return str(self(own if self.has(own) else "unit.money", value=value, currency=currency))

    def join(self, items: list[str]) -> Markup:
        """A list in one line."""
        return self("list.separator").join(items)

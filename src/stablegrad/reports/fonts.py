"""The letters of pictures: names of users are text in any language, not formulas."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from matplotlib import font_manager

LOG = logging.getLogger(__name__)
#: Fonts with letters that matplotlib's own lacks, taken where they are installed.
FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "TakaoPGothic", "VL PGothic"),
    *("Hiragino Sans", "Yu Gothic", "Meiryo", "MS Gothic", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Noto Sans", "Noto Sans Symbols 2", "Noto Emoji", "Segoe UI Emoji", "Segoe UI Symbol"),
)
MISSING = re.compile(r"Glyph (\d+) .* missing from")


@lru_cache
def families() -> list[str]:
    """Font families in the order in which a letter is looked for."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]


@contextmanager
def watched_letters() -> Iterator[set[str]]:
    """Collect the letters that no font has while pictures are drawn, instead of a Python warning for each."""
    missing: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield missing
    for warning in caught:
        found = MISSING.match(str(warning.message))
        if found:
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def tell(missing: set[str]) -> None:
    """Say once what pictures lack."""
    if missing:
        letters = "".join(sorted(missing)[:20])
        LOG.warning(
            "no installed font has %s: PNG pictures show boxes there, the page and SVG pictures do not; "
            "install a font that has them, such as Noto Sans CJK",
            letters,
        )


def text_style() -> Any:
    """Settings of matplotlib under which text is text."""
    return {"font.family": families(), "text.parse_math": False}

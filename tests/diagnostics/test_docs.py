"""The page about the diagnosis names every rule, and every threshold with its default."""

import re
from dataclasses import fields
from pathlib import Path

from stablegrad.diagnostics import RULES, Thresholds
from stablegrad.diagnostics.rules import BESIDE

PAGE = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text()


def test_rules_and_thresholds():
    assert [name for name in (*RULES, *BESIDE) if f"| `{name}` |" not in PAGE] == []
    for field in fields(Thresholds):
        shown = re.findall(rf"`{field.name}` (?:is|=) ?([0-9][0-9.e+-]*)|`{field.name}` ([0-9][0-9.e+-]*)", PAGE)
        assert [float(a or b) for a, b in shown] == [getattr(Thresholds(), field.name)], field.name

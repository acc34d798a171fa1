"""The page about the diagnosis names every rule, and every threshold with its default."""

import re
from dataclasses import fields
from pathlib import Path

from stablegrad.diagnostics import RULES, Thresholds
from stablegrad.diagnostics.rules import OUTCOME_RULES
from stablegrad.diagnostics.rules.beside import learns_less

PAGE = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text()
RULES_OF_PAGE = PAGE.partition("## Rules")[2]


def test_rules_and_thresholds():
    assert [name for name in (*RULES, "learns_less", *OUTCOME_RULES) if f"| `{name}` |" not in PAGE] == []
    table = PAGE.partition("<!-- rules -->")[2].partition("<!-- /rules -->")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(RULES)
    for field in fields(Thresholds):
        shown = re.findall(rf"`{field.name}` (?:is|=) ?([0-9][0-9.e+-]*)|`{field.name}` ([0-9][0-9.e+-]*)", PAGE)
        assert [float(a or b) for a, b in shown] == [getattr(Thresholds(), field.name)], field.name


def test_every_rule_has_a_source_or_a_measurement_and_the_page_shows_it():
    for name, rule in {**RULES, "learns_less": learns_less}.items():
        (row,) = (line for line in RULES_OF_PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        papers = re.findall(r"arXiv\s+([0-9.]+[0-9])", rule.__doc__)
        measured = re.search(r"Tuned\s+on\s+(``make bench-drawn``|tests/diagnostics/test_beside.py)", rule.__doc__)
        assert measured, f"{name} does not say by what it was set"
        shown = row.rstrip(" |").rpartition(" | ")[2]
        assert shown and (not papers or any(paper in shown for paper in papers)), row

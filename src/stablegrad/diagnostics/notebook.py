"""A report as a notebook shows it: a small piece of HTML, for light and dark pages, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.rules import Finding
from stablegrad.diagnostics.verdicts import COLOURS, MARKS, MEANINGS

#: Findings that are shown; the others are counted.
MAX_FINDINGS = 5
#: Characters of a text that are shown.
MAX_TEXT = 500
_SOFT = "opacity:.75"
_CODE = "background:rgba(128,128,128,.12);padding:.5em;overflow-x:auto;white-space:pre;text-align:left"


def report_html(
    verdict: str,
    findings: Sequence[Finding],
    doubts: Sequence[str],
    prescriptions: Sequence[Prescription],
    stack: str = "torch",
) -> str:
    """The verdict, the worst findings, and the first prescription with its code for ``stack``; all text is escaped.

    Colours of text and page stay those of the notebook.
    """
    badge = (
        f'<b style="background:{COLOURS[verdict]};color:#fff;border-radius:4px;padding:.1em .5em">'
        f"{MARKS[verdict]} {escape(verdict)}</b>"
    )
    parts = [f"<p>{badge} {escape(MEANINGS[verdict])}</p>"]
    if findings:
        parts.append(f"<ul>{''.join(_item(finding) for finding in findings[:MAX_FINDINGS])}</ul>")
    if (rest := len(findings) - MAX_FINDINGS) > 0:
        parts.append(f'<p style="{_SOFT}">{rest:,} more in <code>report.findings</code>.</p>')
    parts += [f'<p style="{_SOFT}">{_text(doubt)}</p>' for doubt in doubts]
    if prescriptions:
        first = prescriptions[0]
        code = first.code.get(stack, first.code.get("torch", "")).strip()
        parts.append(f"<p>Try first: <b>{_text(first.title)}</b>. {_text(first.why)}</p>")
        parts += [f'<pre style="{_CODE}"><code>{escape(code)}</code></pre>'] if code else []
    parts.append(
        f'<p style="{_SOFT}"><code>print(report)</code> tells more, '
        '<code>report.save_html("report.html")</code> draws what was measured.</p>'
    )
    return f'<div style="max-width:60em">{"".join(parts)}</div>'


def _item(finding: Finding) -> str:
    mark = f'<span style="color:{COLOURS[finding.level]}">{MARKS[finding.level]}</span>'
    return (
        f"<li>{mark} {escape(finding.level)}: {_text(finding.reason)} "
        f'<span style="{_SOFT}">({_text(finding.rule)}, since step {finding.since:,})</span></li>'
    )


def _text(text: str) -> str:
    return escape(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…")

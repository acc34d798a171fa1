"""What a verdict means, and how it looks on a page and in a notebook."""

from __future__ import annotations

from stablegrad.diagnostics.rules import TOO_EARLY

MARKS = {"healthy": "✓", "at risk": "!", "collapsing": "▼", "collapsed": "✕", TOO_EARLY: "…"}
#: White text can be read on each, and each can be told from light and from dark paper.
COLOURS = {
    "healthy": "#1a7f37",
    "at risk": "#9a6700",
    "collapsing": "#bc4c00",
    "collapsed": "#cf222e",
    TOO_EARLY: "#6e7781",
}
MEANINGS = {
    "healthy": "No rule found anything wrong with this network.",
    "at risk": "This network still learns, but shows what often comes before trouble.",
    "collapsing": "This network is losing its ability to learn.",
    "collapsed": "Part of this network no longer learns at all.",
    TOO_EARLY: "It is too early to tell whether this network is healthy.",
}

"""Runs in, figures and self-contained HTML pages out."""

from stablegrad.reports.comparison_page import write_comparison_report
from stablegrad.reports.figures import write_figures
from stablegrad.reports.run_page import write_run_report
from stablegrad.reports.study_page import write_study_report
from stablegrad.reports.summary_page import write_summary_page

__all__ = [
    "write_comparison_report",
    "write_figures",
    "write_run_report",
    "write_study_report",
    "write_summary_page",
]

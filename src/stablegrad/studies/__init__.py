"""Many runs: paired comparison and the statistics of a few seeds."""

from stablegrad.studies import statistics
from stablegrad.studies.comparison import Comparison, RunRecord
from stablegrad.studies.execution import ComparisonResult, RunProgress, run_comparison
from stablegrad.studies.processes import default_workers
from stablegrad.studies.summary import summarize
from stablegrad.studies.wording import comparison_rows, verdict

__all__ = [
    "Comparison",
    "ComparisonResult",
    "RunProgress",
    "RunRecord",
    "comparison_rows",
    "default_workers",
    "run_comparison",
    "statistics",
    "summarize",
    "verdict",
]

"""Many runs: grids from a file, paired comparison, and the statistics of a few seeds."""

from stablegrad.studies import statistics
from stablegrad.studies.comparison import Comparison, RunRecord
from stablegrad.studies.execution import ComparisonResult, RunProgress, run_comparison
from stablegrad.studies.processes import default_workers
from stablegrad.studies.runner import StudyProgress, run_study, summarize_study
from stablegrad.studies.study import Study, read_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.summary import summarize
from stablegrad.studies.wording import comparison_rows, verdict

__all__ = [
    "Comparison",
    "ComparisonResult",
    "RunProgress",
    "RunRecord",
    "Study",
    "StudyFolder",
    "StudyProgress",
    "comparison_rows",
    "default_workers",
    "read_study",
    "run_comparison",
    "run_study",
    "statistics",
    "summarize",
    "summarize_study",
    "verdict",
]

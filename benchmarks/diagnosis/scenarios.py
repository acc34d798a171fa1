"""All drawn trainings: healthy ones, and failures, each beside a healthy twin of the same task.

A healthy one must reach its goal. A failure must keep at most ``KEPT`` of its twin's score at the end; what it was that
went wrong is its kind. Scenarios that do not meet this are invalid, and the benchmark says so.
"""

from benchmarks.diagnosis import drawn
from benchmarks.diagnosis.register import KEPT, PARTS, SCENARIOS, Scenario

__all__ = ["KEPT", "PARTS", "SCENARIOS", "Scenario", "drawn"]

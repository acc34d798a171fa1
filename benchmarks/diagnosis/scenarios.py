"""All trainings: healthy ones, many of which look ill, and failures, each beside a healthy twin of the same task.

A healthy one must reach its goal. A failure must keep at most ``KEPT`` of its twin's score at the end; what it was that
went wrong is its kind. Scenarios that do not meet this are invalid, and the benchmark says so.
"""

from benchmarks.diagnosis import drawn, formerly_held_out, held_out, lately_held_out, tuning
from benchmarks.diagnosis.register import KEPT, PARTS, SCENARIOS, Scenario

__all__ = [
    "KEPT",
    "PARTS",
    "SCENARIOS",
    "Scenario",
    "drawn",
    "formerly_held_out",
    "held_out",
    "lately_held_out",
    "tuning",
]

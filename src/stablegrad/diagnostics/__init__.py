"""Diagnosis: watch a network in training, say what is wrong with it, and what to do about it."""

from stablegrad.diagnostics import metrics
from stablegrad.diagnostics.history import History, Series
from stablegrad.diagnostics.monitor import Monitor
from stablegrad.diagnostics.preflight import diagnose
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.report import Report
from stablegrad.diagnostics.rules import LEVELS, RULES, Finding, Thresholds, judge
from stablegrad.diagnostics.trial import Trial, verify, verify_training

__all__ = [
    "LEVELS",
    "RULES",
    "Finding",
    "History",
    "Monitor",
    "Prescription",
    "Report",
    "Series",
    "Thresholds",
    "Trial",
    "diagnose",
    "judge",
    "metrics",
    "verify",
    "verify_training",
]

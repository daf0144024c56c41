"""Findings: how bad, what is wrong, and what to do."""

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check."""

    mark: Mark
    what: str
    advice: str = ""


def ok(what: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(Mark.OK, what)


def warning(what: str, advice: str) -> Finding:
    """Return a finding about something that works, but should be changed."""
    return Finding(Mark.WARNING, what, advice)


def problem(what: str, advice: str) -> Finding:
    """Return a finding about something that stops the registry, or soon will."""
    return Finding(Mark.PROBLEM, what, advice)

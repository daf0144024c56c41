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
    """One line of what a check tells."""

    mark: Mark
    what: str
    advice: str = ""


def ok(what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Mark.OK, what)


def warning(what: str, advice: str) -> Finding:
    """Return what works, but is not as it should be."""
    return Finding(Mark.WARNING, what, advice)


def problem(what: str, advice: str) -> Finding:
    """Return what keeps the registry from its work, or soon will."""
    return Finding(Mark.PROBLEM, what, advice)

"""Prints findings: a table for people, JSON for programs."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.ops.doctor.findings import Mark
from app.ops.doctor.run import AreaFinding

#: In a pipe, each finding stays on one line.
WIDTH_WITHOUT_TERMINAL = 1_000

_STYLES = {Mark.OK: "green", Mark.WARNING: "yellow", Mark.PROBLEM: "bold red"}


def print_findings(told: Sequence[AreaFinding]) -> None:
    """Print the table, and below it the number of bad findings."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=WIDTH_WITHOUT_TERMINAL)
    console.print(_table(told))
    problems, warnings = (_count(told, mark) for mark in (Mark.PROBLEM, Mark.WARNING))
    console.print(f"problems: {problems}, warnings: {warnings}")


def _table(told: Sequence[AreaFinding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("mark", "area"):
        table.add_column(heading, no_wrap=True)
    for heading in ("found", "what to do"):
        table.add_column(heading, overflow="fold")
    for area, finding in told:
        mark = Text(finding.mark, style=_STYLES[finding.mark])
        table.add_row(mark, Text(area), Text(finding.what), Text(finding.advice))
    return table


def as_json(told: Sequence[AreaFinding]) -> dict[str, Any]:
    """Return the findings as JSON members."""
    return {
        "problems": _count(told, Mark.PROBLEM),
        "warnings": _count(told, Mark.WARNING),
        "findings": [
            {"area": area, "mark": each.mark, "what": each.what, "advice": each.advice or None}
            for area, each in told
        ],
    }


def _count(told: Sequence[AreaFinding], mark: Mark) -> int:
    return sum(finding.mark is mark for _, finding in told)

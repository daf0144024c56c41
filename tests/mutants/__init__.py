"""Mutants: the product, broken in one place at a time, and the tests that must find it.

The tables (``*.toml``) say what each mutant breaks, in which file, the text before and after, and
which tests must fail then. `python -m tests.mutants` tries them, each in a copy of the project.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TABLES = sorted(Path(__file__).parent.glob("*.toml"))


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to break the product."""

    name: str
    breaks: str
    file: str
    old: str
    new: str
    #: Below ``tests``, as pytest names them.
    found_by: tuple[str, ...]

    @property
    def tests(self) -> list[str]:
        """The tests that must find it, as pytest is given them."""
        return [f"tests/{name}" for name in self.found_by]

    def occurrences(self, project: Path = PROJECT) -> int:
        """Return how often the text that it replaces is there: it must be once."""
        return (project / self.file).read_text().count(self.old)

    def applied(self, code: str) -> str:
        """Return a file's code with the fault in it."""
        return code.replace(self.old, self.new)


def read(table: Path) -> list[Mutant]:
    """Return the mutants of a table."""
    rows = tomllib.loads(table.read_text())["mutant"]
    return [Mutant(**{**row, "found_by": tuple(row["found_by"])}) for row in rows]


def title(table: Path) -> str:
    """Return what a table is about: its first line."""
    return table.read_text().partition("\n")[0].removeprefix("# ")


def all_mutants() -> list[Mutant]:
    """Return the mutants of all tables."""
    return [mutant for table in TABLES for mutant in read(table)]


def as_page() -> str:
    """Return the tables as Markdown."""
    parts = []
    for table in TABLES:
        rows = (f"| {each.breaks} | {_tests(each)} |" for each in read(table))
        lines = [f"## {title(table)}", "", "| what is broken | who sees it |", "| --- | --- |"]
        parts.append("\n".join([*lines, *rows, ""]))
    return "\n".join(parts)


def _tests(mutant: Mutant) -> str:
    return ", ".join(f"`{Path(name).name}`" for name in mutant.found_by)

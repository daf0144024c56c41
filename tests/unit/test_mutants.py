"""The tables of mutants: what they name is there; and the runner tells what becomes of one."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import orjson
import pytest

from tests.mutants import PROJECT, Mutant, all_mutants, as_page
from tests.mutants import run as running
from tests.mutants.run import Verdict, attempt, copied, encode

MUTANTS = all_mutants()
#: Its test needs little time.
QUICK = next(mutant for mutant in MUTANTS if mutant.name == "lease-without-end")


@cache
def names_in(file: Path) -> set[str]:
    """Return the names of the tests in a file."""
    found = ast.walk(ast.parse(file.read_text()))
    return {each.name for each in found if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_replaces_is_there_once_and_its_tests_exist(mutant: Mutant) -> None:
    assert mutant.occurrences() == 1
    assert mutant.new != mutant.old
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name in names_in(PROJECT / file)


def test_the_page_says_what_the_tables_say() -> None:
    """`python -m tests.mutants --page` writes it."""
    _, begin, page = (PROJECT / "docs" / "explanation" / "mutants.md").read_text().partition("## ")
    assert begin + page == as_page()


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    """Yield a copy of the project."""
    with copied() as folder:
        yield folder


def test_a_mutant_is_found_by_the_test_that_it_names(copy: Path) -> None:
    result = attempt(copy, QUICK)
    assert (result.verdict, result.seen_by) == (Verdict.FOUND, list(QUICK.found_by))
    assert result.verdict.is_good
    assert (copy / QUICK.file).read_text() == (PROJECT / QUICK.file).read_text()
    (row,) = orjson.loads(encode([result]))
    assert (row["name"], row["verdict"], row["seen_by"]) == (QUICK.name, "found", result.seen_by)


def test_what_no_test_sees_is_told(copy: Path) -> None:
    result = attempt(copy, replace(QUICK, new=f"{QUICK.old}  # nothing is broken"))
    assert (result.verdict, result.seen_by) == (Verdict.SURVIVED, [])
    assert not result.verdict.is_good


@pytest.mark.parametrize("status", [2, 3, 4, 5])
def test_a_mutant_under_which_no_test_can_run_is_none(status: int) -> None:
    """Nothing is learnt from it: it does not even import."""
    assert running._verdict(status, is_seen=False) is Verdict.NO_MUTANT
    assert not Verdict.NO_MUTANT.is_good


def test_what_does_not_end_is_ended(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LIMIT_SECONDS", 0.1)
    result = attempt(copy, QUICK)
    assert (result.verdict, result.verdict.is_good) == (Verdict.HANGS, True)

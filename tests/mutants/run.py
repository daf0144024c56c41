"""Trying mutants: each in a copy of the project, by the tests that must find it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from tests.mutants import PROJECT, Mutant

#: How long the tests of one mutant may take, on a busy machine; what hangs is found, too.
LIMIT_SECONDS = 300.0
#: How long all tests may take on the project as it is.
SOUND_LIMIT_SECONDS = 1_800.0
#: How long tests that are interrupted may take to end what they have started.
GRACE_SECONDS = 20.0

_LEFT_OUT = shutil.ignore_patterns(".*", "node_modules", "*.egg-info", "data")
_PASSED, _FAILED = 0, 1
_FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) tests/([^\s\[]+)", re.MULTILINE)


class Verdict(StrEnum):
    """What became of a mutant."""

    #: By every test that is named for it.
    FOUND = "found"
    #: A test did not end. That is seen as well, though late.
    HANGS = "hangs"
    SURVIVED = "SURVIVED"
    #: No test ran: it does not even import.
    NO_MUTANT = "NO MUTANT"

    @property
    def is_good(self) -> bool:
        """Whether a test has seen it."""
        return self in (Verdict.FOUND, Verdict.HANGS)


@dataclass(frozen=True, slots=True)
class Result:
    """A mutant, and which tests have seen it."""

    mutant: Mutant
    verdict: Verdict
    seen_by: list[str]
    seconds: float


@contextmanager
def copied() -> Iterator[Path]:
    """Yield a copy of the project; what was downloaded for tests is shared."""
    with TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "project"
        shutil.copytree(PROJECT, copy, ignore=_LEFT_OUT)
        cache = PROJECT / ".cache"
        cache.mkdir(exist_ok=True)
        (copy / cache.name).symlink_to(cache)
        yield copy


def require_sound(copy: Path, mutants: Iterable[Mutant]) -> None:
    """Raise `RuntimeError` unless all tests pass on the project as it is."""
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    status, output = _run(copy, list(tests), SOUND_LIMIT_SECONDS)
    if status != _PASSED:
        raise RuntimeError(f"the tests do not pass without any mutant:\n{output}")


def attempt(copy: Path, mutant: Mutant) -> Result:
    """Break the copy, run the tests that must see it, and mend the copy again."""
    file = copy / mutant.file
    sound = file.read_text()
    file.write_text(mutant.applied(sound))
    began = time.monotonic()
    try:
        status, output = _run(copy, mutant.tests, LIMIT_SECONDS)
    finally:
        file.write_text(sound)
    seen_by = sorted(set(_FAILED_TEST.findall(output)))
    verdict = _verdict(status, is_seen=set(mutant.found_by) <= set(seen_by))
    return Result(mutant, verdict, seen_by, time.monotonic() - began)


def _verdict(status: int | None, *, is_seen: bool) -> Verdict:
    if status is None:
        return Verdict.HANGS
    if status not in (_PASSED, _FAILED):
        return Verdict.NO_MUTANT
    return Verdict.FOUND if is_seen else Verdict.SURVIVED


def _run(copy: Path, tests: Sequence[str], limit_seconds: float) -> tuple[int | None, str]:
    """Return pytest's exit status, or None if it takes too long, and what it says."""
    # Also tests that only `make soak` runs. No code is cached: the next mutant of a file may be as
    # old, to the second, and as large.
    options = ["-q", "--tb=short", "-m", "soak or not soak", "-p", "no:cacheprovider"]
    options += ["-p", "no:schemathesis"]  # to import it takes longer than most of these tests
    with subprocess.Popen(
        [sys.executable, "-B", "-m", "pytest", *options, *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_seconds)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it ends its broker then
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=GRACE_SECONDS)
            return None, ""
        finally:
            # A test that fails may leave workers; they are of its process group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def encode(results: Iterable[Result]) -> bytes:
    """Return results as JSON."""
    rows = [
        {
            **asdict(each.mutant),
            "verdict": each.verdict,
            "seen_by": each.seen_by,
            "seconds": round(each.seconds, 1),
        }
        for each in results
    ]
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

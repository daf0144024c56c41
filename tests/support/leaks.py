"""What a test leaves behind: threads, open files and sockets, tasks, changes of the environment."""

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import pytest
import structlog

#: How long threads and sockets may take to end that were told to; and how often it is looked.
ENDS_WITHIN_SECONDS, LOOK_SECONDS = 2.0, 0.01
#: pytest's own.
_OTHERS = {"PYTEST_CURRENT_TEST"}
_FILES = "/proc/self/fd"


@dataclass(frozen=True, slots=True)
class There:
    """What was there before a test."""

    threads: frozenset[threading.Thread]
    #: By number, what each file descriptor leads to.
    files: dict[str, str]
    environment: dict[str, str]

    @classmethod
    def now(cls) -> Self:
        """Return what is there."""
        return cls(frozenset(threading.enumerate()), _open_files(), dict(os.environ))

    def left(self) -> list[str]:
        """Return, as words, what is there and was not before."""
        return [*self._threads(), *self._files(), *self._environment()]

    def _threads(self) -> Iterator[str]:
        for thread in threading.enumerate():
            # A loop's own threads end with it.
            if thread not in self.threads and not thread.name.startswith("asyncio_"):
                yield f"thread {thread.name}"

    def _files(self) -> Iterator[str]:
        for number, place in _open_files().items():
            if self.files.get(number) != place:
                yield f"file descriptor {number}, {place}"

    def _environment(self) -> Iterator[str]:
        names = self.environment.keys() | os.environ.keys()
        for name in sorted(names - _OTHERS):
            if self.environment.get(name) != os.environ.get(name):
                yield f"{name} in the environment"


def _open_files() -> dict[str, str]:
    found = {}
    for number in os.listdir(_FILES):
        # What lists them is closed again.
        with suppress(FileNotFoundError):
            found[number] = os.readlink(f"{_FILES}/{number}")
    return found


def tasks() -> list[str]:
    """Return, as words, the tasks of this loop beside the one that asks."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return [f"task {task.get_name()}, {task.get_coro()!r}" for task in others]


def looks() -> Iterator[float]:
    """Yield how long to wait before each further look at what may be ending."""
    gc.collect()
    deadline = time.monotonic() + ENDS_WITHIN_SECONDS
    while time.monotonic() < deadline:
        yield LOOK_SECONDS


def require_nothing_left(before: There) -> None:
    """Fail if there is something for good that was not before."""
    if before.left():
        for pause in looks():
            time.sleep(pause)
            if not before.left():
                return
        pytest.fail(f"the test has left {'; '.join(before.left())}")


async def require_nothing_left_in_loop(before: There) -> None:
    """Fail if there is something for good that was not before, or a task."""
    if before.left() or tasks():
        for pause in looks():
            await asyncio.sleep(pause)
            if not (before.left() or tasks()):
                return
        pytest.fail(f"the test has left {'; '.join([*before.left(), *tasks()])}")


def forget_logging() -> None:
    """Let loggers be as before anybody configured them: some keep what they were at first use.

    Otherwise `structlog.testing.capture_logs` of a later test captures nothing of theirs.
    """
    if not structlog.is_configured():
        return
    structlog.reset_defaults()
    kind = type(structlog.get_logger())
    for module in list(sys.modules.values()):
        for each in list(vars(module).values()):
            if type(each) is kind:
                vars(each).pop("bind", None)

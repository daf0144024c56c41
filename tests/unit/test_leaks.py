"""What a test leaves behind is noticed, and named; what is about to end is waited for."""

import asyncio
import os
import threading

import pytest
import structlog
from structlog.testing import capture_logs

from app.telemetry.logs import configure
from tests.support.leaks import (
    There,
    forget_logging,
    require_nothing_left,
    require_nothing_left_in_loop,
    tasks,
)

#: As every module has one.
log = structlog.get_logger(__name__)


def test_a_thread_is_named() -> None:
    before, end = There.now(), threading.Event()
    thread = threading.Thread(target=end.wait, name="stays")
    thread.start()
    assert before.left() == ["thread stays"]
    end.set()
    thread.join()
    assert before.left() == []


def test_an_open_file_is_named() -> None:
    before = There.now()
    read, write = os.pipe()
    assert sorted(line.split(", pipe:")[0] for line in before.left()) == sorted(
        f"file descriptor {number}" for number in (read, write)
    )
    os.close(read)
    os.close(write)
    assert before.left() == []


def test_a_change_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGED", "1")
    monkeypatch.setenv("TAKEN", "1")
    before = There.now()
    monkeypatch.setenv("CHANGED", "2")
    monkeypatch.delenv("TAKEN")
    monkeypatch.setenv("ADDED", "1")
    assert before.left() == [f"{name} in the environment" for name in ("ADDED", "CHANGED", "TAKEN")]


async def test_a_task_is_named() -> None:
    task = asyncio.create_task(asyncio.sleep(60), name="sleeper")
    assert [line.split(", ")[0] for line in tasks()] == ["task sleeper"]
    task.cancel()
    await asyncio.wait([task])
    assert tasks() == []


def test_what_ends_soon_is_waited_for() -> None:
    before = There.now()
    threading.Timer(0.05, lambda: None).start()
    require_nothing_left(before)


def test_what_stays_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.leaks.ENDS_WITHIN_SECONDS", 0.05)
    before = There.now()
    monkeypatch.setenv("ADDED", "1")
    with pytest.raises(pytest.fail.Exception, match="has left ADDED in the environment"):
        require_nothing_left(before)


async def test_a_task_that_ends_soon_is_waited_for_and_one_that_stays_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = There.now()
    soon = asyncio.create_task(asyncio.sleep(0.02))
    await require_nothing_left_in_loop(before)
    assert soon.done()
    monkeypatch.setattr("tests.support.leaks.ENDS_WITHIN_SECONDS", 0.05)
    stays = asyncio.create_task(asyncio.sleep(60), name="sleeper")
    with pytest.raises(pytest.fail.Exception, match="has left task sleeper"):
        await require_nothing_left_in_loop(before)
    stays.cancel()


def test_logging_that_was_configured_is_forgotten() -> None:
    configure()
    log.info("it keeps what it is now")
    forget_logging()
    with capture_logs() as lines:
        log.info("captured")
    assert [line["event"] for line in lines] == ["captured"]

"""One supervisor for a data folder, and what an earlier one may have left behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import psutil
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from local import processes
from local.broker import nodes_in
from local.console import say
from local.errors import AlreadyRunningError
from local.folder import DataFolder
from local.places import named
from local.processes import Record
from local.settings import LocalSettings

#: How long workers have to finish what they are at. With the broker's grace: under 10 s in all.
WORKERS_GRACE_SECONDS = 6.0
#: How long a supervisor has to take everything down before it is killed.
SUPERVISOR_GRACE_SECONDS = 12.0
LOCK_TIMEOUT_SECONDS = 2.0
POLL_SECONDS = 0.05


@contextmanager
def held(folder: DataFolder, settings: LocalSettings) -> Iterator[None]:
    """Be the only supervisor of a data folder for the length of a block.

    A former one whose make was killed is ended first. Raises `AlreadyRunningError` if it has a
    parent still.
    """
    with folder.lock.open("a") as lock:
        if not try_lock(lock):
            end_orphan(folder)
            wait_for_lock(lock)
        folder.supervisor.write(own_record(settings.web_port))
        try:
            yield
        finally:
            folder.supervisor.remove()


def own_record(port: int) -> Record:
    """Return the record of this process, and of its parent if that can be seen from here."""
    record = Record.of(psutil.Process(), port)
    with suppress(psutil.NoSuchProcess):
        record.parent = Record.of(psutil.Process(os.getppid()))
    return record


def try_lock(lock: IO[str]) -> bool:
    """Take the lock if it is free; it is given back when the file is closed, or its owner dies."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(lock: IO[str]) -> None:
    """Take the lock of a supervisor that has just ended."""
    attempts = Retrying(
        retry=retry_if_result(lambda taken: not taken),
        stop=stop_after_delay(LOCK_TIMEOUT_SECONDS),
        wait=wait_fixed(POLL_SECONDS),
    )
    try:
        attempts(try_lock, lock)
    except RetryError:
        raise AlreadyRunningError(f"already running: another {named('run')} was faster") from None


def end_orphan(folder: DataFolder) -> None:
    """End the supervisor that holds the lock, unless somebody still waits for it."""
    record = folder.supervisor.read()
    supervisor = record.find() if record else None
    if record is None or supervisor is None:
        return  # it is ending, or only beginning: the wait for the lock will tell
    if record.parent is None or record.parent.find():
        raise AlreadyRunningError(
            f"already running (process {record.pid}): http://127.0.0.1:{record.port}/; "
            f"{named('stop')} ends it"
        )
    say(f"Ending the supervisor of an earlier run, whose make is gone (process {record.pid})")
    processes.stop(supervisor, SUPERVISOR_GRACE_SECONDS)


def stop_workers(folder: DataFolder) -> list[int]:
    """Stop all recorded workers of a data folder at once; return their process ids."""
    records = folder.worker_records()
    running = [process for record in records if (process := record.find())]
    processes.stop_all(running, WORKERS_GRACE_SECONDS)
    for record in records:
        record.remove()
    return [process.pid for process in running]


def clear_up(folder: DataFolder, settings: LocalSettings) -> None:
    """Stop the workers that a killed supervisor left, and its brokers unless they can be kept."""
    if left := stop_workers(folder):
        say(f"Stopped workers that an earlier run left (process {', '.join(map(str, left))})")
    nodes = nodes_in(folder.kafka)
    running = [record for node in nodes if (record := node.status())]
    if not running:
        return
    who = ", ".join(str(record.pid) for record in running)
    ports = {record.port for record in running}
    if (
        settings.brings_broker
        and len(nodes) == settings.brokers
        and ports <= set(settings.broker_ports)
    ):
        say(f"Keeping Kafka, which an earlier run left (process {who})")
        return
    say(f"Stopping Kafka, which an earlier run left (process {who})")
    for node in nodes:
        node.stop()

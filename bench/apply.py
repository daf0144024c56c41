"""How fast one worker applies registrations to the table ``users``."""

import time
from pathlib import Path

import orjson
import psutil

from tests import kafka
from tests.worker import Registry, wait_until

#: A user as in design.md's measurements: about 70 bytes.
_NAME = "Augusta Ada King"

APPLY_TIMEOUT_SECONDS = 600


def users_per_second(brokers: str, folder: Path, users: int) -> tuple[float, float]:
    """Return users applied per second, and the worker's CPU microseconds a user.

    The records stand in the topic before the worker is started; the clock runs from its readiness
    until the changelog holds a row for every user.
    """
    registry = Registry(brokers, folder)
    worker = registry.worker()
    with worker:
        pass  # makes the topics
    _fill(registry, users)
    changelog = f"{registry.app_id}.{registry.app_id}-users-changelog"
    with worker:
        began, before = time.perf_counter(), sum(kafka.end_offsets(brokers, changelog).values())
        cpu_before = _cpu_seconds(worker.pid)
        wait_until(
            lambda: sum(kafka.end_offsets(brokers, changelog).values()) >= users,
            APPLY_TIMEOUT_SECONDS,
            "every user is applied",
        )
        took = time.perf_counter() - began
        cpu = _cpu_seconds(worker.pid) - cpu_before
    applied = users - before
    return applied / took, cpu / applied * 1e6


def _fill(registry: Registry, users: int) -> None:
    def record(number: int) -> dict[str, bytes]:
        user_id = f"user-{number:09}"
        value = {"id": user_id, "name": _NAME, "email": f"{number}@example.com"}
        return {"key": user_id.encode(), "value": orjson.dumps(value)}

    kafka.produce(
        registry.brokers,
        registry.registrations,
        (record(number) for number in range(users)),
        partitioner="murmur2_random",
    )


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system

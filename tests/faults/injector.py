"""Injects faults into this process: the calls of the steps are wrapped, and one of them is met."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import iscoroutinefunction
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import orjson
from aiokafka.client import AIOKafkaClient

from app.engine import barrier
from app.kafka import cluster, transactions
from tests.faults.steps import STEPS, WITHOUT_STEPS, Kind, Step, kind_of

#: What waits for a call gives up after this, in a process with faults; workers wait for longer.
PATIENCE_SECONDS = 3.0
#: A call that is delayed takes longer.
DELAY_SECONDS = 4.0


def be_impatient() -> None:
    """Let what waits for brokers give up sooner, so that a delay is longer, and a test short."""
    transactions.TIMEOUT_SECONDS = PATIENCE_SECONDS
    barrier.BARRIER_SECONDS = PATIENCE_SECONDS
    cluster.REQUEST_TIMEOUT_SECONDS = PATIENCE_SECONDS


@dataclass
class Fault:
    """One that strikes at the ``left``-th call of a step from now on."""

    step: Step
    kind: Kind
    left: int


class Injector:
    """Faults that wait for their calls: each one after the one before has struck."""

    def __init__(self) -> None:
        self._waiting: deque[Fault] = deque()
        self._wrapped: set[tuple[str, str]] = set()
        # The consumer has a thread of its own.
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Let a fault strike, after those before it."""
        place = fault.step.owner, fault.step.attribute
        with self._lock:
            if place not in self._wrapped:
                self._wrapped.add(place)
                self._wrap(*place)
            self._waiting.append(fault)

    def read(self, orders: Path) -> None:
        """Take faults from a named pipe, without end."""
        while True:
            for line in orders.read_text().splitlines():
                self.add(parse(line.split("|")))
                _tell(ordered=line)

    def _due(self, place: tuple[str, str], args: tuple[Any, ...]) -> Fault | None:
        with self._lock:
            fault = self._waiting[0] if self._waiting else None
            if fault is None or (fault.step.owner, fault.step.attribute) != place:
                return None
            if not fault.step.is_at(args):
                return None
            fault.left -= 1
            if fault.left:
                return None
            return self._waiting.popleft()

    def _wrap(self, owner: str, attribute: str) -> None:
        place, target = (owner, attribute), resolve_name(owner)
        method: Callable[..., Any] = getattr(target, attribute)

        def calling(*args: Any, **kwargs: Any) -> Any:
            fault = self._due(place, args)
            if fault is None:
                return method(*args, **kwargs)
            _before(fault)
            if fault.kind is Kind.DELAY:
                with _over_at_the_end(fault):
                    time.sleep(DELAY_SECONDS)
            result = method(*args, **kwargs)
            _after(fault)
            return result

        async def awaiting(*args: Any, **kwargs: Any) -> Any:
            fault = self._due(place, args)
            if fault is None:
                return await method(*args, **kwargs)
            _before(fault)
            if fault.kind is Kind.DELAY:
                with _over_at_the_end(fault):  # who waits may give up before
                    await asyncio.sleep(DELAY_SECONDS)
            result = await method(*args, **kwargs)
            _after(fault)
            return result

        setattr(target, attribute, awaiting if iscoroutinefunction(method) else calling)


@contextmanager
def _over_at_the_end(fault: Fault) -> Iterator[None]:
    try:
        yield
    finally:
        _tell(over=f"{fault.step.name}: {fault.kind}")


def _before(fault: Fault) -> None:
    _tell(fault=f"{fault.step.name}: {fault.kind}")
    if fault.kind is Kind.KILL_BEFORE:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind is Kind.STAND:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.kind is Kind.RAISE:
        raise fault.step.error()


def _after(fault: Fault) -> None:
    if fault.kind is Kind.KILL_AFTER:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind is Kind.LOSE:
        raise fault.step.lost()


def parse(words: list[str]) -> Fault:
    """Return a fault by the names of step and kind, and a number."""
    step, kind, number = words
    return Fault(STEPS[step], Kind(kind), int(number))


def watch_requests() -> None:
    """Tell of each kind of request that no step knows."""
    known = {step.request for step in STEPS.values()} | WITHOUT_STEPS.keys()
    send = AIOKafkaClient.send

    async def watching(self: Any, node_id: int, request: Any, **kwargs: Any) -> Any:
        kind = kind_of(request)
        if kind not in known:
            known.add(kind)
            _tell(unknown_request=kind)
        return await send(self, node_id, request, **kwargs)

    AIOKafkaClient.send = watching


def _tell(**what: str) -> None:
    # In one write: other threads log, too.
    os.write(sys.stderr.fileno(), orjson.dumps(what) + b"\n")

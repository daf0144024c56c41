"""Asks the owner of a partition; while it does not answer, the freshest copy.

Who owns a partition each worker knows from the last rebalance, which may be outdated: the worker
that is asked checks it, and says so if its answer comes from a copy. A copy is the store of a
standby, or of an owner that waits for its group. It may lack what came since: that there is nothing
under a key, only the owner says.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import orjson

from app.domain.errors import InvalidPositionError, NotReadyError, NotSettledError, Unavailable
from app.query.routing import Routing
from app.telemetry.metrics import STALE_ANSWERS

T = TypeVar("T")

#: How long the owner has to answer before all workers are asked, and how long these have: beyond
#: what they were asked to wait.
OWNER_PATIENCE_SECONDS = 1.0
OTHERS_PATIENCE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What a worker found."""

    value: T
    #: For how long its rows may lack something; 0 if it owns them.
    stale_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What is asked about a partition: here, and of other workers by a GET."""

    partition: int
    here: Callable[[], T]
    path: str
    #: Reads another worker's answer by its status, 200 or 404, and body.
    read: Callable[[int, bytes], Found[T]]
    wait_seconds: float = 0.0
    takes_copies: bool = True


async def answer(routing: Routing, question: Question[T], *, forwarded: bool) -> Found[T]:
    """Return what the owner finds, else what the freshest copy has.

    Of this worker only, if the question was ``forwarded``. Raises `NotReadyError` if neither can be
    had, `NotSettledError` or `InvalidPositionError` if the owner says so.
    """
    here = _here(routing, question)
    if here is not None and (forwarded or not here.stale_seconds):
        return here
    cause = routing.why_not_here(question.partition)
    if forwarded:
        raise NotReadyError(cause or Unavailable.REBALANCING)
    copies = [] if here is None else [here]
    for workers, patience in (
        (partial(routing.owners_elsewhere, [question.partition]), OWNER_PATIENCE_SECONDS),
        (routing.other_workers, OTHERS_PATIENCE_SECONDS),
    ):
        told = await _ask_all(routing, workers(), question, patience + question.wait_seconds)
        copies += [each for each in told if isinstance(each, Found)]
        # The owner, who is asked first, knows best.
        cause = cause or next((each for each in told if isinstance(each, Unavailable)), None)
        found = min(copies, key=lambda copy: copy.stale_seconds, default=None)
        if found is not None and not found.stale_seconds:
            return found
    if found is None:
        raise NotReadyError(cause or Unavailable.REBALANCING)
    STALE_ANSWERS.inc()
    return found


def _here(routing: Routing, question: Question[T]) -> Found[T] | None:
    stale_seconds = routing.stale_seconds(question.partition)
    if stale_seconds is None:
        return None
    try:
        return _if_taken(question, Found(question.here(), stale_seconds))
    except NotReadyError:
        return None  # its store is closed


async def _ask_all(
    routing: Routing, urls: Collection[str], question: Question[T], seconds: float
) -> "list[Found[T] | Unavailable]":
    """Return what workers answer in time; the owner's answer makes the others superfluous."""
    if len(urls) == 1:  # nearly always: it needs no task
        return [await _ask(routing, url, question, seconds) for url in urls]
    pending = {asyncio.ensure_future(_ask(routing, url, question, seconds)) for url in urls}
    told: list[Found[T] | Unavailable] = []
    try:
        while pending and not any(map(_is_fresh, told)):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            told += (task.result() for task in done)
    finally:
        for task in pending:
            task.cancel()
    return told


def _is_fresh(told: Found[T] | Unavailable) -> bool:
    return isinstance(told, Found) and not told.stale_seconds


async def _ask(
    routing: Routing, url: str, question: Question[T], seconds: float
) -> Found[T] | Unavailable:
    try:
        status, body = await routing.ask(url, question.path, seconds)
    except NotReadyError as error:
        return error.cause
    if status == 503 and b"not-settled" in body:
        raise NotSettledError("the write is durable, but not settled yet")
    if status == 400 and b"invalid-position" in body:
        raise InvalidPositionError("the position of no record that is known")
    try:
        if status in (200, 404):
            found = _if_taken(question, question.read(status, body))
            return Unavailable.STALE_COPY if found is None else found
        return Unavailable(orjson.loads(body)["cause"])
    except (NotReadyError, InvalidPositionError, ValueError, KeyError, TypeError):
        return Unavailable.INCOMPATIBLE_ANSWER


def _if_taken(question: Question[T], found: Found[T]) -> Found[T] | None:
    is_copy = found.stale_seconds > 0
    return None if is_copy and (found.value is None or not question.takes_copies) else found

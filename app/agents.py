"""The loop: records of ``user-registrations`` in; decisions; rows and dead letters out.

A batch is acknowledged to Faust, and so its offsets committed, only after everything that came of
it was acknowledged by the broker and stands in the store. A crash before that means that the batch
is read again, and decides the same.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import structlog
from faust import Stream
from faust.types import EventT, StreamT
from tenacity import RetryCallState, retry, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_exponential_jitter

from app.dead_letters import dead_letter
from app.errors import (
    ApplyError,
    BrokerUnavailableError,
    OutcomeUnknownError,
    UnreadableRecordError,
)
from app.main import app, producer, registry_topics
from app.positions import Position
from app.records import Registration
from app.registration import MOVED_FROM_HEADER, Arrival, new_rows, sort
from tables.recent import Recent, recent_registrations
from tables.users import users

log = structlog.get_logger(__name__)

Event = EventT[bytes]

#: At most this many records are applied together; the first waits at most this long for others.
MAX_BATCH_RECORDS = 1_000
MAX_WAIT_SECONDS = 0.01

#: A broker that is away for longer than this ends the worker; its supervisor starts it again.
GIVE_UP_AFTER_SECONDS = 120
MAX_BACK_OFF_SECONDS = 5

source = app.topic(
    registry_topics.user_registrations.name,
    key_type=bytes,
    key_serializer="raw",
    value_type=bytes,
    value_serializer="raw",
    partitions=registry_topics.user_registrations.partitions,
    allow_empty=True,
)


@app.agent(source, name="apply_registrations")
async def apply_registrations(records: StreamT[Any]) -> None:
    """Apply the records of ``user-registrations``, batch by batch."""
    async for events in _batches(records):
        await _apply_or_end_worker(events)
        for event in events:
            await records.ack(event)


def _batches(records: StreamT[Any]) -> AsyncIterator[Sequence[Event]]:
    # Faust types this as batches of values; it yields events, which we acknowledge ourselves.
    taken = cast(Stream[bytes], records).noack_take(MAX_BATCH_RECORDS, within=MAX_WAIT_SECONDS)
    return cast(AsyncIterator[Sequence[Event]], taken)


async def _apply_or_end_worker(events: Sequence[Event]) -> None:
    # An exception in a Faust agent would cost the batch: the agent starts again behind it.
    try:
        await asyncio.gather(
            *(_apply(partition, arrivals) for partition, arrivals in _by_partition(events).items())
        )
    except Exception as error:
        # Faust logs an exception's text, and this one's may be personal.
        failure = ApplyError(f"records cannot be applied ({type(error).__name__})")
        log.critical("records cannot be applied; the worker ends", exc_info=error)
        await app.crash(failure)
        raise failure from None


def _by_partition(events: Sequence[Event]) -> dict[int, list[Arrival]]:
    arrivals: dict[int, list[Arrival]] = defaultdict(list)
    for event in events:
        arrivals[event.message.partition].append(_arrival(event))
    return arrivals


def _arrival(event: Event) -> Arrival:
    message = event.message
    return Arrival(
        position=Position(message.partition, message.offset),
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(message.headers or ()),  # type: ignore[arg-type]
    )


def _log_retry(state: RetryCallState) -> None:
    cause = state.outcome and state.outcome.exception()
    log.warning("records wait for the broker", attempt=state.attempt_number, cause=str(cause))


@retry(
    retry=retry_if_exception_type((BrokerUnavailableError, OutcomeUnknownError)),
    wait=wait_exponential_jitter(multiplier=0.1, max=MAX_BACK_OFF_SECONDS),
    stop=stop_after_delay(GIVE_UP_AFTER_SECONDS),
    before_sleep=_log_retry,
    reraise=True,
)
async def _apply(partition: int, arrivals: Sequence[Arrival]) -> None:
    """Apply the records of one partition; safe to repeat, since it decides the same."""
    batch = sort(arrivals, registry_topics.user_registrations.partitions)
    await asyncio.gather(
        *(_set_aside(arrival, error) for arrival, error in batch.unreadable),
        *(_move(arrival, registration, home) for arrival, registration, home in batch.elsewhere),
    )
    known = users.find_many(partition, [registration.id for _, registration in batch.here])
    new = new_rows(known, batch.here)
    # Before the rows: after a crash between the two, the rows are still new and both come again.
    registered = [Recent(row.registered_at, row.id) for row in new.values()]
    await recent_registrations.add(producer, partition, registered)
    await users.write(producer, partition, new)


async def _set_aside(arrival: Arrival, error: UnreadableRecordError) -> None:
    letter = dead_letter(arrival, error, registry_topics.user_registrations.name)
    log.warning("dead letter", cause=error.cause, position=arrival.position.token())
    await producer.send(
        registry_topics.dead_letter.name,
        arrival.position.partition,
        letter.key,
        letter.value,
        headers=letter.headers,
    )


async def _move(arrival: Arrival, registration: Registration, home: int) -> None:
    # Sent as we would write it: what came may be too large once it is no longer compressed.
    await producer.send(
        registry_topics.user_registrations.name,
        home,
        registration.key,
        registration.encode(),
        timestamp_ms=max(arrival.timestamp_ms, 0),
        headers=[(MOVED_FROM_HEADER, arrival.position.token().encode())],
    )

"""What the handlers need: producer, lookups, limits."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import Any, cast

from aiohttp import web

from app.access.keys import Key
from app.config.settings import Settings
from app.dead_letters.recent import ReadsDeadLetters
from app.dead_letters.replaying import ReplaysLetters
from app.domain.authors import headers_by
from app.domain.errors import NotReadyError, RefusedError, RegistryError, StaleRequestError
from app.domain.keys import encode_key, partition_of, partitions_of
from app.domain.outcomes import Outcome
from app.domain.positions import Position, tokens
from app.domain.records import Command, CommandValue, value_of, values_of
from app.ingest.accumulator import Offsets
from app.ingest.producer import SendsRecords
from app.ingest.rate_limits import Limits
from app.ingest.standstills import Standstills
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.topics import TopicSpec
from app.query.lookups import FindsUsers, WriteResult
from app.query.outcome_feed import FollowsOutcomes
from app.query.overview.collecting import TellsState
from app.telemetry.metrics import WRITES_REFUSED
from app.web.http.clients import client_of, key_of
from app.web.http.waits import Waits

#: Tests that do not ask for these give none.
_NOT_GIVEN = cast(ReadsDeadLetters, None)
_NO_REPLAYS = cast(ReplaysLetters, None)
_NO_STATE = cast(TellsState, None)
_NO_FEED = cast(FollowsOutcomes, None)


@dataclass(frozen=True, slots=True)
class Services:
    """The settings, the topic that is written, the producer, the lookups, the dead letters."""

    settings: Settings
    registrations: TopicSpec
    producer: SendsRecords
    lookups: FindsUsers
    dead_letters: ReadsDeadLetters = _NOT_GIVEN
    replays: ReplaysLetters = _NO_REPLAYS
    overview: TellsState = _NO_STATE
    feed: FollowsOutcomes = _NO_FEED
    #: How much may be written, and by whom: the client that this is for.
    limits: Limits = field(default_factory=Limits)
    #: The same of what is read.
    reads: Limits = field(default_factory=partial(Limits, are_reads=True))
    client: str = ""
    #: The key of that client, if it has one, and what its records carry: who wrote them.
    key: Key | None = None
    headers: list[tuple[str, bytes]] = field(default_factory=lambda: NO_HEADERS)
    #: Those that wait for a write.
    waits: Waits = field(default_factory=Waits)
    #: Which requests may have waited for too long, and when the one that this is for was read.
    standstills: Standstills = field(default_factory=Standstills)
    read_at: float | None = None
    #: Why the worker may not be sent requests now; nothing if it may.
    why_not_ready: Callable[[], Sequence[str]] = tuple
    #: Whether the worker stops: connections end then with the answer under way.
    is_stopping: Callable[[], bool] = bool

    @property
    def has_rate(self) -> bool:
        """Whether the client has a rate, of its own or as all have."""
        apart = self.limits.tell_clients_apart or self.reads.tell_clients_apart
        return apart or (self.own_writes or self.own_reads) is not None

    @property
    def own_writes(self) -> float | None:
        """How many writes a second the client may send by its key; None if that says nothing."""
        return None if self.key is None else self.key.writes_per_second

    @property
    def own_reads(self) -> float | None:
        """The same of reads."""
        return None if self.key is None else self.key.reads_per_second

    def for_client(
        self, client: str, key: Key | None = None, read_at: float | None = None
    ) -> "Services":
        """Return these services for one client, and its key if it has one."""
        headers = NO_HEADERS if key is None else headers_by(key.name)
        return replace(self, client=client, key=key, headers=headers, read_at=read_at)

    async def write(self, user_id: str, command: Command) -> Position:
        """Send what is to become of a user.

        Return its position once the broker has acknowledged it.
        """
        partition, offsets = self.begin(user_id, command)
        return Position(partition, (await offsets)[0])

    def begin(
        self, user_id: str, command: Command, read_at: float | None = None
    ) -> tuple[int, Offsets]:
        """Begin to `write`; return the partition, and what will hold the offset.

        Raises `RefusedError` if more comes than may, or the request may be too old.
        """
        self._admit(1, self.read_at if read_at is None else read_at)
        key = encode_key(user_id)
        partition = partition_of(key, self.registrations.partitions)
        return partition, self.producer.send({partition: [_record(key, command, self.headers)]})[
            partition
        ]

    async def write_all(self, commands: Sequence[CommandValue], rejected: int = 0) -> "Writes":
        """Send many at once, and wait until each is acknowledged or has failed.

        What was rejected beside them counts as well for the client's rate: it costs as much.

        Raises `RefusedError` if more comes than may, or the request may be too old; none is sent
        then.
        """
        writes = self.begin_all(commands, rejected)
        await writes.ended()
        return writes

    def begin_all(
        self,
        commands: Sequence[CommandValue],
        rejected: int = 0,
        read_at: float | None = None,
    ) -> "Writes":
        """Begin to `write_all`."""
        self._admit(len(commands) + rejected, self.read_at if read_at is None else read_at)
        keys = [encode_key(each["id"]) for each in commands]
        partitions = partitions_of(keys, self.registrations.partitions)
        headers = self.headers
        records: defaultdict[int, list[ToWrite]] = defaultdict(list)
        for partition, key, value in zip(partitions, keys, values_of(commands), strict=True):
            records[partition].append((None, key, value, headers))
        return Writes(partitions, self.producer.send(records))

    def _admit(self, records: int, read_at: float | None) -> None:
        """Let records of a request be written, or raise: whatever writes comes through here."""
        try:
            if read_at is not None and self.standstills.is_stale(read_at):
                raise StaleRequestError("the request waited for too long, nothing was written")
            self.limits.admit(records, self.client, self.own_writes)
        except RefusedError:
            WRITES_REFUSED.inc(records)
            raise

    async def turn(self) -> None:
        """Wait until more may be written: so a long stream is slowed down, and not refused."""
        await _until_admitted(self.limits, self.client, self.own_writes)

    async def read_more(self, reads: int) -> None:
        """Wait until more may be read, and count it: so a long answer is slowed down as well."""
        await _until_admitted(self.reads, self.client, self.own_reads)
        self.admit_reads(reads)

    def admit_reads(self, reads: int) -> None:
        """Count so many reads of the client in; raise `RefusedError` if they are too many."""
        self.reads.admit(reads, self.client, self.own_reads)

    async def wait(self, position: Position, seconds: float) -> WriteResult:
        """Return what became of a write within a time; it is durable, whatever happens to us."""
        pending = WriteResult(position, Outcome.PENDING)
        if not seconds:
            return pending
        try:
            async with self.waits.place(self.client):
                return await self.lookups.settled(position, seconds) or pending
        except (NotReadyError, TimeoutError):
            return pending


async def _until_admitted(limits: Limits, client: str, own_rate: float | None = None) -> None:
    while wait := limits.wait(client, own_rate):
        await asyncio.sleep(wait)


def _record(key: bytes, command: Command, headers: list[tuple[str, bytes]]) -> ToWrite:
    return None, key, value_of(command), headers


@dataclass(frozen=True, slots=True)
class Writes:
    """Writes of one request: the partition of each, and what will hold the offsets of each's."""

    partitions: Sequence[int]
    offsets: Mapping[int, Offsets]

    def ended(self) -> asyncio.Future[Any]:
        """Return what is done once all of them are acknowledged or have failed."""
        return asyncio.gather(*self.offsets.values(), return_exceptions=True)

    def failures(self) -> list[RegistryError]:
        """Return why those have failed that have."""
        if all(each.exception() is None for each in self.offsets.values()):
            return []
        return [error for error in self.told() if isinstance(error, RegistryError)]

    def told(self) -> list[str | RegistryError]:
        """Return each one's position as a token, or why it has none, in their order."""
        told = {partition: _told(partition, each) for partition, each in self.offsets.items()}
        return [next(told[partition]) for partition in self.partitions]


def _told(partition: int, offsets: Offsets) -> Iterator[str | RegistryError]:
    """Return the positions of a partition's records, or for each the same cause of none."""
    error = offsets.exception()
    if error is None:
        return iter(tokens(partition, offsets.result()))
    if isinstance(error, RegistryError):
        return repeat(error)
    raise error


SERVICES = web.AppKey("services", Services)
#: When the first bytes of a request were read.
READ_AT = web.RequestKey("read_at", float)


def services(request: web.Request) -> Services:
    """Return the services of the application that a request came to, for it and its client."""
    return request.app[SERVICES].for_client(
        client_of(request), key_of(request), request.get(READ_AT)
    )

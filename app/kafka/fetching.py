"""Fetching: reads partitions from an offset, and never skips a record.

Nothing here resets a position. An offset that is not in the log raises `LostRecordsError`, because
only an operator can decide whether records may be missing. Buffers are bounded, and so is what a
batch unpacks to (`app.kafka.record_batches`).
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from struct import Struct
from typing import NamedTuple, cast

import structlog
from aiokafka.errors import (
    KafkaError,
    NodeNotReadyError,
    UnknownTopicOrPartitionError,
    for_code,
)
from faust.types import TP

from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import CorruptBatchError, KafkaAccessError, LostRecordsError
from app.kafka import protocol
from app.kafka.client_errors import missing_to
from app.kafka.cluster import NO_LEADER, Cluster
from app.kafka.protocol import NO_EPOCH, READ_COMMITTED, Fetched, TopicId
from app.kafka.record_batches import AbortedTransactions, PartitionRecords
from app.system import retries
from app.system.clocks import now

log = structlog.get_logger(__name__)

#: How long the broker may hold a fetch that finds nothing. A new partition waits for so long.
MAX_WAIT_MS = 100
#: The same while a partition is left out because its buffer is full.
BUSY_WAIT_MS = 10
#: The pause after a fetch that found records, so that the next fetch finds more of them.
REST_SECONDS = 0.004
MAX_RESPONSE_BYTES = 8 * 1024 * 1024
#: About how much the buffers of all partitions hold, and the least that one buffer may hold.
MAX_BUFFERED_BYTES, MIN_PARTITION_BYTES = 32 * 1024 * 1024, 128 * 1024
MAX_PARTITION_BYTES = 1024 * 1024
#: How much a scan buffers. It reads one partition at a time.
MAX_SCANNED_BYTES = 4 * 1024 * 1024
#: A source that no broker has known for this long is deleted.
GONE_SECONDS = 10.0

#: base offset, length, leader epoch, magic, CRC, attributes, last offset delta.
_BATCH_HEADER = Struct(">qiibIhi")
#: The length does not include the base offset and the length itself.
_LENGTH_STARTS = 12


class Taken(NamedTuple):
    """Records of a partition, the next offset (control records counted), and the leader epoch."""

    records: Sequence[ConsumedRecord]
    next: int
    epoch: int


def _lost(tp: TP, offset: int, begin: int, end: int) -> LostRecordsError:
    where = f"{tp.topic}, partition {tp.partition}"
    if offset < begin:
        return LostRecordsError(
            f"{where}: records from {offset} to {begin - 1} were deleted before they were applied; "
            "see docs/operations.md"
        )
    return LostRecordsError(
        f"{where}: {offset} is the next record to apply, and the log ends at {end}: "
        "the topic was recreated, or lost its end; see docs/operations.md"
    )


def require_within(tp: TP, offset: int, begin: int, end: int) -> None:
    """Raise `LostRecordsError` if an offset is not between begin and end of a log."""
    if not begin <= offset <= end:
        raise _lost(tp, offset, begin, end)


def recreated(tp: TP, offset: int) -> LostRecordsError:
    """Return the error for a topic that was deleted and recreated under the same name."""
    return LostRecordsError(
        f"{tp.topic}, partition {tp.partition}: the topic was deleted and recreated; {offset} was "
        "the next record to apply of the one before; see docs/operations.md"
    )


def diverged(tp: TP, offset: int, end: int) -> LostRecordsError:
    """Return the error for a log that lost its end and was continued."""
    return LostRecordsError(
        f"{tp.topic}, partition {tp.partition}: records from {end} to {offset - 1} were applied, "
        "and are not in the log any more: a broker lost its end; see docs/operations.md"
    )


class _Log:
    """The state of one partition: how far it is read, and its buffered records."""

    def __init__(
        self, tp: TP, offset: int, epoch: int, max_bytes: int = MAX_PARTITION_BYTES
    ) -> None:
        self.tp = tp
        self._max_bytes = max_bytes
        #: The next offset to fetch, and the leader epoch of the record before it.
        self.offset = offset
        self.epoch = epoch
        #: The same, as a fetch needs it.
        self.wanted = protocol.wanted(tp.partition, offset, epoch, max_bytes)
        #: The next offset to take.
        self.taken = offset
        self.taken_epoch = epoch
        self.topic_id: TopicId | None = None
        #: The buffer: parts of one leader epoch each, and their sizes.
        self.buffered: deque[tuple[int, int, PartitionRecords]] = deque()
        self.buffered_bytes = 0
        #: The end of the log, its last stable offset, and when the fetch that returned them was
        #: sent.
        self.end = -1
        self.stable_end = -1
        self.asked_at = -math.inf

    def add(self, fetched: Fetched) -> None:
        """Buffer fetched records, and continue behind the last whole batch."""
        aborted = AbortedTransactions(fetched.aborted)
        for epoch, data, end in _by_epoch(fetched.data):
            if end > self.offset:
                part = PartitionRecords(data, max(self.offset, self.taken), aborted)
                self.buffered.append((epoch, len(data), part))
                self.buffered_bytes += len(data)
                self.offset, self.epoch = end, epoch
        self.wanted = protocol.wanted(self.tp.partition, self.offset, self.epoch, self._max_bytes)

    def take(self, max_records: int, max_bytes: int) -> Taken:
        """Take the next records; none if only control records were left."""
        records: list[ConsumedRecord] = []
        while self.buffered and len(records) < max_records and max_bytes > 0:
            epoch, size, part = self.buffered[0]
            try:
                some = part.take(max_records - len(records), max_bytes)
            except CorruptBatchError as error:
                where = f"{self.tp.topic}, partition {self.tp.partition}"
                raise CorruptBatchError(f"{where}: {error}; see docs/operations.md") from None
            records += some
            if part.next_offset > self.taken:
                self.taken, self.taken_epoch = part.next_offset, epoch
            # Compressed records count unpacked, or many times as much would be taken.
            max_bytes = part.bytes_left
            if not part.is_exhausted:
                break
            self.buffered.popleft()
            self.buffered_bytes -= size
        return Taken(records, self.taken, self.taken_epoch)


def _by_epoch(data: memoryview) -> Iterator[tuple[int, memoryview, int]]:
    """Yield the whole batches in some bytes by leader epoch, each with the offset behind them."""
    at = begin = end = 0
    epoch = NO_EPOCH
    while at + _BATCH_HEADER.size <= len(data):
        base, length, leader_epoch, _, _, _, delta = _BATCH_HEADER.unpack_from(data, at)
        following = at + _LENGTH_STARTS + length
        if following > len(data):
            break
        if leader_epoch != epoch and at > begin:
            yield epoch, data[begin:at], end
            begin = at
        epoch, end, at = leader_epoch, base + delta + 1, following
    if at > begin:
        yield epoch, data[begin:at], end


class Fetcher:
    """Reads partitions of several brokers at once, into bounded buffers."""

    def __init__(
        self,
        cluster: Cluster,
        on_failure: Callable[[Exception], None],
        max_wait_ms: int = MAX_WAIT_MS,
    ) -> None:
        self._cluster = cluster
        self._on_failure = on_failure
        self._max_wait_ms = max_wait_ms
        self._logs: dict[TP, _Log] = {}
        #: The partitions by their leader; computed again after each change.
        self._led: dict[int, list[_Log]] = {}
        #: The partitions with buffered records, in the order of their arrival.
        self._ready: dict[TP, None] = {}
        #: One task for each leader, and what wakes it.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._wake: dict[int, asyncio.Event] = {}
        self._is_running = False
        #: When a topic became unknown; None if all topics are known.
        self._gone_since: float | None = None
        #: About how much the buffer of one partition may hold.
        self._share = MAX_BUFFERED_BYTES
        #: Set when there are records to take.
        self.has_records = asyncio.Event()

    # -- its life

    def start(self) -> None:
        """Begin to fetch."""
        self._is_running = True
        self._notify()

    async def stop(self) -> None:
        """Stop fetching, and drop the buffers."""
        self._is_running = False
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        if tasks:
            await asyncio.wait(tasks.values())
        self._logs.clear()
        self._ready.clear()
        self._led.clear()

    # -- which partitions are read

    def assign(self, tp: TP, offset: int, epoch: int = NO_EPOCH) -> None:
        """Read a partition from an offset on, and drop its buffer."""
        self._logs[tp] = _Log(tp, offset, epoch)
        self._ready.pop(tp, None)
        self._notify()

    def drop(self, partitions: Iterable[TP]) -> None:
        """Stop reading partitions."""
        for tp in list(partitions):
            self._logs.pop(tp, None)
            self._ready.pop(tp, None)
        self._led.clear()

    # -- what was read

    def complete_at(self, tp: TP) -> float | None:
        """Return when all committed records were taken, by `clocks.now`; None if they were not."""
        found = self._logs.get(tp)
        if found is None or found.taken < found.stable_end or found.stable_end < 0:
            return None
        return found.asked_at

    def ends(self) -> Mapping[TP, int]:
        """Return where logs end, open transactions included, as far as brokers have said."""
        return {tp: each.end for tp, each in self._logs.items() if each.end >= 0}

    def held_up(self) -> list[TP]:
        """Return the partitions that are taken up to an open transaction."""
        return [tp for tp, each in self._logs.items() if each.stable_end <= each.taken < each.end]

    def ready(self) -> list[TP]:
        """Return the partitions with records to take."""
        return list(self._ready)

    def has(self, tp: TP) -> bool:
        """Return whether a partition has records to take."""
        return tp in self._ready

    def take(self, tp: TP, max_records: int, max_bytes: int) -> Taken:
        """Take the next records of a partition; raise `CorruptBatchError` if one is damaged."""
        found = self._logs[tp]
        was_full = self._is_full(found)
        taken = found.take(max_records, max_bytes)
        if not found.buffered:
            self._ready.pop(tp, None)
        if was_full and not self._is_full(found):
            self._notify()
        return taken

    def is_at_end(self, tp: TP, offset: int) -> bool:
        """Return whether everything up to an offset was taken, and nothing behind it is known."""
        found = self._logs.get(tp)
        return found is not None and found.taken == offset and found.end <= offset

    def pass_to(self, tp: TP, offset: int) -> None:
        """Skip the records of a partition below an offset, because they are applied already."""
        if (found := self._logs.get(tp)) is not None:
            found.taken, found.taken_epoch = offset, NO_EPOCH

    # -- fetching

    def _notify(self) -> None:
        """Let all tasks check again what to fetch. Each broker has one task."""
        self._led.clear()
        self._share = max(MAX_BUFFERED_BYTES // max(len(self._logs), 1), MIN_PARTITION_BYTES)
        if not self._is_running:
            return
        for leader in {self._cluster.leader_or_none(tp) for tp in self._logs}:
            if leader not in self._tasks:
                self._wake[leader] = asyncio.Event()
                self._tasks[leader] = asyncio.create_task(
                    self._fetch_from(leader), name=f"fetching-{leader}"
                )
        for wake in self._wake.values():
            wake.set()

    def _is_full(self, each: _Log) -> bool:
        return each.buffered_bytes >= self._share

    def _led_by(self, leader: int) -> list[_Log]:
        if not self._led:
            for tp, each in self._logs.items():
                self._led.setdefault(self._cluster.leader_or_none(tp), []).append(each)
        return self._led.get(leader, [])

    async def _fetch_from(self, leader: int) -> None:
        """Fetch from a broker, without end; ``NO_LEADER`` has the partitions without a leader."""
        pauses = retries.FETCHING.pauses()
        wake = self._wake[leader]
        while True:
            led = self._led_by(leader)
            wanted = [each for each in led if not self._is_full(each)]
            wake.clear()
            if not wanted:
                await wake.wait()
                continue
            try:
                if leader == NO_LEADER:
                    raise NodeNotReadyError("no broker leads some partitions")
                has_come = await self._fetch(leader, wanted, is_busy=len(wanted) < len(led))
                pauses = retries.FETCHING.pauses()
                if has_come:
                    await asyncio.sleep(REST_SECONDS)
            except (KafkaError, OSError, TimeoutError) as error:
                if (told := missing_to(error)) is not None:
                    self._on_failure(KafkaAccessError(told))
                log.info("partitions are fetched again", cause=type(error).__name__)
                await asyncio.sleep(next(pauses))
                await self._refresh()
            except Exception as error:
                self._on_failure(error)  # else reading would end silently
                raise

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh()
            self._gone_since = None
        except UnknownTopicOrPartitionError as error:
            # A deleted topic may be recreated. A broker may also not know a topic for a moment.
            at = now()
            self._gone_since = self._gone_since or at
            if at - self._gone_since > GONE_SECONDS:
                self._on_failure(LostRecordsError(f"{error.args[0]}: the topic is gone"))
        except (KafkaError, OSError, TimeoutError):
            return  # asked again, as long as nothing can be fetched
        self._notify()

    async def _fetch(self, leader: int, wanted: Sequence[_Log], *, is_busy: bool) -> bool:
        """Fetch once from a broker; return whether anything came."""
        asked: dict[TopicId, list[bytes]] = {}
        by_place: dict[tuple[TopicId, int], tuple[_Log, int]] = {}
        for each in wanted:
            topic_id = self._cluster.topic_id(each.tp.topic)
            if each.topic_id is None:
                each.topic_id = topic_id
            elif each.topic_id != topic_id:
                self._fail(each, recreated(each.tp, each.taken))
                continue
            asked.setdefault(topic_id, []).append(each.wanted)
            by_place[topic_id, each.tp.partition] = each, each.offset
        asked_at = now()
        answer = await self._cluster.send(
            leader,
            protocol.fetch(
                asked,
                isolation_level=READ_COMMITTED,
                max_wait_ms=BUSY_WAIT_MS if is_busy else self._max_wait_ms,
                max_bytes=MAX_RESPONSE_BYTES,
            ),
        )
        if answer.error_code:
            raise for_code(answer.error_code)()
        errors: list[KafkaError] = []
        for fetched in answer.partitions:
            each, offset = by_place[fetched.topic_id, fetched.partition]
            # Meanwhile it may be read from another offset, or not at all.
            if self._logs.get(each.tp) is each and each.offset == offset:
                each.end, each.asked_at = fetched.high_watermark, asked_at
                each.stable_end = fetched.last_stable_offset
                try:
                    await self._receive(each, fetched)
                except KafkaError as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        return any(fetched.data for fetched in answer.partitions)

    async def _receive(self, each: _Log, fetched: Fetched) -> None:
        if fetched.error_code == protocol.OFFSET_OUT_OF_RANGE:
            await self._say_what_is_lost(each)
        elif fetched.error_code:
            raise for_code(fetched.error_code)(each.tp.topic)
        elif fetched.diverges_at is not None:
            self._fail(each, diverged(each.tp, each.offset, fetched.diverges_at))
        elif fetched.data:
            each.add(fetched)
            if each.buffered:
                self._ready[each.tp] = None
                self.has_records.set()

    async def _say_what_is_lost(self, each: _Log) -> None:
        begin = (await self._cluster.starts([each.tp]))[each.tp]
        end = (await self._cluster.ends([each.tp]))[each.tp]
        if begin <= each.offset <= end:
            raise for_code(protocol.OFFSET_OUT_OF_RANGE)(each.tp.topic)  # a leader that is behind
        self._fail(each, _lost(each.tp, each.offset, begin, end))

    def _fail(self, each: _Log, error: LostRecordsError) -> None:
        """Report once why a partition cannot be read any more."""
        self.drop([each.tp])
        self._on_failure(error)


async def scan(
    cluster: Cluster,
    tp: TP,
    start: int,
    end: int,
    max_records: int,
    max_bytes: int,
    isolation_level: int = READ_COMMITTED,
) -> AsyncIterator[Taken]:
    """Yield the committed records of one partition, from an offset up to an end.

    Some of the last records may be behind the end. Raises `LostRecordsError` if the log has
    changed, and `KafkaError` if a broker does not answer.
    """
    each = _Log(tp, start, NO_EPOCH, MAX_SCANNED_BYTES)
    while each.taken < end:
        if not each.buffered:
            await _scan_some(cluster, each, isolation_level)
        yield each.take(max_records, max_bytes)


async def diverges_at(cluster: Cluster, tp: TP, offset: int, epoch: int) -> int | None:
    """Return where a log ends, if it lost the record of an epoch before an offset; else None.

    None if the epoch is unknown.
    """
    if epoch == NO_EPOCH:
        return None
    each = _Log(tp, offset, epoch, MAX_SCANNED_BYTES)
    for fetched in await _fetch_alone(cluster, each, READ_COMMITTED, max_wait_ms=0):
        if fetched.error_code:
            raise for_code(fetched.error_code)(tp.topic)
        return fetched.diverges_at
    return None


async def _scan_some(cluster: Cluster, each: _Log, isolation_level: int) -> None:
    for fetched in await _fetch_alone(cluster, each, isolation_level, MAX_WAIT_MS):
        if fetched.error_code == protocol.OFFSET_OUT_OF_RANGE:
            begin, end = (await cluster.starts([each.tp])), (await cluster.ends([each.tp]))
            raise _lost(each.tp, each.offset, begin[each.tp], end[each.tp])
        if fetched.error_code:
            raise for_code(fetched.error_code)(each.tp.topic)
        if fetched.diverges_at is not None:
            raise diverged(each.tp, each.offset, fetched.diverges_at)
        each.add(fetched)


async def _fetch_alone(
    cluster: Cluster, each: _Log, isolation_level: int, max_wait_ms: int
) -> Sequence[Fetched]:
    """Fetch from one partition; return the broker's answer."""
    topic_id = cluster.topic_id(each.tp.topic)
    answer = await cluster.send(
        cluster.leader(each.tp),
        protocol.fetch(
            {topic_id: [each.wanted]},
            isolation_level=isolation_level,
            max_wait_ms=max_wait_ms,
            max_bytes=MAX_RESPONSE_BYTES,
        ),
    )
    if answer.error_code:
        raise for_code(answer.error_code)()
    return cast("Sequence[Fetched]", answer.partitions)

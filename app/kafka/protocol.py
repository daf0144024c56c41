"""Kafka requests that aiokafka does not have, or has in a slower form.

The fields are those of Kafka's protocol guide (https://kafka.apache.org/protocol). What each cycle
sends is packed and unpacked by hand, and records are never copied.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from struct import Struct
from typing import Any, ClassVar, NamedTuple, TypeVar

from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    Bytes,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)
from faust.types import TP

from app.domain.errors import KafkaAccessError

READ_UNCOMMITTED, READ_COMMITTED = 0, 1

#: A topic id as Kafka sends it: 16 bytes.
TopicId = bytes
NO_TOPIC_ID = bytes(16)
#: No leader epoch is known.
NO_EPOCH = -1

#: Sequence numbers go back to 0 behind the largest one of 32 bits.
SEQUENCES = 2**31

# Error codes that the engine treats on their own.
OFFSET_OUT_OF_RANGE = 1
UNKNOWN_TOPIC_OR_PARTITION = 3
LEADER_NOT_AVAILABLE = 5
NOT_LEADER = 6
COORDINATOR_LOAD_IN_PROGRESS = 14
COORDINATOR_NOT_AVAILABLE = 15
NOT_COORDINATOR = 16
MESSAGE_TOO_LARGE = 10
RECORD_LIST_TOO_LARGE = 18
ILLEGAL_GENERATION = 22
UNKNOWN_MEMBER_ID = 25
REBALANCE_IN_PROGRESS = 27
TOPIC_AUTHORIZATION_FAILED = 29
CLUSTER_AUTHORIZATION_FAILED = 31
INVALID_PRODUCER_EPOCH = 47
CONCURRENT_TRANSACTIONS = 51
FENCED_INSTANCE_ID = 82
UNSTABLE_OFFSET_COMMIT = 88
PRODUCER_FENCED = 90
UNKNOWN_TOPIC_ID = 100
INCONSISTENT_TOPIC_ID = 103
TRANSACTIONAL_ID_NOT_FOUND = 105


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a version that we know, in the form that aiokafka's connections take."""

    struct: type[RequestStruct]
    arguments: tuple[Any, ...]

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        """Return the request; raise `KafkaAccessError` if the broker does not know it."""
        first, last = versions.get(self.struct.API_KEY, (0, -1))
        if not first <= self.struct.API_VERSION <= last:
            raise KafkaAccessError(
                f"KAFKA_BROKERS: a broker does not know {self.struct.__name__.strip('_')}: "
                "Kafka 3.1 or newer is needed"
            )
        return self.struct(*self.arguments)


# -- what is asked now and then: by field lists
#
# The newer ("flexible") encoding has compact arrays and texts, and tags behind each struct.

_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


def _flexible(*fields: tuple[str, Any]) -> Schema:
    return Schema(*fields, _TAGS)


def _each(*fields: tuple[str, Any]) -> CompactArray:
    return CompactArray(*fields, _TAGS)


#: Partitions by topic.
_PLACES = ("topics", _each(("topic", _TEXT), ("partitions", CompactArray(Int32))))


def _answers(*fields: tuple[str, Any]) -> tuple[str, Any]:
    """Return a field of structs by topic and partition."""
    return "topics", _each(("topic", _TEXT), ("partitions", _each(("partition", Int32), *fields)))


class _ListTransactionsResponse(Response):
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = _flexible(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(_TEXT)),
        (
            "transactions",
            _each(("transactional_id", _TEXT), ("producer_id", Int64), ("state", _TEXT)),
        ),
    )


class ListTransactions(RequestStruct):
    """Lists the transactional ids that a broker coordinates."""

    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListTransactionsResponse
    SCHEMA = _flexible(
        ("state_filters", CompactArray(_TEXT)), ("producer_id_filters", CompactArray(Int64))
    )


class _DescribeTransactionsResponse(Response):
    API_KEY = 65
    API_VERSION = 0
    SCHEMA = _flexible(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            _each(
                ("error_code", Int16),
                ("transactional_id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("began_at_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                _PLACES,
            ),
        ),
    )


class DescribeTransactions(RequestStruct):
    """Asks a coordinator about transactional ids: how their last transactions ended."""

    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeTransactionsResponse
    SCHEMA = _flexible(("transactional_ids", CompactArray(_TEXT)))


class _WriteTxnMarkersResponse(Response):
    API_KEY = 27
    API_VERSION = 1
    SCHEMA = _flexible(("markers", _each(("producer_id", Int64), _answers(("error_code", Int16)))))


class WriteTxnMarkers(RequestStruct):
    """Ends a transaction in one partition, as its coordinator should have done."""

    API_KEY = 27
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _WriteTxnMarkersResponse
    SCHEMA = _flexible(
        (
            "markers",
            _each(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("is_committed", Boolean),
                _PLACES,
                ("coordinator_epoch", Int32),
            ),
        ),
    )


class _DescribeProducersResponse(Response):
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = _flexible(
        ("throttle_time_ms", Int32),
        _answers(
            ("error_code", Int16),
            ("error_message", _TEXT),
            (
                "producers",
                _each(
                    ("producer_id", Int64),
                    ("producer_epoch", Int32),
                    ("last_sequence", Int32),
                    ("last_timestamp", Int64),
                    ("coordinator_epoch", Int32),
                    ("transaction_start", Int64),
                ),
            ),
        ),
    )


class DescribeProducers(RequestStruct):
    """Asks the leader of partitions who has written there, and whose transactions are open."""

    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeProducersResponse
    SCHEMA = _flexible(_PLACES)


class _OffsetFetchResponse(Response):
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = _flexible(
        ("throttle_time_ms", Int32),
        _answers(
            ("offset", Int64),
            ("leader_epoch", Int32),
            ("metadata", _TEXT),
            ("error_code", Int16),
        ),
        ("error_code", Int16),
    )


class OffsetFetch(RequestStruct):
    """Asks for committed offsets; ``require_stable`` refuses those of open transactions."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = _flexible(("group_id", _TEXT), _PLACES, ("require_stable", Boolean))


class _HeartbeatResponse(Response):
    API_KEY = 12
    API_VERSION = 3
    SCHEMA = Schema(("throttle_time_ms", Int32), ("error_code", Int16))


class Heartbeat(RequestStruct):
    """Asks the coordinator whether it knows this member, generation and instance."""

    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = _HeartbeatResponse
    SCHEMA = Schema(
        ("group_id", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class _DescribeGroupsResponse(Response):
    API_KEY = 15
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group_id", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("group_instance_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("metadata", Bytes),
                        ("assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class DescribeGroups(RequestStruct):
    """Describes consumer groups, with their members' instance ids."""

    API_KEY = 15
    API_VERSION = 4
    RESPONSE_TYPE = _DescribeGroupsResponse
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class _MetadataResponse(Response):
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = _flexible(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            _each(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT)),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            _each(
                ("error_code", Int16),
                ("name", _TEXT),
                ("id_high", Int64),
                ("id_low", Int64),
                ("is_internal", Boolean),
                (
                    "partitions",
                    _each(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("in_sync", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("authorized_operations", Int32),
    )


class Metadata(RequestStruct):
    """Asks who leads the partitions of topics, and for the topics' ids."""

    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = _flexible(
        ("topics", _each(("id_high", Int64), ("id_low", Int64), ("name", _TEXT))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _ListOffsetsResponse(Response):
    API_KEY = 2
    API_VERSION = 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("timestamp", Int64),
                        ("offset", Int64),
                    ),
                ),
            ),
        ),
    )


class ListOffsets(RequestStruct):
    """Asks where partitions begin or end; the end depends on the isolation level."""

    API_KEY = 2
    API_VERSION = 2
    RESPONSE_TYPE = _ListOffsetsResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("isolation_level", Boolean),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                ("partitions", Array(("partition", Int32), ("timestamp", Int64))),
            ),
        ),
    )


#: In place of a timestamp: the first offset of a log, and the one behind its last.
EARLIEST, LATEST = -2, -1


# -- by hand: what each cycle sends


class _Header(NamedTuple):
    """The header of a request, packed; or of an answer, as far as it counts."""

    correlation_id: int
    packed: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes."""
        return self.packed


#: API key, version, correlation id, length of the client id.
_REQUEST_HEADER = Struct(">hhih")


class _Packed(RequestStruct):
    """A request that was packed before."""

    API_KEY: ClassVar[int] = -1
    API_VERSION: ClassVar[int] = -1
    RESPONSE_TYPE = Response
    SCHEMA = Schema()

    def __init__(self, packed: bytes) -> None:
        super().__init__()
        self.packed = packed

    def encode(self) -> bytes:
        """Return the bytes."""
        return self.packed

    def build_request_header(self, correlation_id: int, client_id: str) -> _Header:
        """Return the header: aiokafka's own costs as much as a small request."""
        name = client_id.encode()
        head = _REQUEST_HEADER.pack(self.API_KEY, self.API_VERSION, correlation_id, len(name))
        return _Header(correlation_id, head + name + b"\0" * self.FLEXIBLE_VERSION)

    def parse_response_header(self, read_buffer: BytesIO) -> _Header:
        """Read the header of an answer, up to where the answer begins."""
        (correlation_id,) = _INT32.unpack(read_buffer.read(4))
        if self.FLEXIBLE_VERSION:
            _, at = _read_tags(read_buffer.getbuffer(), 4)
            read_buffer.seek(at)
        return _Header(correlation_id)


class Fetched(NamedTuple):
    """What a fetch returned for one partition."""

    topic_id: TopicId
    partition: int
    error_code: int
    high_watermark: int
    last_stable_offset: int
    log_start: int
    #: (producer id, first offset) of each aborted transaction.
    aborted: Sequence[tuple[int, int]]
    data: memoryview
    #: Where the log of the epoch that was named ends, if it ends before what was asked for.
    diverges_at: int | None


_FETCHED = Struct(">ihqqq")
_INT16, _INT32, _INT64 = Struct(">h"), Struct(">i"), Struct(">q")
_ABORTED = Struct(">qq")
_DIVERGING = Struct(">iq")


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return an unsigned varint, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _read_tags(data: memoryview, at: int) -> tuple[Mapping[int, memoryview], int]:
    count, at = _read_varint(data, at)
    tags = {}
    for _ in range(count):
        tag, at = _read_varint(data, at)
        size, at = _read_varint(data, at)
        tags[tag] = data[at : at + size]
        at += size
    return tags, at


class FetchAnswer(NamedTuple):
    """The answer to a Fetch."""

    error_code: int
    partitions: Sequence[Fetched]

    @classmethod
    def decode(cls, buffer: BytesIO) -> "FetchAnswer":
        """Read version 13; the records stay where they are."""
        data, at = buffer.getbuffer(), buffer.tell() + 4
        (error_code,) = _INT16.unpack_from(data, at)
        topics, at = _read_varint(data, at + 6)
        found = []
        for _ in range(topics - 1):
            topic_id = bytes(data[at : at + 16])
            partitions, at = _read_varint(data, at + 16)
            for _ in range(partitions - 1):
                fetched, at = _read_fetched(topic_id, data, at)
                found.append(fetched)
            _, at = _read_tags(data, at)
        return cls(error_code, found)


def _read_fetched(topic_id: TopicId, data: memoryview, at: int) -> tuple[Fetched, int]:
    numbers = _FETCHED.unpack_from(data, at)
    count, at = _read_varint(data, at + _FETCHED.size)
    aborted = []
    for _ in range(count - 1):
        aborted.append(_ABORTED.unpack_from(data, at))
        _, at = _read_tags(data, at + _ABORTED.size)
    size, at = _read_varint(data, at + 4)
    records = data[at : at + max(size - 1, 0)]
    tags, at = _read_tags(data, at + max(size - 1, 0))
    diverges_at = None
    if (diverging := tags.get(0)) is not None:
        epoch, end = _DIVERGING.unpack_from(diverging, 0)
        diverges_at = end if epoch >= 0 or end >= 0 else None
    number, error_code, high_watermark, stable_end, log_start = numbers
    return Fetched(
        topic_id,
        number,
        error_code,
        high_watermark,
        stable_end,
        log_start,
        aborted,
        records,
        diverges_at,
    ), at


class _Fetch(_Packed):
    API_KEY = 1
    API_VERSION = 13
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = FetchAnswer


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    packed = bytearray()
    while value >= 0x80:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    packed.append(value)
    return bytes(packed)


#: replica id, max wait, min bytes, max bytes, isolation, session id and epoch (no session).
_FETCH_HEAD = Struct(">iiiibii")
#: partition, leader epoch, offset, last fetched epoch, log start, max bytes, no tags.
_FETCH_PARTITION = Struct(">iiqiqib")


def wanted(partition: int, offset: int, last_epoch: int, max_bytes: int) -> bytes:
    """Return what a fetch wants of a partition; the epoch is that of the last record before."""
    return _FETCH_PARTITION.pack(partition, NO_EPOCH, offset, last_epoch, -1, max_bytes, 0)


def fetch(
    wanted: Mapping[TopicId, Sequence[bytes]],
    *,
    isolation_level: int,
    max_wait_ms: int,
    max_bytes: int,
) -> Call:
    """Return a request for records of partitions, by topic id; see `wanted`."""
    parts = [
        _FETCH_HEAD.pack(-1, max_wait_ms, 1, max_bytes, isolation_level, 0, -1),
        _varint(len(wanted) + 1),
    ]
    for topic_id, partitions in wanted.items():
        parts += topic_id, _varint(len(partitions) + 1), *partitions, b"\0"
    # No forgotten topics, no rack, no tags.
    parts.append(b"\x01\x01\0")
    return Call(_Fetch, (b"".join(parts),))


class Produced(NamedTuple):
    """What became of the batch of one partition."""

    tp: TP
    error_code: int
    base_offset: int


_PRODUCED = Struct(">ihqqq")


class ProduceAnswer(NamedTuple):
    """The answer to a Produce."""

    partitions: Sequence[Produced]

    @classmethod
    def decode(cls, buffer: BytesIO) -> "ProduceAnswer":
        """Read version 7."""
        data, at = buffer.getbuffer(), buffer.tell()
        (topics,) = _INT32.unpack_from(data, at)
        at += 4
        found = []
        for _ in range(topics):
            (size,) = _INT16.unpack_from(data, at)
            topic = str(data[at + 2 : at + 2 + size], "utf-8")
            at += 2 + size
            (partitions,) = _INT32.unpack_from(data, at)
            at += 4
            for _ in range(partitions):
                number, error_code, offset, _, _ = _PRODUCED.unpack_from(data, at)
                found.append(Produced(TP(topic, number), error_code, offset))
                at += _PRODUCED.size
        return cls(found)


class _Produce(_Packed):
    API_KEY = 0
    API_VERSION = 7
    RESPONSE_TYPE = ProduceAnswer


_PRODUCE_HEAD = Struct(">hi")


def _string(text: str) -> bytes:
    encoded = text.encode()
    return _INT16.pack(len(encoded)) + encoded


def produce(
    transactional_id: str | None, timeout_ms: int, batches: Iterable[tuple[TP, bytes | bytearray]]
) -> Call:
    """Return a request that writes one batch to each partition, acks=all."""
    grouped = _pairs_by_topic(batches)
    parts: list[bytes | bytearray] = [
        _INT16.pack(-1) if transactional_id is None else _string(transactional_id),
        _PRODUCE_HEAD.pack(-1, timeout_ms),
        _INT32.pack(len(grouped)),
    ]
    for topic, partitions in grouped.items():
        parts += _string(topic), _INT32.pack(len(partitions))
        for number, batch in partitions:
            parts += _INT32.pack(number), _INT32.pack(len(batch)), batch
    return Call(_Produce, (b"".join(parts),))


def by_topic(partitions: Iterable[TP]) -> list[tuple[str, list[int]]]:
    """Return partitions as most requests want them: numbers by topic."""
    grouped: dict[str, list[int]] = {}
    for tp in partitions:
        grouped.setdefault(tp.topic, []).append(tp.partition)
    return list(grouped.items())


_T = TypeVar("_T")


def _pairs_by_topic(pairs: Iterable[tuple[TP, _T]]) -> dict[str, list[tuple[int, _T]]]:
    grouped: dict[str, list[tuple[int, _T]]] = {}
    for tp, each in pairs:
        grouped.setdefault(tp.topic, []).append((tp.partition, each))
    return grouped


# -- the steps of a transaction


class ErrorAnswer(NamedTuple):
    """An answer of which only the error counts."""

    error_code: int

    @classmethod
    def decode(cls, buffer: BytesIO) -> "ErrorAnswer":
        """Read what is behind the throttle time."""
        return cls(*_INT16.unpack_from(buffer.getbuffer(), buffer.tell() + 4))


class PartitionErrorsAnswer(ErrorAnswer):
    """An answer with an error for each partition, of which one is kept."""

    @classmethod
    def decode(cls, buffer: BytesIO) -> "PartitionErrorsAnswer":
        """Read topics and partitions; prefer an error that says what was wrong."""
        data, at = buffer.getbuffer(), buffer.tell() + 4
        (topics,) = _INT32.unpack_from(data, at)
        at += 4
        codes = set()
        for _ in range(topics):
            (size,) = _INT16.unpack_from(data, at)
            (partitions,) = _INT32.unpack_from(data, at + 2 + size)
            at += 6 + size
            for _ in range(partitions):
                codes.add(_NUMBER_AND_ERROR.unpack_from(data, at)[1])
                at += _NUMBER_AND_ERROR.size
        return cls(_worst(codes))


class CompactErrorsAnswer(ErrorAnswer):
    """The same in the newer encoding."""

    @classmethod
    def decode(cls, buffer: BytesIO) -> "CompactErrorsAnswer":
        """Read topics and partitions; prefer an error that says what was wrong."""
        data = buffer.getbuffer()
        topics, at = _read_varint(data, buffer.tell() + 4)
        codes = set()
        for _ in range(topics - 1):
            size, at = _read_varint(data, at)
            partitions, at = _read_varint(data, at + size - 1)
            for _ in range(partitions - 1):
                codes.add(_NUMBER_AND_ERROR.unpack_from(data, at)[1])
                _, at = _read_tags(data, at + _NUMBER_AND_ERROR.size)
            _, at = _read_tags(data, at)
        return cls(_worst(codes))


_NUMBER_AND_ERROR = Struct(">ih")
#: Said of partitions beside the one that failed.
_NOT_ATTEMPTED = 55


def _worst(codes: set[int]) -> int:
    return max(codes - {0, _NOT_ATTEMPTED}, default=max(codes, default=0))


class _AddPartitionsToTxn(_Packed):
    API_KEY = 24
    API_VERSION = 0
    RESPONSE_TYPE = PartitionErrorsAnswer


class _AddOffsetsToTxn(_Packed):
    API_KEY = 25
    API_VERSION = 0
    RESPONSE_TYPE = ErrorAnswer


class _EndTxn(_Packed):
    API_KEY = 26
    API_VERSION = 0
    RESPONSE_TYPE = ErrorAnswer


class _TxnOffsetCommit(_Packed):
    """Commits offsets within a transaction; from version 3 on it names the group's generation."""

    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = CompactErrorsAnswer


class ProducerIdentity(NamedTuple):
    """What a broker knows a producer by."""

    id: int
    epoch: int


_PRODUCER = Struct(">qh")


def add_partitions(
    transactional_id: str, producer: ProducerIdentity, partitions: Iterable[TP]
) -> Call:
    """Return a request to let partitions take part in a transaction."""
    grouped = by_topic(partitions)
    parts = [_string(transactional_id), _PRODUCER.pack(*producer), _INT32.pack(len(grouped))]
    for topic, numbers in grouped:
        parts += _string(topic), _INT32.pack(len(numbers)), *map(_INT32.pack, numbers)
    return Call(_AddPartitionsToTxn, (b"".join(parts),))


def add_offsets(transactional_id: str, producer: ProducerIdentity, group: str) -> Call:
    """Return a request to let offsets of a group take part in a transaction."""
    packed = _string(transactional_id) + _PRODUCER.pack(*producer) + _string(group)
    return Call(_AddOffsetsToTxn, (packed,))


def end_transaction(transactional_id: str, producer: ProducerIdentity, *, is_commit: bool) -> Call:
    """Return a request to end a transaction."""
    packed = _string(transactional_id) + _PRODUCER.pack(*producer) + bytes((is_commit,))
    return Call(_EndTxn, (packed,))


def _compact_string(text: str | None) -> bytes:
    if text is None:
        return b"\0"
    encoded = text.encode()
    return _varint(len(encoded) + 1) + encoded


#: partition, offset, no leader epoch, no metadata, no tags.
_OFFSET = Struct(">iqibb")


def commit_offsets(
    transactional_id: str,
    producer: ProducerIdentity,
    group: str,
    member: tuple[int, str, str | None],
    offsets: Mapping[TP, int],
) -> Call:
    """Return a request to commit offsets in a transaction, as a member of a generation.

    ``member``: generation, member id, instance id.
    """
    generation, member_id, instance_id = member
    grouped = _pairs_by_topic(offsets.items())
    parts = [
        _compact_string(transactional_id),
        _compact_string(group),
        _PRODUCER.pack(*producer),
        _INT32.pack(generation),
        _compact_string(member_id),
        _compact_string(instance_id),
        _varint(len(grouped) + 1),
    ]
    for topic, partitions in grouped.items():
        parts += _compact_string(topic), _varint(len(partitions) + 1)
        parts += [_OFFSET.pack(number, offset, -1, 1, 0) for number, offset in partitions]
        parts.append(b"\0")
    parts.append(b"\0")
    return Call(_TxnOffsetCommit, (b"".join(parts),))

"""Requests that are packed by hand are those of Kafka's protocol, and so are their answers.

What aiokafka has in the same version is its own schema; for the rest the schema is written here by
the protocol guide, in another way than the engine packs it.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol import produce, transaction
from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
    UnsignedVarInt32,
)
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import KafkaAccessError
from app.kafka import protocol
from app.kafka.protocol import (
    NO_EPOCH,
    READ_COMMITTED,
    Call,
    CompactErrorsAnswer,
    ErrorAnswer,
    FetchAnswer,
    PartitionErrorsAnswer,
    ProduceAnswer,
    Produced,
    ProducerIdentity,
    wanted,
)

FIRST, SECOND = bytes(range(16)), bytes(range(100, 116))
PRODUCER = ProducerIdentity(2**40, 7)

TOPIC_ID = (("high", Int64), ("low", Int64))

FETCH_REQUEST = Schema(
    ("replica_id", Int32),
    ("max_wait_ms", Int32),
    ("min_bytes", Int32),
    ("max_bytes", Int32),
    ("isolation_level", Int8),
    ("session_id", Int32),
    ("session_epoch", Int32),
    (
        "topics",
        CompactArray(
            *TOPIC_ID,
            (
                "partitions",
                CompactArray(
                    ("partition", Int32),
                    ("current_leader_epoch", Int32),
                    ("fetch_offset", Int64),
                    ("last_fetched_epoch", Int32),
                    ("log_start_offset", Int64),
                    ("partition_max_bytes", Int32),
                    ("tags", TaggedFields),
                ),
            ),
            ("tags", TaggedFields),
        ),
    ),
    (
        "forgotten_topics",
        CompactArray(*TOPIC_ID, ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
    ),
    ("rack_id", CompactString("utf-8")),
    ("tags", TaggedFields),
)

FETCH_ANSWER = Schema(
    ("throttle_time_ms", Int32),
    ("error_code", Int16),
    ("session_id", Int32),
    (
        "topics",
        CompactArray(
            *TOPIC_ID,
            (
                "partitions",
                CompactArray(
                    ("partition", Int32),
                    ("error_code", Int16),
                    ("high_watermark", Int64),
                    ("last_stable_offset", Int64),
                    ("log_start_offset", Int64),
                    (
                        "aborted",
                        CompactArray(
                            ("producer_id", Int64), ("first_offset", Int64), ("tags", TaggedFields)
                        ),
                    ),
                    ("preferred_read_replica", Int32),
                    ("records", CompactBytes),
                    ("tags", TaggedFields),
                ),
            ),
            ("tags", TaggedFields),
        ),
    ),
    ("tags", TaggedFields),
)

OFFSET_COMMIT_REQUEST = Schema(
    ("transactional_id", CompactString("utf-8")),
    ("group_id", CompactString("utf-8")),
    ("producer_id", Int64),
    ("producer_epoch", Int16),
    ("generation_id", Int32),
    ("member_id", CompactString("utf-8")),
    ("group_instance_id", CompactString("utf-8")),
    (
        "topics",
        CompactArray(
            ("name", CompactString("utf-8")),
            (
                "partitions",
                CompactArray(
                    ("partition", Int32),
                    ("offset", Int64),
                    ("leader_epoch", Int32),
                    ("metadata", CompactString("utf-8")),
                    ("tags", TaggedFields),
                ),
            ),
            ("tags", TaggedFields),
        ),
    ),
    ("tags", TaggedFields),
)

OFFSET_COMMIT_ANSWER = Schema(
    ("throttle_time_ms", Int32),
    (
        "topics",
        CompactArray(
            ("name", CompactString("utf-8")),
            (
                "partitions",
                CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
            ),
            ("tags", TaggedFields),
        ),
    ),
    ("tags", TaggedFields),
)


def packed(call: Call) -> bytes:
    """Return the bytes of a request, as aiokafka's connection asks for them."""
    versions = {call.struct.API_KEY: (0, call.struct.API_VERSION)}
    return bytes(call.prepare(versions).encode())


def unpacked(schema: Schema, data: bytes) -> tuple[Any, ...]:
    """Return what is in some bytes, all of them."""
    buffer = BytesIO(data)
    found = tuple(schema.decode(buffer))
    assert buffer.read() == b""
    return found


def halves(topic_id: bytes) -> tuple[int, int]:
    """Return a topic id as two numbers."""
    return tuple(int.from_bytes(half, "big", signed=True) for half in (topic_id[:8], topic_id[8:]))  # type: ignore[return-value]


def answered(answer: type[Any], encoded: bytes) -> Any:
    """Decode an answer where aiokafka does it: behind a header."""
    buffer = BytesIO(b"head" + encoded)
    buffer.seek(4)
    return answer.decode(buffer)


def test_strings_longer_than_a_byte_can_count_have_a_longer_count() -> None:
    assert protocol.compact_string(None) == b"\0"
    assert protocol.compact_string("") == b"\1"
    for size in (126, 127, 128, 20_000):
        text = "x" * size
        assert protocol.compact_string(text) == CompactString("utf-8").encode(text)


@given(st.integers(0, 2**32 - 1))
def test_counts_are_those_of_aiokafka(value: int) -> None:
    encoded = UnsignedVarInt32.encode(value)
    assert protocol.varint(value) == encoded
    assert protocol.read_varint(memoryview(b"-" + encoded), 1) == (value, 1 + len(encoded))


# -- Fetch


def test_a_fetch_names_topics_by_id_and_the_epoch_of_what_was_read() -> None:
    call = protocol.fetch(
        {
            FIRST: [wanted(0, 5, 2, 1 << 20), wanted(3, 2**40, NO_EPOCH, 1 << 20)],
            SECOND: [wanted(1, 0, 9, 1 << 20)],
        },
        isolation_level=READ_COMMITTED,
        max_wait_ms=100,
        max_bytes=8 << 20,
    )
    head = (-1, 100, 1, 8 << 20, 1, 0, -1)
    size = 1 << 20
    assert unpacked(FETCH_REQUEST, packed(call)) == (
        *head,
        [
            (
                *halves(FIRST),
                [(0, -1, 5, 2, -1, size, {}), (3, -1, 2**40, -1, -1, size, {})],
                {},
            ),
            (*halves(SECOND), [(1, -1, 0, 9, -1, size, {})], {}),
        ],
        [],
        "",
        {},
    )


def test_a_fetch_is_these_bytes() -> None:
    call = protocol.fetch(
        {FIRST: [wanted(1, 2, 3, 6)]},
        isolation_level=READ_COMMITTED,
        max_wait_ms=4,
        max_bytes=5,
    )
    assert packed(call).hex() == (
        "ffffffff" "00000004" "00000001" "00000005" "01" "00000000" "ffffffff"
        "02" "000102030405060708090a0b0c0d0e0f"
        "02" "00000001" "ffffffff" "0000000000000002" "00000003" "ffffffffffffffff" "00000006"
        "00" "00" "01" "01" "00"
    )  # fmt: skip


def test_many_partitions_are_counted_in_more_than_one_byte() -> None:
    many = [wanted(number, number, NO_EPOCH, 1) for number in range(300)]
    call = protocol.fetch({FIRST: many}, isolation_level=0, max_wait_ms=0, max_bytes=1)
    *_, topics, _, _, _ = unpacked(FETCH_REQUEST, packed(call))
    ((_, _, partitions, _),) = topics
    assert [each[0] for each in partitions] == list(range(300))


def partition(
    number: int, records: bytes | None, *, error: int = 0, aborted: Any = None, tags: Any = None
) -> tuple[Any, ...]:
    """Return a partition of an answer to a Fetch."""
    return number, error, 90, 80, 10, aborted, -1, records, tags or {}


def test_the_answer_to_a_fetch_is_read_and_its_records_are_not_copied() -> None:
    aborted = [(7, 11, {}), (8, 12, {3: b"\x02ab"})]
    encoded = FETCH_ANSWER.encode(
        (
            5,
            0,
            0,
            [
                (*halves(FIRST), [partition(0, b"records", aborted=aborted)], {}),
                (*halves(SECOND), [partition(1, None, aborted=[]), partition(2, b"")], {}),
            ],
            {},
        )
    )
    answer = answered(FetchAnswer, encoded)
    assert answer.error_code == 0
    first, second, third = answer.partitions
    assert (first.topic_id, first.partition, first.error_code) == (FIRST, 0, 0)
    assert (first.high_watermark, first.last_stable_offset, first.log_start) == (90, 80, 10)
    assert list(first.aborted) == [(7, 11), (8, 12)]
    assert isinstance(first.data, memoryview)
    assert bytes(first.data) == b"records"
    assert first.diverges_at is None
    assert [(each.topic_id, each.partition) for each in (second, third)] == [
        (SECOND, 1),
        (SECOND, 2),
    ]
    assert [bytes(each.data) for each in (second, third)] == [b"", b""]
    assert [list(each.aborted) for each in (second, third)] == [[], []]


def test_an_error_of_the_whole_fetch_is_read() -> None:
    answer = answered(FetchAnswer, FETCH_ANSWER.encode((0, 70, 0, [], {})))
    assert (answer.error_code, answer.partitions) == (70, [])


def test_an_error_of_one_partition_is_read() -> None:
    gone = partition(4, None, error=protocol.OFFSET_OUT_OF_RANGE)
    encoded = FETCH_ANSWER.encode((0, 0, 0, [(*halves(FIRST), [gone], {})], {}))
    (found,) = answered(FetchAnswer, encoded).partitions
    assert (found.partition, found.error_code) == (4, protocol.OFFSET_OUT_OF_RANGE)


def _tagged(tags: Mapping[int, bytes]) -> bytes:
    encoded = bytes(UnsignedVarInt32.encode(len(tags)))
    for tag, value in tags.items():
        encoded += UnsignedVarInt32.encode(tag) + UnsignedVarInt32.encode(len(value)) + value
    return encoded


@pytest.mark.parametrize(
    ("epoch", "end", "diverges_at"), [(3, 40, 40), (-1, -1, None), (0, 0, 0), (5, -1, -1)]
)
def test_where_the_log_of_an_epoch_ends_is_read_from_among_the_tags(
    epoch: int, end: int, diverges_at: int | None
) -> None:
    plain = FETCH_ANSWER.encode((0, 0, 0, [(*halves(FIRST), [partition(0, b"")], {})], {}))
    # The tags of the partition, of the topic and of the answer are the last three bytes.
    diverging = Int32.encode(epoch) + Int64.encode(end) + b"\0"
    tags = _tagged({0: diverging, 1: Int32.encode(2) + Int32.encode(9) + b"\0", 200: b"x" * 300})
    (found,) = answered(FetchAnswer, plain[:-3] + tags + b"\0\0").partitions
    assert found.diverges_at == diverges_at


# -- Produce


@pytest.mark.parametrize("transactional_id", ["registry-wörker", None])
def test_batches_are_sent_as_aiokafka_would(transactional_id: str | None) -> None:
    batches: list[tuple[TP, bytes | bytearray]] = [
        (TP("one", 0), b"batch"),
        (TP("two", 1), bytearray(b"another")),
        (TP("one", 5), b""),
    ]
    theirs = produce.ProduceRequest_v7(
        transactional_id,
        -1,
        1_500,
        [("one", [(0, b"batch"), (5, b"")]), ("two", [(1, b"another")])],
    )
    assert packed(protocol.produce(transactional_id, 1_500, batches)) == theirs.encode()


def test_the_answer_to_batches_is_read() -> None:
    theirs = produce.ProduceResponse_v7(
        [("öne", [(0, 0, 11, -1, 3), (5, 10, -1, -1, -1)]), ("two", [(1, 0, 2**40, 5, 0)])], 9
    )
    assert list(answered(ProduceAnswer, theirs.encode()).partitions) == [
        Produced(TP("öne", 0), 0, 11),
        Produced(TP("öne", 5), 10, -1),
        Produced(TP("two", 1), 0, 2**40),
    ]


# -- transactions


def test_partitions_and_groups_take_part_as_aiokafka_would_let_them() -> None:
    partitions = [TP("one", 0), TP("two", 1), TP("one", 2)]
    assert (
        packed(protocol.add_partitions("idé", PRODUCER, partitions))
        == transaction.AddPartitionsToTxnRequest_v0(
            "idé", *PRODUCER, [("one", [0, 2]), ("two", [1])]
        ).encode()
    )
    assert (
        packed(protocol.add_offsets("id", PRODUCER, "group"))
        == transaction.AddOffsetsToTxnRequest_v0("id", *PRODUCER, "group").encode()
    )


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_transaction_ends_as_aiokafka_would_end_it(is_commit: bool) -> None:
    theirs = transaction.EndTxnRequest_v0("id", *PRODUCER, is_commit)
    assert packed(protocol.end_transaction("id", PRODUCER, is_commit=is_commit)) == theirs.encode()


@pytest.mark.parametrize("instance_id", ["worker-0", None])
def test_offsets_are_committed_as_a_member_of_a_generation(instance_id: str | None) -> None:
    call = protocol.commit_offsets(
        "id",
        PRODUCER,
        "grüppe",
        (41, "member", instance_id),
        {TP("one", 0): 5, TP("two", 1): 2**40, TP("one", 2): 0},
    )
    assert unpacked(OFFSET_COMMIT_REQUEST, packed(call)) == (
        "id",
        "grüppe",
        *PRODUCER,
        41,
        "member",
        instance_id,
        [
            ("one", [(0, 5, -1, "", {}), (2, 0, -1, "", {})], {}),
            ("two", [(1, 2**40, -1, "", {})], {}),
        ],
        {},
    )
    assert call.struct.FLEXIBLE_VERSION


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ([[0, 0], [0]], 0),
        ([[0, 22], [0]], 22),
        # What was not attempted says nothing; what failed does.
        ([[55, 55], [3]], 3),
        ([[55], [55, 55]], 55),
        ([[55, 82], [0]], 82),
        ([], 0),
    ],
)
def test_of_errors_of_partitions_one_is_told_that_says_what_was_wrong(
    codes: list[list[int]], told: int
) -> None:
    plain = [(f"t{n}", list(enumerate(each))) for n, each in enumerate(codes)]
    theirs = transaction.AddPartitionsToTxnResponse_v0(7, plain)
    assert answered(PartitionErrorsAnswer, theirs.encode()).error_code == told
    tagged: Any = [
        (f"t{n}", [(number, code, {}) for number, code in enumerate(each)], {})
        for n, each in enumerate(codes)
    ]
    encoded = OFFSET_COMMIT_ANSWER.encode((7, tagged, {}))
    assert answered(CompactErrorsAnswer, encoded).error_code == told


def test_one_error_is_read_behind_the_throttle_time() -> None:
    assert answered(ErrorAnswer, transaction.EndTxnResponse_v0(3, 48).encode()).error_code == 48
    answer = transaction.AddOffsetsToTxnResponse_v0(3, 0)
    assert answered(ErrorAnswer, answer.encode()).error_code == 0


# -- what has a schema


@pytest.mark.parametrize(
    ("struct", "arguments", "encoded"),
    [
        (
            protocol.OffsetFetch,
            ("g", [("t", [1, 2], {})], True, {}),
            "0267" "02" "0274" "03" "00000001" "00000002" "00" "01" "00",
        ),
        (protocol.Heartbeat, ("g", 5, "m", "i"), "000167" "00000005" "00016d" "000169"),
        (protocol.Heartbeat, ("g", 5, "m", None), "000167" "00000005" "00016d" "ffff"),
        (protocol.DescribeGroups, (["g"], False), "00000001" "000167" "00"),
        (protocol.ListTransactions, (["Ongoing"], [], {}), "02" "084f6e676f696e67" "01" "00"),
        (
            protocol.Metadata,
            ([(0, 0, "t", {})], False, False, False, {}),
            "02" + "00" * 16 + "0274" "00" "00" "00" "00" "00",
        ),
        (
            protocol.ListOffsets,
            (-1, True, [("t", [(0, protocol.LATEST)])]),
            "ffffffff" "01" "00000001" "000174" "00000001" "00000000" "ffffffffffffffff",
        ),
    ],
)  # fmt: skip
def test_other_requests_are_these_bytes(
    struct: type[RequestStruct], arguments: tuple[Any, ...], encoded: str
) -> None:
    assert packed(Call(struct, arguments)).hex() == encoded


# -- what a broker must know


def test_a_broker_that_does_not_know_a_request_is_told_apart() -> None:
    call = protocol.fetch({}, isolation_level=0, max_wait_ms=0, max_bytes=1)
    assert call.prepare({1: (4, 17)}).API_VERSION == 13
    for versions in ({1: (0, 12)}, {1: (14, 17)}, {}):
        with pytest.raises(KafkaAccessError, match=r"Kafka 3\.1 or newer"):
            call.prepare(versions)


def test_partitions_are_grouped_by_topic_in_their_order() -> None:
    partitions = [TP("b", 3), TP("a", 1), TP("b", 0)]
    assert protocol.by_topic(partitions) == [("b", [3, 0]), ("a", [1])]

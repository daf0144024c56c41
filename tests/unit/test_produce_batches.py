"""Batches: their sequence numbers, and whether they may be written still."""

import pytest
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    KafkaStorageError,
    NodeNotReadyError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    RequestTimedOutError,
)
from aiokafka.record.memory_records import MemoryRecords

from app.ingest.produce_batches import Batch, Sequence
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.protocol import ProducerIdentity

FIRST, NEXT = ProducerIdentity(7, 1), ProducerIdentity(7, 3)


def records(count: int, size: int = 10) -> list[ToWrite]:
    return [(None, b"k%d" % n, b"x" * size, NO_HEADERS) for n in range(count)]


def read(batch: Batch) -> tuple[int, int, int, list[bytes]]:
    """Return a batch's producer id, epoch, first sequence number and keys."""
    parsed = MemoryRecords(batch.data).next_batch()
    # As in Kafka's record batches of version 2.
    epoch, sequence = batch.data[51:53], batch.data[53:57]
    keys = [record.key for record in parsed]
    return parsed.producer_id, int.from_bytes(epoch), int.from_bytes(sequence), keys


def test_batches_follow_each_other_once_they_are_written() -> None:
    sequence = Sequence()
    first = sequence.build(FIRST, records(3), 10_000)
    assert read(first) == (7, 1, 0, [b"k0", b"k1", b"k2"])
    # One that was refused has taken no numbers.
    assert read(sequence.build(FIRST, records(1), 10_000)) == (7, 1, 0, [b"k0"])
    sequence.written(first)
    assert read(sequence.build(FIRST, records(1), 10_000)) == (7, 1, 3, [b"k0"])


def test_under_a_new_identity_they_begin_anew() -> None:
    sequence = Sequence()
    sequence.written(sequence.build(FIRST, records(3), 10_000))
    assert read(sequence.build(NEXT, records(1), 10_000))[:3] == (7, 3, 0)


def test_a_batch_takes_what_fits_and_one_record_of_any_size() -> None:
    sequence = Sequence()
    assert sequence.build(FIRST, records(50, 100), 1_000).records < 10
    assert sequence.build(FIRST, records(2, 5_000), 1_000).records == 1


def test_numbers_go_back_to_zero_behind_the_largest() -> None:
    sequence = Sequence()
    sequence.build(FIRST, records(1), 1_000)
    sequence.written(Batch(b"", 2**31 - 1))
    last = sequence.build(FIRST, records(2), 1_000)
    assert read(last)[2] == 2**31 - 1
    sequence.written(last)
    assert read(sequence.build(FIRST, records(1), 1_000))[2] == 1


@pytest.mark.parametrize(
    ("error", "is_in_doubt"),
    [
        (NotLeaderForPartitionError(), False),
        (NotEnoughReplicasError(), False),
        (InvalidTimestampError(), False),
        (NotEnoughReplicasAfterAppendError(), True),
        (KafkaStorageError(), True),
        (RequestTimedOutError(), True),
        (KafkaConnectionError(), True),
        (OSError(), True),
    ],
)
def test_an_attempt_is_in_doubt_unless_the_broker_says_that_nothing_is_written(
    error: Exception, is_in_doubt: bool
) -> None:
    batch = Batch(b"", 1)
    batch.begin_attempt()
    batch.end_attempt(error)
    assert batch.is_in_doubt is is_in_doubt


@pytest.mark.parametrize("error", [NotLeaderForPartitionError(), InvalidTimestampError()])
def test_what_is_said_of_one_attempt_does_not_settle_those_before(error: KafkaError) -> None:
    batch = Batch(b"", 1)
    for each in (KafkaConnectionError(), error):
        batch.begin_attempt()
        batch.end_attempt(each)
    assert batch.is_in_doubt


def test_what_never_reached_a_broker_is_not_in_doubt() -> None:
    batch = Batch(b"", 1)
    batch.end_attempt(NodeNotReadyError())
    assert not batch.is_in_doubt

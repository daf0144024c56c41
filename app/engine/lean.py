"""Records to and from aiokafka's compiled code, without a call or an object of Python for each.

aiokafka copies every record that it reads into a `ConsumerRecord`, which costs ten times what
parsing does; the parser's own records have the same attributes but topic and partition, and those
we know. And each record that it writes goes through two calls that change nothing of ours.

It leans on private names of aiokafka, whose version is pinned; tests/unit/test_lean.py fails when
one of them changes.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException


class _LeanResults(dict[TopicPartition, Any]):
    """What was fetched, by partition; each result gives records as the parser has them."""

    def __setitem__(self, partition: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            result.getall = _LeanRecords(partition, result).getall
        super().__setitem__(partition, result)


class _LeanRecords:
    """The records of one fetch of one partition, in place of `FetchResult.getall`."""

    def __init__(self, partition: TopicPartition, result: FetchResult) -> None:
        self._partition = partition
        self._result = result
        self._records: Iterator[Any] = chain.from_iterable(_batches(result._partition_records))

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Return the next records, and move the consumer's position behind them."""
        result = self._result
        if not result.check_assignment(self._partition) or not result.has_more():
            return []
        records = list(islice(self._records, max_records))
        if max_records is None or len(records) < max_records:
            result._update_position()
            result._partition_records = None
        else:
            result._partition_records.next_fetch_offset = records[-1].offset + 1
            result._update_position()
        return records


def _batches(fetched: PartitionRecords) -> Iterator[Iterable[Any]]:
    """Yield the batches that count: neither control records nor what was aborted.

    It is `PartitionRecords._unpack_records`, a batch at a time.
    """
    while fetched._records.has_next():
        batch = fetched._records.next_batch()
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        aborted = _is_aborted(fetched, batch)
        if not aborted and not batch.is_control_batch:
            start = fetched.next_fetch_offset
            # A fetch begins with the whole batch in which its first record stands.
            yield batch if batch.base_offset >= start else [r for r in batch if r.offset >= start]
        fetched.next_fetch_offset = batch.next_offset


def _is_aborted(fetched: PartitionRecords, batch: Any) -> bool:
    if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:
        return False
    fetched._consume_aborted_up_to(batch.base_offset)
    if batch.is_control_batch and fetched._contains_abort_marker(batch):
        fetched._aborted_producers.discard(batch.producer_id)
    return bool(batch.is_transactional and batch.producer_id in fetched._aborted_producers)


def make_lean(consumer: AIOKafkaConsumer) -> None:
    """Let a consumer that was just started give records as the parser has them."""
    consumer._fetcher._records = _LeanResults()


#: A record to be written: its time in ms since 1970 (None: now), key, value and headers.
ToWrite = tuple[int | None, bytes | None, bytes | None, list[tuple[str, bytes]]]

#: aiokafka's compiled code wants a list, which nobody may change.
NO_HEADERS: list[tuple[str, bytes]] = []


def fill(batch: Any, first: ToWrite, others: Iterator[ToWrite]) -> ToWrite | None:
    """Fill an empty batch of a producer with records; return the first that did not fit, if any.

    A batch takes one record of any size.
    """
    append = batch._builder.append
    record: ToWrite | None = first
    count = 0
    while record is not None and append(count, *record) is not None:
        count += 1
        record = next(others, None)
    batch._relative_offset = count
    batch.close()
    return record

"""Records to and from aiokafka's compiled code, without a call or an object of Python for each.

aiokafka copies every record that it reads into a `ConsumerRecord`, which costs ten times what
parsing does; the parser's own records have the same attributes but topic and partition, and those
we know. And each record that it writes goes through two calls that change nothing of ours.

It leans on private names of aiokafka, whose version is pinned; tests/unit/test_lean.py fails when
one of them changes.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult


class _LeanResults(dict[TopicPartition, Any]):
    """What was fetched, by partition; each result gives records as the parser has them."""

    def __setitem__(self, partition: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            result._partition_records._consumer_record = _as_parsed
        super().__setitem__(partition, result)


def _as_parsed(_partition: TopicPartition, record: Any) -> Any:
    return record


def make_lean(consumer: AIOKafkaConsumer) -> None:
    """Let a consumer that was just started give records as the parser has them."""
    consumer._fetcher._records = _LeanResults()


Row = tuple[bytes, bytes | None]


def fill(batch: Any, first: Row, others: Iterator[Row]) -> Row | None:
    """Fill an empty batch of a producer with rows; return the first that did not fit, if any.

    A batch takes one record of any size.
    """
    append = batch._builder.append
    no_headers: list[tuple[str, bytes]] = []
    row: Row | None = first
    count = 0
    while row is not None and append(count, None, row[0], row[1], no_headers) is not None:
        count += 1
        row = next(others, None)
    batch._relative_offset = count
    batch.close()
    return row

"""Records as aiokafka's compiled parser has them, without a Python object around each.

aiokafka copies every record into a `ConsumerRecord`, which costs ten times what parsing does. The
parser's own records have the same attributes but topic and partition, and those we know.

It leans on three private names of aiokafka, whose version is pinned; tests/unit/test_lean.py fails
when one of them changes.
"""

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

"""Asks about topics: ids, leaders, and where logs begin and end."""

from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
)

from app.kafka.protocol.schemas import TEXT, each, flexible

#: A topic id as Kafka sends it: 16 bytes.
TopicId = bytes
NO_TOPIC_ID = bytes(16)
#: No leader epoch is known.
NO_EPOCH = -1

READ_UNCOMMITTED, READ_COMMITTED = 0, 1

#: In place of a timestamp: the first offset of a log, and the offset behind its last record.
EARLIEST, LATEST = -2, -1


class _MetadataResponse(Response):
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = flexible(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            each(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT)),
        ),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        (
            "topics",
            each(
                ("error_code", Int16),
                ("name", TEXT),
                ("id_high", Int64),
                ("id_low", Int64),
                ("is_internal", Boolean),
                (
                    "partitions",
                    each(
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
    SCHEMA = flexible(
        ("topics", each(("id_high", Int64), ("id_low", Int64), ("name", TEXT))),
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

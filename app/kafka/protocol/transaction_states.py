"""Asks for the states of transactions and producers, and ends a transaction in one partition."""

from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, Int16, Int32, Int64

from app.kafka.protocol.schemas import PLACES, TEXT, answers, each, flexible


class _ListTransactionsResponse(Response):
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = flexible(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(TEXT)),
        (
            "transactions",
            each(("transactional_id", TEXT), ("producer_id", Int64), ("state", TEXT)),
        ),
    )


class ListTransactions(RequestStruct):
    """Lists the transactional ids that a broker coordinates."""

    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListTransactionsResponse
    SCHEMA = flexible(
        ("state_filters", CompactArray(TEXT)), ("producer_id_filters", CompactArray(Int64))
    )


class _DescribeTransactionsResponse(Response):
    API_KEY = 65
    API_VERSION = 0
    SCHEMA = flexible(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            each(
                ("error_code", Int16),
                ("transactional_id", TEXT),
                ("state", TEXT),
                ("timeout_ms", Int32),
                ("began_at_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                PLACES,
            ),
        ),
    )


class DescribeTransactions(RequestStruct):
    """Asks a coordinator how the last transactions of transactional ids ended."""

    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeTransactionsResponse
    SCHEMA = flexible(("transactional_ids", CompactArray(TEXT)))


class _DescribeProducersResponse(Response):
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = flexible(
        ("throttle_time_ms", Int32),
        answers(
            ("error_code", Int16),
            ("error_message", TEXT),
            (
                "producers",
                each(
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
    """Asks the leader of partitions for their producers and open transactions."""

    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeProducersResponse
    SCHEMA = flexible(PLACES)


class _WriteTxnMarkersResponse(Response):
    API_KEY = 27
    API_VERSION = 1
    SCHEMA = flexible(("markers", each(("producer_id", Int64), answers(("error_code", Int16)))))


class WriteTxnMarkers(RequestStruct):
    """Ends a transaction in one partition, in place of its coordinator."""

    API_KEY = 27
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _WriteTxnMarkersResponse
    SCHEMA = flexible(
        (
            "markers",
            each(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("is_committed", Boolean),
                PLACES,
                ("coordinator_epoch", Int32),
            ),
        ),
    )

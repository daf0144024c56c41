"""The metrics of a worker, for Prometheus at ``/metrics``.

docs/reference/metrics.md has the list.

Events are counted where they happen, once for each request or batch and never for each record of a
batch. States (lag, sizes) are read when Prometheus asks, see `app.worker.gauges`.
"""

import platform
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
)

REGISTRY = CollectorRegistry()

ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

#: From the time that a local broker needs to the time that a client still waits, in seconds.
_LATENCIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
_RECOVERIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0)

BUILD = Info("registry_build", "Versions of this worker.", registry=REGISTRY)
BUILD.info(
    {
        "version": version("user-registry"),
        "faust": version("faust-streaming"),
        "python": platform.python_version(),
    }
)

# -- HTTP

RESPONSES = Counter(
    "registry_http_responses_total",
    "Answers to HTTP requests, by status.",
    ["status"],
    registry=REGISTRY,
)

CONNECTIONS = Gauge("registry_connections", "Connections of clients.", registry=REGISTRY)
CONNECTIONS_REFUSED = Counter(
    "registry_connections_refused_total",
    "Connections that were refused, by the limit that was reached: of all, or of one client.",
    ["limit"],
    registry=REGISTRY,
)
CONNECTIONS_CLOSED = Counter(
    "registry_connections_closed_total",
    "Connections that were closed because their clients kept them waiting and others came.",
    registry=REGISTRY,
)
KEY_UNUSED_SECONDS = Gauge(
    "registry_key_unused_seconds",
    "For how long this worker has not been asked with an access key, of those it was asked with.",
    ["key"],
    registry=REGISTRY,
)

UNAVAILABLE = Counter(
    "registry_unavailable_total",
    "Requests that nobody could answer (503 not-ready), by cause.",
    ["cause"],
    registry=REGISTRY,
)

# -- writes

WRITES = Counter(
    "registry_writes_total",
    "Records that clients wrote, by what they were told: acknowledged, refused, unavailable "
    "(certainly not written), too-large, unknown, or open (may be written later).",
    ["answer"],
    registry=REGISTRY,
)
WRITES_ACKNOWLEDGED = WRITES.labels("acknowledged")
WRITES_REFUSED = WRITES.labels("refused")

ACKNOWLEDGEMENT_SECONDS = Histogram(
    "registry_acknowledgement_seconds",
    "From taking a write (of one partition, if it has several) to the broker's acknowledgement.",
    registry=REGISTRY,
    buckets=_LATENCIES,
)
BATCH_RECORDS = Histogram(
    "registry_batch_records",
    "Records of a batch that was handed to the broker.",
    registry=REGISTRY,
    buckets=_SIZES,
)
WAITING_RECORDS = Gauge(
    "registry_waiting_records", "Records that wait for the broker.", registry=REGISTRY
)
WAITING_BYTES = Gauge(
    "registry_waiting_bytes", "What they take, about, in this process.", registry=REGISTRY
)

# -- applying

TRANSACTION_SECONDS = Histogram(
    "registry_transaction_seconds",
    "Duration of a transaction of a table that was committed, the store's write included.",
    ["table"],
    registry=REGISTRY,
    buckets=_LATENCIES,
)
TRANSACTIONS_FAILED = Counter(
    "registry_transaction_failures_total",
    "Transactions of a table that failed, or whose outcome is unknown; they are tried again.",
    ["table"],
    registry=REGISTRY,
)
APPLIED = Counter(
    "registry_applied_records_total",
    "Records of a topic that were applied.",
    ["topic"],
    registry=REGISTRY,
)
OUTCOMES = Counter(
    "registry_outcomes_total",
    "What became of records of user-registrations, once it is settled.",
    ["outcome"],
    registry=REGISTRY,
)
DEAD_LETTERS = Counter(
    "registry_dead_letters_total",
    "Records that could not be read, by cause.",
    ["cause"],
    registry=REGISTRY,
)

# -- recovery

RECOVERED_ROWS = Counter(
    "registry_recovered_rows_total",
    "Rows that were read from a changelog to bring an owned store up to date.",
    ["topic"],
    registry=REGISTRY,
)
RECOVERY_SECONDS = Histogram(
    "registry_recovery_seconds",
    "From being assigned a partition of a table to applying its records.",
    ["table"],
    registry=REGISTRY,
    buckets=_RECOVERIES,
)

# -- lookups

FORWARDED = Counter(
    "registry_forwarded_total",
    "Questions to other workers, by whether one answered in time.",
    ["result"],
    registry=REGISTRY,
)
FORWARD_SECONDS = Histogram(
    "registry_forward_seconds",
    "Duration of a question to another worker that answered.",
    registry=REGISTRY,
    buckets=_LATENCIES,
)
STALE_ANSWERS = Counter(
    "registry_stale_answers_total",
    "Lookups that a copy answered, because the owner of the partition did not.",
    registry=REGISTRY,
)

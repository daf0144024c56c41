"""Who retries what, and how often: one value for each retry policy.

docs/explanation/retries.md lists them; a test compares its table with this module. Callers read
a policy through the module (``retries.CYCLE``), so that a test can put a faster one in its place.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay

#: Enough doublings for any pause. A float holds only so many.
_MAX_DOUBLINGS = 30
#: What part of a pause is left out at most.
_VARIES_BY = 0.25


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Who retries what, how long each pause is, and until when.

    The pause doubles after each failure, from the first to the longest. Each is up to a quarter
    shorter at random, so that those that fail together do not retry together.
    """

    who: str
    what: str
    first_seconds: float
    longest_seconds: float
    until: str
    #: No retry begins later than this after the first attempt.
    limit_seconds: float = math.inf

    def pause_seconds(self, failures: int) -> float:
        """Return the pause after this many failures in a row."""
        doubled = self.first_seconds * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        shorter = random.uniform(1 - _VARIES_BY, 1)  # noqa: S311  # no secret
        return min(doubled, self.longest_seconds) * shorter

    def pauses(self) -> Iterator[float]:
        """Yield the pauses after failures in a row, without end."""
        return map(self.pause_seconds, count(1))

    def attempts(
        self,
        errors: type[Exception] | tuple[type[Exception], ...],
        *,
        wait: Callable[[RetryCallState], float] | None = None,
        stop: Callable[[RetryCallState], bool] | None = None,
        before_sleep: Callable[[RetryCallState], None] | None = None,
    ) -> AsyncRetrying:
        """Return attempts that end with success, or with the last of these errors.

        ``wait`` and ``stop`` replace the pauses and the limit of the policy.
        """
        return AsyncRetrying(
            retry=retry_if_exception_type(errors),
            wait=wait or self._wait,
            stop=stop or stop_after_delay(self.limit_seconds),
            before_sleep=before_sleep,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        return self.pause_seconds(state.attempt_number)


# -- the engine

CYCLE = RetryPolicy(
    "a cycle",
    "a transaction that failed: it begins again from the markers",
    0.2,
    5.0,
    "without end",
)
OPENING = RetryPolicy(
    "a worker that opens partitions",
    "the connection to the brokers, the store, the changelog",
    0.05,
    5.0,
    "without end while brokers are away; 120 s for a disk that cannot be written",
    limit_seconds=120.0,
)
BLOCKED = RetryPolicy(
    "a partition that always fails",
    "its cycle alone, while the other partitions go on",
    5.0,
    5.0,
    "without end: the log names the record",
)
STANDBYS = RetryPolicy(
    "a standby", "a changelog that it follows", 5.0, 5.0, "the partition is assigned elsewhere"
)

# -- the write path

#: The pauses are settings: WRITE_RETRY_MS, WRITE_RETRY_MAX_MS.
WRITING = RetryPolicy(
    "the write path",
    "a batch that is not acknowledged, or has no leader: the same bytes, the same sequence number",
    0.1,
    1.0,
    "`ACK_TIMEOUT_SECONDS` (1.8); then it is fenced, and the client is told `outcome-unknown`",
)
FENCE = RetryPolicy(
    "the write path",
    "the fence, and new connections to the brokers",
    0.1,
    1.0,
    "without end; writes get 503 meanwhile",
)

# -- clients of Kafka

FETCHING = RetryPolicy(
    "fetching",
    "a leader that does not answer, or moves",
    0.1,
    2.0,
    "without end. A position that is not in the log ends the worker",
)
COORDINATOR = RetryPolicy(
    "every Kafka client of ours",
    "a coordinator that a new cluster does not have yet, or that has just moved",
    0.1,
    0.1,
    "10 s",
    limit_seconds=10.0,
)
ENDING = RetryPolicy(
    "a transactional producer",
    "a request while the coordinator still ends the transaction before",
    0.001,
    0.05,
    "the transaction times out (15 s)",
)
NEW_LEADER = RetryPolicy(
    "a transactional producer",
    "a batch whose partition has a new leader: the same bytes again",
    0.05,
    0.05,
    "the transaction times out (15 s)",
)
CONNECTING = RetryPolicy(
    "every command, and a worker that starts",
    "the first connection to the brokers",
    0.1,
    1.0,
    "14 s; then one line, and status 2",
    # Within ADMIN_TIMEOUT_SECONDS, so that the last error is reported, and not the time-out.
    limit_seconds=14.0,
)
READING = RetryPolicy(
    "commands that read topics",
    "a partition whose leader does not answer",
    0.2,
    0.2,
    "45 s without a record; then one line, and status 2",
    # An open transaction holds readers up; the broker ends one whose owner died after 20 s.
    limit_seconds=45.0,
)

# -- a worker and its commands

WORKER_START = RetryPolicy(
    "the start of a worker",
    "topics, rights and the group, while brokers answer and leaders move",
    0.2,
    1.0,
    "13 s; then one line, and status 2",
    limit_seconds=13.0,
)
REPARTITIONED = RetryPolicy(
    "a worker while its registry is repartitioned",
    "the topic that says how far the repartition is",
    1.0,
    1.0,
    "without end",
)
SWITCHING = RetryPolicy(
    "`python -m app repartition`",
    "the question whether the new partitioning is written",
    0.1,
    2.0,
    "60 s; then `repartition` says that it does not know",
    limit_seconds=60.0,
)
TOKEN_KEYS = RetryPolicy(
    "a worker that accepts JWTs",
    "the address of the provider's keys",
    10.0,
    10.0,
    "without end; the last keys count for an hour",
)

# -- over HTTP

EXPORT = RetryPolicy(
    "an export",
    "a page of users while partitions move",
    0.1,
    2.0,
    "20 s; then the connection is closed, so that a partial file never looks complete",
    limit_seconds=20.0,
)
IMPORT = RetryPolicy(
    "`python -m app import`",
    "a batch that is refused (429, 503) or not answered; `Retry-After` counts up to 60 s",
    0.2,
    10.0,
    "`--patience` (120 s)",
)
#: `IMPORT` waits no longer than this, whatever an answer asks for.
MAX_RETRY_AFTER_SECONDS = 60.0
LOAD = RetryPolicy(
    "`python -m app load`",
    "a request that is refused: after `Retry-After`, or the first pause without it",
    1.0,
    30.0,
    "`--retry` times (0)",
)
CLIENT = RetryPolicy(
    "a client",
    "an answer with `Retry-After`",
    1.0,
    1.0,
    "the client decides; [problem types](../reference/problems.md) say which retries are safe",
)

POLICIES = {name: each for name, each in list(globals().items()) if isinstance(each, RetryPolicy)}

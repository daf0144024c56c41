"""Checks that each broker answers, and that there are enough brokers for the replicas."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic

from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest

from app.config.connection import Connection
from app.config.settings import Settings
from app.kafka.admin_client import AdminClient
from app.kafka.client_errors import connected, refusal
from app.ops.doctor.findings import Finding, ok, problem, warning

ANSWER_SECONDS = 3.0
SLOW_SECONDS = 1.0

#: Kafka does not report its version, but the requests that it knows. This is the newest version of
#: Fetch, and the release that brought it. A broker older than the first entry lacks requests that
#: the worker needs.
_FETCH = 1
_RELEASES = {13: "3.1", 15: "3.5", 16: "3.7", 17: "3.9", 18: "4.1"}


async def check(settings: Settings) -> Sequence[Finding]:
    """Ask each address in KAFKA_BROKERS."""
    return await asyncio.gather(
        *(_check_address(settings.kafka, address) for address in settings.kafka.addresses)
    )


async def _check_address(kafka: Connection, address: str) -> Finding:
    began = monotonic()
    try:
        async with asyncio.timeout(ANSWER_SECONDS), connected(kafka, address) as connection:
            answer = await connection.send(ApiVersionRequest())
    except (TimeoutError, OSError, KafkaError) as error:
        if told := refusal(kafka, error):
            return problem(f"{address}: {told}", "docs/hosted-kafka.md says what goes where")
        return problem(
            f"{address} does not answer ({type(error).__name__})",
            "start the broker there, open the way to it, or correct KAFKA_BROKERS",
        )
    newest = {api: highest for api, _, highest in answer.api_versions}
    return judge_broker(address, monotonic() - began, newest)


def judge_broker(address: str, seconds: float, newest: Mapping[int, int]) -> Finding:
    """Return how old and how quick a broker is, by the requests that it knows."""
    release = release_of(newest.get(_FETCH, 0))
    if release is None:
        oldest = min(_RELEASES.values())
        return problem(f"{address} is older than Kafka {oldest}", "upgrade it")
    what = f"{address} answers in {seconds * 1000:.0f} ms, as Kafka {release} or later does"
    if seconds > SLOW_SECONDS:
        return warning(what, "see what keeps the broker, or the way to it, busy")
    return ok(what)


def release_of(fetch: int) -> str | None:
    """Return the oldest release of Kafka that knows a version of Fetch."""
    known = [release for newest, release in _RELEASES.items() if newest <= fetch]
    return known[-1] if known else None


async def cluster(admin: AdminClient, settings: Settings) -> Sequence[Finding]:
    """Count the brokers."""
    told = await admin.describe_cluster()
    return [judge_cluster(len(told["brokers"]), settings.replication_factor)]


def judge_cluster(brokers: int, copies: int | None) -> Finding:
    """Return whether there are enough brokers for the replicas of each topic."""
    if copies is not None and copies > brokers:
        return problem(
            f"REPLICATION_FACTOR is {copies}, and brokers are {brokers}: no topic can be made",
            "start more brokers, or set REPLICATION_FACTOR lower",
        )
    if brokers == 1:
        return warning(
            "there is one broker: what it loses is lost",
            "for data that matters: three brokers, REPLICATION_FACTOR=3, min.insync.replicas=2",
        )
    return ok(f"there are {brokers} brokers")

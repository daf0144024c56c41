"""The ACLs that a worker needs, and which of them are missing.

docs/hosted-kafka.md has the list. A missing right is reported before a worker starts, and while it
runs.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String
from mode import Service

from app.config.connection import Connection
from app.config.settings import Settings
from app.domain.errors import KafkaAccessError
from app.kafka.admin_client import AdminClient
from app.kafka.client_errors import missing_right, refusal, require_access
from app.kafka.topics import ADMIN_TIMEOUT_SECONDS, declare

log = structlog.get_logger(__name__)

#: How often to check that the brokers still grant these rights.
LOOK_EVERY_SECONDS = 10.0

#: Kafka's numbers of operations (``AclOperation`` in kafka-clients). Brokers report rights as bits.
_TOPIC: Final = {"Read": 3, "Write": 4, "DescribeConfigs": 10}
_GROUP: Final = {"Read": 3}
#: Kafka's number for the coordinator of transactions; that of groups is 0.
_TRANSACTIONS: Final = 1
#: Kafka's number for "not asked for": only this bit is set.
_NOT_TOLD = -(2**31)


class _RightsAnswer(Response):  # type: ignore[misc]  # aiokafka carries no types
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(
                ("node_id", Int32),
                ("host", String("utf-8")),
                ("port", Int32),
                ("rack", String("utf-8")),
            ),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _RightsQuestion(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _RightsAnswer
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _TopicRights(Request[_RightsQuestion]):  # type: ignore[misc]
    """Kafka's Metadata in a version that reports rights, which aiokafka does not have."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, question: type[_RightsQuestion]) -> _RightsQuestion:
        """Return the request for a version."""
        return question(self._topics, False, False, True)


class _GroupQuestion(DescribeGroupsRequest_v3):  # type: ignore[misc]
    """The same as aiokafka's, which drops the rights from the answer."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


class _GroupRights(Request[_GroupQuestion]):  # type: ignore[misc]
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, question: type[_GroupQuestion]) -> _GroupQuestion:
        return question([self._group], True)


async def require(settings: Settings) -> None:
    """Raise `KafkaAccessError` if brokers refuse this client, or a right is missing.

    Brokers that are away or too old to report rights do not count. The topics must exist.
    """
    connection = settings.kafka
    await require_access(connection)
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await _require_listed(connection, settings)
    except (TimeoutError, KafkaError) as error:
        if told := refusal(connection, error):
            raise KafkaAccessError(told) from None


async def _require_listed(connection: Connection, settings: Settings) -> None:
    admin = AdminClient(**connection.client())
    try:
        await admin.start()
        await _require_topics(admin, [spec.name for spec in declare(settings).all()])
        await _require_group(admin, settings.app_id)
        await _require_coordinator(admin, settings.app_id)
    finally:
        await admin.close()


async def _require_topics(admin: AdminClient, names: list[str]) -> None:
    answer = await admin._send_request(_TopicRights(names))
    for _, name, _, _, rights in answer.topics:
        for operation in lacking(rights, _TOPIC):
            raise KafkaAccessError(missing_right(operation, "topic", name))


async def _require_group(admin: AdminClient, group: str) -> None:
    try:
        node = await admin.find_coordinator(group)
        answer = await admin._send_request(_GroupRights(group), node)
    except GroupAuthorizationFailedError:
        raise KafkaAccessError(missing_right("Read", "group", group)) from None
    for code, *_, rights in answer.groups:
        lacks_all = code == GroupAuthorizationFailedError.errno
        for operation in _GROUP if lacks_all else lacking(rights, _GROUP):
            raise KafkaAccessError(missing_right(operation, "group", group))


async def _require_coordinator(admin: AdminClient, app_id: str) -> None:
    """Raise if a transactional id may not be described. Write includes that right.

    It costs a question. To begin a transaction, as `require_transactions` does, costs a record.
    """
    try:
        await admin.find_coordinator(_checked_id(app_id), _TRANSACTIONS)
    except TransactionalIdAuthorizationFailed:
        raise _no_transactions(app_id) from None


def _checked_id(app_id: str) -> str:
    return f"{app_id}-access-check"


def _no_transactions(app_id: str) -> KafkaAccessError:
    return KafkaAccessError(missing_right("Write", "transactional id", f"{app_id}-*"))


def lacking(rights: int, needed: Mapping[str, int]) -> Iterator[str]:
    """Yield the operations that are missing in rights, which Kafka reports as one number."""
    if rights != _NOT_TOLD:
        yield from (name for name, bit in needed.items() if not rights >> bit & 1)


async def require_transactions(settings: Settings) -> None:
    """Raise `KafkaAccessError` if no transaction may begin under the ids of this registry."""
    name = _checked_id(settings.app_id)
    kafka = AIOKafkaProducer(**settings.kafka.client(), transactional_id=name)
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_SECONDS):
            await kafka.start()
            await kafka.begin_transaction()
            await kafka.abort_transaction()
    except (TimeoutError, KafkaError) as error:
        if refusal(settings.kafka, error):
            raise _no_transactions(settings.app_id) from None
    finally:
        await kafka.stop()


class AccessWatch(Service):
    """Checks from time to time whether the brokers still accept this worker."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        #: Why the brokers refused this worker at the last check; None if they did not.
        self.told: str | None = None

    @Service.task
    async def _look(self) -> None:
        # Without certificates and login, no right can end.
        while not self.should_stop and self._settings.kafka_security_protocol != "PLAINTEXT":
            await self.sleep(LOOK_EVERY_SECONDS)
            self._tell(await self._why())

    async def _why(self) -> str | None:
        try:
            await require(self._settings)
        except KafkaAccessError as error:
            return str(error)
        return None

    def _tell(self, told: str | None) -> None:
        if told and told != self.told:
            log.error("the brokers refuse this worker", reason=told)
        self.told = told

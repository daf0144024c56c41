"""The Faust app and what it discovers; nothing else."""

import re
from collections.abc import Iterable, Mapping
from typing import cast

import faust
from faust.app.base import BootStrategy
from faust.assignor import PartitionAssignor
from faust.types import TP
from mode.types import ServiceT

from app import topics
from app.engine.assignment import EngineSettings, TableManager
from app.engine.consumer import GROUP_PROTOCOL, Consumer
from app.gauges import WorkerGauges
from app.lag import Lags
from app.logs import logging_config
from app.memory import Memory
from app.metrics import REGISTRY
from app.moved import MovedBefore
from app.producer import ANSWERED_WITHIN, Producer
from app.repartition.watching import Watching
from app.restart import Restart
from app.rights import AccessWatch
from app.settings import Settings, settings
from app.shutdown import Shutdown
from app.standstills import Standstills
from app.tls import server_tls

REBALANCE_TIMEOUT_SECONDS = 30.0
REQUEST_TIMEOUT_SECONDS = 90.0

_settings = settings()


class _Boot(BootStrategy):
    """Faust's order of services, with our producer: up before, down after all."""

    def kafka_producer(self) -> list[ServiceT]:
        """Return the producers, which stop after everything that may still send."""
        return [*super().kafka_producer(), standstills, memory, producer]

    def tables(self) -> Iterable[ServiceT]:
        """Return the tables, and what looks how far they are behind, refused, or split."""
        return [*super().tables(), lags, access, watching]


class Assignor(PartitionAssignor):
    """Faust's assignor under a name of ours: workers of 0.8 fence otherwise, and cannot join."""

    @property
    def name(self) -> str:
        """The name of the group's protocol."""
        return GROUP_PROTOCOL


class Registry(faust.App):
    """The app, started by our boot strategy, and stopped without haste."""

    BootStrategy = _Boot

    async def stop(self) -> None:
        """Wind down, unless something has failed; then stop and leave the group."""
        restart.heed_signals()
        if not (self.should_stop or shutdown.is_under_way):
            await shutdown.wind_down()
        await super().stop()


def _member_name(settings: Settings) -> str:
    """Return the worker's name in the group: that of one before it at the same place.

    The broker gives it the assignment of that one at once, and Faust refuses one for another URL.
    """
    # To one of the same name the broker gives an assignment of topics that are gone.
    generation = f"-g{settings.generation}" if settings.generation else ""
    return f"{_worker_name(settings)}{generation}"


def _worker_name(settings: Settings) -> str:
    """Return the name that a worker shares with the one before it at the same place."""
    place = re.sub(r"[^A-Za-z0-9._-]+", "-", settings.url.split("//")[1])
    return f"{settings.worker_id or settings.app_id}-{place}"


class _Following:
    """What this worker does while its registry is repartitioned."""

    def hold(self, *, are_held: bool) -> None:
        """Take writes, or refuse them."""
        producer.hold(are_held=are_held)

    def end_at(self, ends: Mapping[TP, int]) -> None:
        """Apply sources up to their ends."""
        _partitions.end_at(ends)

    def restart(self) -> None:
        """Start this worker anew, as another member: the group must not give it what it had."""
        # Who has asked it to stop does not want it back.
        if not shutdown.is_under_way:
            cast(Consumer, app.consumer).leave_for_good()
            restart.begin()


registry_topics = topics.declare(_settings)
memory = Memory()
standstills = Standstills(_settings.ack_timeout_seconds)
producer = Producer(
    _settings,
    registry_topics.user_registrations,
    # Of the worker's writes: one that starts at the same place fences what this one has left.
    transactional_id=f"{_settings.app_id}-writes-{_worker_name(_settings)}",
)
shutdown = Shutdown(
    _settings.stop_grace_seconds,
    _settings.ack_timeout_seconds * ANSWERED_WITHIN,
    refuse_writes=producer.refuse,
    is_busy=lambda: producer.is_busy,
)
restart = Restart(shutdown.skip)

app = Registry(
    _settings.app_id,
    # Every setting of Faust's can be set by the environment, too, over what is said here: not ours.
    env={},
    broker=[f"registry://{broker}" for broker in _settings.kafka_brokers.split(",")],
    broker_credentials=_settings.kafka.faust(),
    autodiscover=["app.agents"],
    datadir=str(_settings.data_dir),
    store="registry://",
    web="registry://",
    web_bind=_settings.web_host,
    web_port=_settings.web_port,
    web_ssl_context=server_tls(_settings),
    canonical_url=_settings.url,
    topic_allow_declare=False,
    topic_disable_leader=True,
    topic_partitions=_settings.partitions,
    table_standby_replicas=_settings.standby_replicas,
    TableManager=TableManager,
    PartitionAssignor=Assignor,
    consumer_group_instance_id=_member_name(_settings),
    consumer_auto_offset_reset="earliest",
    # A dead worker's partitions move after this long; a restarted one takes its own at once, as
    # it joins under the same name (static membership).
    broker_session_timeout=_settings.session_timeout_seconds,
    # Faust refuses sessions that are longer.
    broker_request_timeout=max(REQUEST_TIMEOUT_SECONDS, _settings.session_timeout_seconds),
    broker_heartbeat_interval=_settings.session_timeout_seconds / 4,
    broker_rebalance_timeout=REBALANCE_TIMEOUT_SECONDS,
    broker_commit_interval=1.0,
    logging_config=logging_config(_settings),
    worker_redirect_stdouts=False,
)
lags = Lags(app)
access = AccessWatch(_settings)
_tables = cast(TableManager, app.tables)
_tables.engine = EngineSettings(
    _settings.kafka,
    _settings.app_id,
    _member_name(_settings),
    _settings.session_timeout_seconds,
    _settings.tidy_seconds,
    _settings.compression,
    [registry_topics.registration_outcomes.name, registry_topics.dead_letter.name],
)
_partitions = _tables.partitions
watching = Watching(_settings, registry_topics.user_registrations.name, _Following())
_partitions.require_standing = watching.require_standing
moved_before = MovedBefore(_settings.kafka, registry_topics.user_registrations)
_partitions.read_again = moved_before.find
REGISTRY.register(WorkerGauges(_partitions, lags))
_partitions.lease.session_seconds = _settings.session_timeout_seconds

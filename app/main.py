"""Puts a worker together. `build` is the only place that does so.

Importing this module does nothing. ``python -m app worker`` and ``faust -A app.main worker`` call
`build` with the settings of their process.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

from faust.types import TP

from app import agents
from app.config.settings import Settings, settings
from app.config.tls import server_tls
from app.dead_letters.recent import RecentDeadLetters
from app.dead_letters.replaying import LetterReplays
from app.deciding import Deciding
from app.engine.assignment import EngineSettings, TableManager
from app.engine.consumer import Consumer
from app.engine.lease import Lease
from app.engine.marker import rules
from app.engine.partitions import Partitions
from app.ingest.producer import ANSWERED_WITHIN, Producer
from app.ingest.rate_limits import Limits
from app.ingest.standstills import Standstills
from app.kafka.acls import AccessWatch
from app.kafka.moved_records import MovedBefore
from app.kafka.topics import Topics, declare
from app.query.lookups import Lookups
from app.query.outcome_feed import OutcomeFeed
from app.query.overview.collecting import Collecting
from app.query.overview.here import state
from app.query.overview.history import History
from app.query.routing import Routing
from app.query.worker_client import Asking, WorkerClient
from app.system.garbage import collect_rarely
from app.system.memory import Memory
from app.telemetry.logs import logging_config
from app.web.http.connections import most
from app.web.http.waits import SHARE_OF_CONNECTIONS, Waits
from app.web.routes import application_options, install
from app.web.services import Services
from app.worker import process
from app.worker.credentials import credentials
from app.worker.gauges import WorkerGauges
from app.worker.lag import Lags
from app.worker.preflight import prepared
from app.worker.readiness import Readiness
from app.worker.registry import Assignor, Registry
from app.worker.repartitioning import Watching
from app.worker.restart import Restart
from app.worker.shutdown import Shutdown
from tables import EMAILS, USERS, Tables, declare_tables
from tables.store import StoreOptions

REBALANCE_TIMEOUT_SECONDS = 30.0
REQUEST_TIMEOUT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that was not started yet."""

    app: Registry
    topics: Topics
    tables: Tables
    #: What the agents do.
    deciding: Deciding
    restart: Restart


def build(settings: Settings) -> Worker:
    """Return a worker with these settings; it opens nothing before Faust starts its app."""
    topics = declare(settings)
    taking = _take_writes(settings, topics)
    applying = _apply_records(settings, topics, taking)
    services = _answer_requests(settings, topics, taking, applying)
    app = applying.app
    app.add_routes = partial(install, given=services)
    return Worker(app, topics, applying.tables, applying.deciding, taking.restart)


@dataclass(frozen=True, slots=True)
class _Taking:
    """What takes writes, and how that ends."""

    producer: Producer
    shutdown: Shutdown
    restart: Restart


def _take_writes(settings: Settings, topics: Topics) -> _Taking:
    producer = Producer(
        settings,
        topics.user_registrations,
        # Of the worker's writes: one that starts at the same place fences what this one has left.
        transactional_id=f"{settings.app_id}-writes-{_worker_name(settings)}",
    )
    shutdown = Shutdown(
        settings.stop_grace_seconds,
        settings.ack_timeout_seconds * ANSWERED_WITHIN,
        refuse_writes=producer.refuse,
        is_busy=lambda: producer.is_busy,
    )
    return _Taking(producer, shutdown, Restart(shutdown.skip))


@dataclass(frozen=True, slots=True)
class _Applying:
    """What applies records, and the tables that come of it."""

    app: Registry
    partitions: Partitions
    tables: Tables
    deciding: Deciding


def _apply_records(settings: Settings, topics: Topics, taking: _Taking) -> _Applying:
    partitions = Partitions(Lease(settings.session_timeout_seconds))
    moved_before = MovedBefore(settings.kafka, topics.user_registrations)

    def restart_as_another_member() -> None:
        # Who has asked the worker to stop does not want it back.
        if not taking.shutdown.is_under_way:
            cast(Consumer, app.consumer).leave_for_good()
            taking.restart.begin()

    following = _Following(taking.producer, partitions, restart_as_another_member)
    watching = Watching(settings, topics.user_registrations.name, following)
    engine = EngineSettings(
        settings.kafka,
        settings.app_id,
        _member_name(settings),
        settings.session_timeout_seconds,
        settings.tidy_seconds,
        settings.compression,
        [topics.registration_outcomes.name, topics.dead_letter.name],
        watching.require_current,
        moved_before.find,
    )
    options = _options(settings, partitions, engine)
    app = Registry(settings.app_id, taking.shutdown, taking.restart, **options)
    app.with_tables.append(watching)
    tables = declare_tables(
        app, partitions, topics, rules(settings.email_keys), StoreOptions.of(settings)
    )
    deciding = Deciding(topics, tables, settings.email_keys, moved_before)
    agents.add(app, topics, deciding)
    partitions.keep_tidy(USERS, deciding.tidy_users)
    partitions.prepare_by(USERS, tables.counts.count)
    return _Applying(app, partitions, tables, deciding)


def _answer_requests(
    settings: Settings, topics: Topics, taking: _Taking, applying: _Applying
) -> Services:
    app, partitions, tables = applying.app, applying.partitions, applying.tables
    producer, shutdown = taking.producer, taking.shutdown
    manager = cast(TableManager, app.tables)
    lags, access, history = Lags(manager), AccessWatch(settings), History()
    standstills = Standstills(settings.ack_timeout_seconds)
    client = WorkerClient(Asking.of(settings))
    app.with_producer += [standstills, Memory(), producer, client]
    app.with_tables += [lags, access, history, WorkerGauges(partitions, lags, tables.counts)]

    by_id = Routing(app, manager, USERS, topics.users_changelog, client)
    by_email = Routing(app, manager, EMAILS, topics.emails_changelog, client)
    lookups = Lookups(tables, by_id, by_email, settings.email_keys, settings.max_wait_seconds)
    ready = Readiness(app, partitions, lags, access, producer, shutdown, settings.ready_lag_seconds)
    tell = partial(state, settings.url, partitions, USERS, lags, tables.counts.users)
    return Services(
        settings,
        topics.user_registrations,
        producer,
        lookups,
        RecentDeadLetters(settings.kafka, topics.dead_letter),
        feed=OutcomeFeed(settings.kafka, topics.registration_outcomes),
        limits=Limits(settings.max_writes_per_second, settings.client_writes_per_second),
        reads=Limits(
            settings.max_reads_per_second, settings.client_reads_per_second, are_reads=True
        ),
        waits=Waits(most(settings) // SHARE_OF_CONNECTIONS),
        replays=LetterReplays(settings),
        overview=Collecting(by_id, lookups, tell, history),
        why_not_ready=ready.why_not,
        is_stopping=lambda: shutdown.is_under_way,
        standstills=standstills,
    )


def _options(settings: Settings, partitions: Partitions, engine: EngineSettings) -> dict[str, Any]:
    """Return what Faust is told; its own settings in the environment do not count."""
    return {
        # Every setting of Faust's can be set by the environment, too, over what is said here.
        "env": {},
        "broker": [f"registry://{broker}" for broker in settings.kafka_brokers.split(",")],
        "broker_credentials": credentials(settings.kafka),
        "autodiscover": False,
        "datadir": str(settings.data_dir),
        "store": "registry://",
        "web": "registry://",
        "web_bind": settings.web_host,
        "web_port": settings.web_port,
        "web_ssl_context": server_tls(settings),
        "web_application_options": application_options(settings),
        "canonical_url": settings.url,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "topic_partitions": settings.partitions,
        "table_standby_replicas": settings.standby_replicas,
        "TableManager": partial(TableManager, partitions=partitions, engine=engine),
        "PartitionAssignor": Assignor,
        "consumer_group_instance_id": engine.member_name,
        "consumer_auto_offset_reset": "earliest",
        # A dead worker's partitions move after this long; a restarted one takes its own at once,
        # as it joins under the same name (static membership).
        "broker_session_timeout": settings.session_timeout_seconds,
        # Faust refuses sessions that are longer.
        "broker_request_timeout": max(REQUEST_TIMEOUT_SECONDS, settings.session_timeout_seconds),
        "broker_heartbeat_interval": settings.session_timeout_seconds / 4,
        "broker_rebalance_timeout": REBALANCE_TIMEOUT_SECONDS,
        "broker_commit_interval": 1.0,
        "logging_config": logging_config(settings),
        "worker_redirect_stdouts": False,
    }


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


@dataclass(frozen=True, slots=True)
class _Following:
    """What this worker does while its registry is repartitioned."""

    producer: Producer
    partitions: Partitions
    #: Starts this worker anew, as another member: the group must not give it what it had.
    restart: Callable[[], None]

    def hold(self, *, are_held: bool) -> None:
        """Take writes, or refuse them."""
        self.producer.hold(are_held=are_held)

    def end_at(self, ends: Mapping[TP, int]) -> None:
        """Apply sources up to their ends."""
        self.partitions.end_at(ends)


@cache
def worker_of_this_process() -> Worker:
    """Return the worker that this process is to run, and make the process fit for it.

    Raises `RegistryError` if it cannot start.
    """
    wanted = prepared(settings())
    process.prepare()
    worker = build(wanted)
    collect_rarely()
    return worker


def __getattr__(name: str) -> Registry:
    """Return the app as soon as Faust's own command line asks for it."""
    if name == "app":
        return worker_of_this_process().app
    raise AttributeError(name)

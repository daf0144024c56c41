"""Checks before a worker starts. A mistake is reported in one line."""

import asyncio
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import IO

import structlog
from aiokafka.errors import (
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
)
from faust.types import TP

from app.access.audit import require_audit_file
from app.access.files import read_keys
from app.access.tokens import Tokens
from app.config.settings import Settings
from app.config.tls import client_tls, server_tls
from app.domain.errors import BrokerUnavailableError, FencedError, NotWrittenError, SettingsError
from app.domain.hosts import is_loopback
from app.engine.barrier import describe_group
from app.engine.changelog import newest_marker
from app.engine.consumer import GROUP_PROTOCOL
from app.engine.marker import secret_of
from app.kafka import acls
from app.kafka.client_errors import unusable
from app.kafka.cluster import Cluster
from app.kafka.partitioning import Register, current_partitioning, other_secret, read
from app.kafka.topics import declare, ensure
from app.system import retries
from app.system.files import make_private, open_lock
from app.system.handed_sockets import INTERNAL, inherited
from app.telemetry.tracing import provider_for

log = structlog.get_logger(__name__)

#: A file in a worker's folder. It is locked while the worker runs, and marks the folder as ours.
_LOCK = "lock"

#: How long workers of another version may stay after a session, and how often to check.
OTHERS_LEAVE_SECONDS, LOOK_SECONDS = 5.0, 0.5


@contextmanager
def checked(settings: Settings) -> Iterator[None]:
    """Check ports and folder, and lock the folder while a worker runs; raise `SettingsError`."""
    _require_addresses(settings)
    _require_keys(settings)
    Tokens.of(settings)
    require_audit_file(settings.audit_file)
    server_tls(settings)
    client_tls(settings)
    if (spans := provider_for(settings)) is not None:
        spans.shutdown()  # it is possible
    with locked(settings.data_dir):
        _require_no_spool(settings.data_dir)
        yield


def prepared(settings: Settings) -> Settings:
    """Create what a worker needs at the brokers; return its settings with the partitioning.

    Raises `RegistryError` with the reason why it cannot start.
    """
    return asyncio.run(_prepared(settings))


async def _prepared(wanted: Settings) -> Settings:
    # One broker of several may be away, or leadership may be moving. If no broker answers at all,
    # `connected` has tried for longer than this limit.
    return await retries.WORKER_START.attempts(BrokerUnavailableError)(_prepared_once, wanted)


async def _prepared_once(wanted: Settings) -> Settings:
    await ensure(wanted)
    wanted = await current_partitioning(wanted)
    await acls.require(wanted)
    await acls.require_transactions(wanted)
    await others_leave(wanted)
    await share_secret(wanted)
    return wanted


async def others_leave(settings: Settings) -> None:
    """Wait until no worker of another version is in the group; raise `SettingsError` if one stays.

    A stopped worker stays in the group for a session, because it may come back under its name.
    """
    deadline = monotonic() + settings.session_timeout_seconds + OTHERS_LEAVE_SECONDS
    cluster = Cluster(settings.kafka)
    try:
        await cluster.start()
        while (found := await _protocol_of(cluster, settings.app_id)) not in (GROUP_PROTOCOL, None):
            if monotonic() > deadline:
                if not found:
                    return
                raise SettingsError(
                    f"APP_ID: workers of another version are in the group {settings.app_id}: "
                    "stop them all, then start"
                )
            log.info("waiting until all workers of another version have left the group")
            await asyncio.sleep(LOOK_SECONDS)
    except (KafkaError, TimeoutError) as error:
        raise unusable(settings.kafka, error) from None
    finally:
        await cluster.close()


async def share_secret(settings: Settings) -> None:
    """Write the fingerprint of the secret for the registry, if it has none yet.

    If two workers do so at the same time, one is fenced, and reads what the other has written.
    Raises `SettingsError` if rows were decided under another secret.
    """
    current = await read(settings)
    while current.secret is None and current.change is None:
        await _require_rows_of(settings)
        register = Register(settings)
        try:
            current = await register.start()
            if current.secret is None and current.change is None:
                current = current.with_secret(settings)
                await register.write(current)
                log.info("the registry begins with this EMAIL_SECRET")
        except FencedError:
            current = await read(settings)
        except (NotWrittenError, KafkaError, TimeoutError) as error:
            raise unusable(settings.kafka, error) from None
        finally:
            await register.close()
    current.require_secret(settings)


async def _require_rows_of(settings: Settings) -> None:
    """Raise `SettingsError` if a changelog has a marker of another secret."""
    topics, ours = declare(settings), settings.email_keys.fingerprint()
    cluster = Cluster(settings.kafka, [spec.name for spec in topics.all()])
    try:
        await cluster.start()
        for spec in (topics.users_changelog, topics.emails_changelog):
            places = [TP(spec.name, number) for number in range(spec.partitions)]
            begins, ends = await cluster.starts(places), await cluster.stable_ends(places)
            for tp in places:
                marker = await newest_marker(cluster, tp, begins[tp], ends[tp])
                if marker is not None and secret_of(marker.rules) not in ("", ours):
                    raise other_secret()
    except (KafkaError, TimeoutError) as error:
        raise unusable(settings.kafka, error) from None
    finally:
        await cluster.close()


async def _protocol_of(cluster: Cluster, group: str) -> str | None:
    """Return the protocol of a group: None if it has no member, "" while members join."""
    try:
        name, members = await describe_group(cluster, group)
    except (GroupLoadInProgressError, NotCoordinatorForGroupError):
        return ""
    return name if members else None


def _require_addresses(settings: Settings) -> None:
    """Check that the worker can listen, and that others can ask it and no other one."""
    handed = inherited()
    shared = [each.socket for each in handed if each.is_shared]
    if shared and settings.internal_port is None:
        raise SettingsError(
            "INTERNAL_PORT: must be set, as this worker shares its public address with others"
        )
    for each in shared:
        _require_closed(each, settings)
    if not handed:
        require_port(settings.web_host, settings.web_port)
    if settings.internal_port is not None and INTERNAL not in {each.name for each in handed}:
        require_port(settings.internal_host, settings.internal_port, "INTERNAL_PORT")


def _require_closed(shared: socket.socket, settings: Settings) -> None:
    """Refuse an address that others opened beyond loopback, where WEB_HOST might not be."""
    address = shared.getsockname()
    may_be_open = settings.keys_file is not None or settings.allow_open_bind
    if may_be_open or not isinstance(address, tuple) or is_loopback(address[0]):
        return
    raise SettingsError(
        f"KEYS_FILE: must be set, or ALLOW_OPEN_BIND=1: the shared address {address[0]} is beyond "
        "loopback"
    )


def require_port(host: str, port: int, setting: str = "WEB_PORT") -> None:
    """Check that a worker can listen at an address; raise `SettingsError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise cannot_listen(host, port, setting, error) from None


def cannot_listen(host: str, port: int, setting: str, error: OSError) -> SettingsError:
    """Return the error that tells why a worker cannot listen at an address."""
    return SettingsError(f"{setting}: cannot listen on {host}:{port}: {_why(error)}")


def _require_keys(settings: Settings) -> None:
    """Refuse to start if the keys cannot be read, or no key is valid on an open port."""
    if settings.keys_file is None:
        return
    # Without a secret, nothing can be signed.
    _ = settings.signing_secrets
    keys = read_keys(settings.keys_file)
    if settings.is_open and all(key.is_expired for key in keys):
        raise SettingsError(
            f"KEYS_FILE: {settings.keys_file} holds no key that is valid; create one: "
            "python -m app keys create --name NAME --scope admin"
        )


def _require_no_spool(folder: Path) -> None:
    """Refuse to start if version 0.8 has left acknowledged writes that were never sent."""
    if any((folder / "spool").glob("*.spool")):
        raise SettingsError(
            f"DATA_DIR: {folder / 'spool'} holds writes that version 0.8 answered with `spooled`: "
            "let it run until they are sent (registry_spooled_bytes is 0)"
        )


def locked(folder: Path) -> IO[bytes]:
    """Return the lock of a worker's folder, held until it is closed; raise `SettingsError`."""
    # The kernel releases the lock when the process ends, for whatever reason.
    try:
        if not make_private(folder, _LOCK):
            log.warning("others than its owner may use DATA_DIR", advice=f"chmod 700 {folder}")
        lock = open_lock(folder / _LOCK, folder)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(f"DATA_DIR: {folder} is in use by another worker") from None
    except OSError as error:
        raise SettingsError(f"DATA_DIR: {folder} cannot be used: {_why(error)}") from None
    return lock


def _why(error: OSError) -> str:
    # uvloop adds words to the system's text. Numbers of getaddrinfo(3) are negative.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)

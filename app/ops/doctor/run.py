"""Runs all checks. A check that fails does not end the others."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final

from app.config.settings import Settings
from app.domain.errors import RegistryError
from app.kafka import acls
from app.kafka.admin_client import AdminClient
from app.kafka.partitioning import Partitioning, read
from app.ops.doctor import access, brokers, group, machine, topics, worker
from app.ops.doctor.findings import Finding, Mark, ok, problem

#: How long one check may take.
CHECK_SECONDS = 15.0
REQUEST_MS: Final = 5_000

#: An area, and one finding in it.
AreaFinding = tuple[str, Finding]


async def examine(settings: Settings) -> Sequence[AreaFinding]:
    """Run all checks; without a broker, only those that need none."""
    here = await asyncio.gather(
        _told("settings", access.files(settings)),
        _told("versions", machine.versions(settings)),
        _told("disk", machine.disk(settings)),
        _told("open files", machine.open_files(settings)),
        _told("clock", machine.clock(settings)),
        _told("keys", access.keys(settings)),
        _told("certificates", access.certificates(settings)),
        _told("worker", worker.check(settings)),
        _told("brokers", brokers.check(settings)),
    )
    # One line says that no broker answers. Without this, three more lines would say the same.
    answers = any(finding.mark is not Mark.PROBLEM for _, finding in here[-1])
    there = await _examine_cluster(settings) if answers else []
    return [told for area in (*here, *there) for told in area]


async def _examine_cluster(settings: Settings) -> Sequence[Sequence[AreaFinding]]:
    admin = AdminClient(**settings.kafka.client(), request_timeout_ms=REQUEST_MS)
    try:
        if told := await _told("brokers", _started(admin)):
            return [told]
        current = await read(settings)
        settings = current.of(settings)
        return await asyncio.gather(
            _told("settings", _agrees(current, settings)),
            _told("brokers", brokers.cluster(admin, settings)),
            _told("topics", topics.check(admin, settings)),
            _told("group", group.check(admin, settings)),
            _told("rights", _allowed(settings)),
        )
    finally:
        await admin.close()


async def _started(admin: AdminClient) -> Sequence[Finding]:
    await admin.start()
    return ()


async def _agrees(current: Partitioning, settings: Settings) -> Sequence[Finding]:
    current.require_secret(settings)
    return [] if current.secret is None else [ok("EMAIL_SECRET is the registry's")]


async def _allowed(settings: Settings) -> Sequence[Finding]:
    await acls.require(settings)
    return [ok("the brokers give every right that a worker needs of topics and group")]


async def _told(area: str, check: Awaitable[Sequence[Finding]]) -> Sequence[AreaFinding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            findings = await check
    except RegistryError as error:
        findings = [problem(str(error), "correct it, and look again")]
    except Exception as error:
        what = f"could not be checked: unexpected {type(error).__name__}"
        findings = [problem(what, "look again; if it stays, report it")]
    return [(area, finding) for finding in findings]

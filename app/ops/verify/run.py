"""Runs a verification: markers, emails, users, then what spans partitions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from faust.types import TP

from app.config.settings import Settings
from app.engine.marker import rules
from app.kafka.partition_reader import Extent, Reader, reader
from app.kafka.partitioning import Partitioning, read
from app.kafka.progress import bar
from app.kafka.topics import Topics, declare
from app.ops.verify.across import compare_all_moves, compare_holders
from app.ops.verify.emails_pass import verify_emails
from app.ops.verify.findings import Difference, Findings
from app.ops.verify.group import applied_by_group, until_decided
from app.ops.verify.logs import EMAILS, USERS, Logs
from app.ops.verify.markers import newest
from app.ops.verify.reading import IndependentScan
from app.ops.verify.state import State
from app.ops.verify.stores import Store, compare_store, held
from app.ops.verify.users_pass import UsersPass


async def verify(settings: Settings, findings: Findings, stores: Sequence[Path] = ()) -> None:
    """Verify a registry, and stores in data folders; raise `RegistryError` if that fails.

    Workers may run meanwhile, but not on these stores.
    """
    partitioning = await read(settings)
    settings = partitioning.of(settings)
    topics, kafka, scan = declare(settings), settings.kafka, IndependentScan()
    with held(stores, (USERS, EMAILS)) as databases:
        async with (
            reader(kafka, topics.all(), scan=scan) as committed,
            reader(kafka, (), "read_uncommitted") as everything,
        ):
            # Before the changelogs are read: a marker may move forward meanwhile, and never back.
            applied = await applied_by_group(settings, topics, findings)
            await until_decided(topics, committed, everything)
            logs = await Logs.find(topics, committed, everything)
            verification = Verification(settings, partitioning, topics, logs, committed, findings)
            await verification.find_markers(applied)
            with bar(logs.size(databases)) as committed.advance:
                await verification.run(databases)
            if batches := len(scan.left_to_engine):
                findings.notes.append(
                    f"{batches:,} batches were read by the engine's parser: aiokafka's cannot read "
                    "them, or not in bounded memory"
                )


class Verification:
    """One verification: its steps, in their order."""

    def __init__(
        self,
        settings: Settings,
        partitioning: Partitioning,
        topics: Topics,
        logs: Logs,
        reading: Reader,
        findings: Findings,
    ) -> None:
        self._state = State(settings, partitioning, topics, logs, reading, findings)

    async def find_markers(self, applied: Mapping[TP, int]) -> None:
        """Find how far everything is applied, and whether the sources are those that were applied.

        Raises `SettingsError` if the rows were decided under other rules. ``applied`` has the
        offsets of the group, as far as it knows them.
        """
        state = self._state
        ours = rules(state.settings.email_keys)
        for markers, changelogs, sources in (
            (
                state.users_markers,
                state.logs.users,
                (state.logs.registrations, state.logs.decisions),
            ),
            (state.emails_markers, state.logs.emails, (state.logs.claims,)),
        ):
            for changelog in changelogs:
                found = await newest(state.reading, changelog)
                found.require(ours)
                markers.append(found)
                if found.wrong is not None:
                    state.findings.differs(Difference.MARKER, found.wrong)
                for logs in sources:
                    log = logs[changelog.partition]
                    await found.compare_source(state.reading, log, state.findings)
        for source, offset in applied.items():
            of_emails = source.topic == state.topics.email_claims.name
            markers = state.emails_markers if of_emails else state.users_markers
            markers[source.partition].require_applied(source.topic, offset, state.findings)

    async def run(self, stores: Sequence[Store]) -> None:
        """Verify everything, and put the result into the findings."""
        state = self._state
        for number in range(state.logs.partitions):
            await verify_emails(state, number)
        for number in range(state.logs.partitions):
            await UsersPass(state, number).run()
        compare_all_moves(state)
        compare_holders(state)
        state.totals.tell(state.topics, state.findings)
        state.lacking.tell(state.topics, state.findings)
        for store in stores:
            await self._compare_store(store)

    async def _compare_store(self, store: Store) -> None:
        state = self._state
        changelog: Extent | None = state.logs.changelog_of(store)
        if changelog is None:
            state.findings.unchecked.append(f"{store.path}: there is no such partition")
        else:
            await compare_store(store, changelog, state.reading, state.findings)

"""Writes a changelog again from a store that has more rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from faust.types import TP
from rocksdict import Options, Rdict

from app.config.settings import Settings
from app.domain.errors import SettingsError, StoreError
from app.engine.marker import MARKER_KEY, Marker
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.partition_reader import Advance
from app.kafka.progress import bar
from app.ops.recover.ground import Agrees, Ground, ground, note
from app.ops.verify.logs import EMAILS, USERS
from app.ops.verify.stores import OFFSET_KEY, Store, held

#: Rows of one transaction.
CHUNK_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A store, the changelog to write, and the markers of both."""

    store: Store
    changelog: TP
    mine: Marker
    theirs: Marker | None

    def __str__(self) -> str:
        theirs = "nothing" if self.theirs is None else f"up to {_told(self.theirs)}"
        return (
            f"{_place(self.changelog)}: from {self.store.path}, applied up to {_told(self.mine)}; "
            f"the changelog has {theirs}"
        )


def _place(changelog: TP) -> str:
    return f"{changelog.topic}, partition {changelog.partition}"


def _told(marker: Marker) -> str:
    return ", ".join(f"{topic} {offset}" for topic, offset in sorted(marker.next.items()))


async def rebuild(settings: Settings, folder: Path, agrees: Agrees) -> Sequence[str]:
    """Write changelogs again from the stores in a worker's folder; return what was done.

    Raises `SettingsError` if there is no store, or a changelog has rows that its store lacks.
    """
    with held([folder], (USERS, EMAILS)) as stores:
        async with ground(settings) as given:
            wanted = [each for store in stores if (each := await _compared(given, store))]
            if not wanted:
                return ["no store has more than its changelog"]
            if not await given.confirmed([str(each) for each in wanted], agrees):
                return ["nothing was done"]
            done = []
            with bar(sum(_about_rows(each.store) for each in wanted)) as advance:
                for each in wanted:
                    rows = await _write(given, each, advance)
                    done.append(f"{_place(each.changelog)}: {rows:,} rows")
                    note(done[-1])
            return [*done, "start the workers, and run: python -m app verify"]


async def _compared(given: Ground, store: Store) -> Rebuild | None:
    topics = given.topics
    topic = {USERS: topics.users_changelog, EMAILS: topics.emails_changelog}[store.table]
    if store.partition >= topic.partitions:
        raise SettingsError(f"--stores: {store.path}: the registry has no such partition")
    changelog = TP(topic.name, store.partition)
    with _opened(store) as database:
        stored = database.get(MARKER_KEY)
    if stored is None:
        return None
    mine, theirs = Marker.decode(cast(bytes, stored)), await given.marker_in(changelog)
    if theirs is not None and theirs.covers(mine):
        return None
    if theirs is not None and not mine.covers(theirs):
        raise SettingsError(
            f"{_place(changelog)}: the changelog has something that the store lacks: it is applied "
            f"up to {_told(theirs)}, the store up to {_told(mine)}"
        )
    return Rebuild(store, changelog, mine, theirs)


def _about_rows(store: Store) -> int:
    with _opened(store) as database:
        return database.property_int_value("rocksdb.estimate-num-keys") or 0


async def _write(given: Ground, each: Rebuild, advance: Advance) -> int:
    """Write all rows, and the marker last; delete rows that the store lacks.

    Return the number of rows.
    """
    with _opened(each.store) as database:
        left = {key for key in await _keys(given, each.changelog) if key not in database}
        rows: Iterator[ToWrite] = (
            (None, key, row, NO_HEADERS)
            for key, row in cast("Iterator[tuple[bytes, bytes]]", database.items())
            if key not in (OFFSET_KEY, MARKER_KEY)
        )
        count = 0
        while chunk := list(islice(rows, CHUNK_ROWS)):
            count += len(chunk)
            await given.write({each.changelog: chunk})
            advance(_place(each.changelog), len(chunk))
        # A changelog without a marker is not read. If this stops before the marker, run the command
        # again.
        end: list[ToWrite] = [(None, key, None, NO_HEADERS) for key in left]
        end.append((None, MARKER_KEY, each.mine.encode(), NO_HEADERS))
        spans = await given.write({each.changelog: end})
        database[OFFSET_KEY] = str(spans[each.changelog][-1]).encode()
        return count


async def _keys(given: Ground, changelog: TP) -> set[bytes]:
    found: set[bytes] = set()
    async for records in given.records(changelog):
        found.update(record.key for record in records if record.key is not None)
    return found


@contextmanager
def _opened(store: Store) -> Iterator[Rdict]:
    # rocksdict raises bare Exceptions. Their texts name files, and never rows.
    try:
        options = Options(raw_mode=True)
        # Else it would be opened as it was last, which may have been for a bulk load.
        database = Rdict(str(store.path), options, {"default": options})
    except Exception as error:
        raise StoreError(f"{store.path} cannot be read: {error}") from None
    try:
        yield database
    finally:
        database.close()

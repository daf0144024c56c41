"""What earlier versions wrote is read as they meant it; what newer ones write is refused."""

import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from faust.types import TP

from app.config.settings import Settings
from app.domain.addresses import EmailKeys
from app.domain.consumed_records import ConsumedRecord
from app.domain.errors import TopicsError
from app.domain.records import public
from app.engine.marker import MARKER_KEY, RULES_OF_0_8, RULES_VERSION, Marker, why_refused
from app.kafka.partition_reader import Advance, Extent
from app.kafka.partitioning import FORMAT, Partitioning, _decoded
from app.kafka.topics import TopicSpec, declare
from app.ops.backup.files import Kept, Manifest, Saved, read_records, require_sound
from app.ops.verify.findings import CLEAN, Findings
from app.ops.verify.logs import Logs
from app.ops.verify.run import Verification
from tests.support.stores import open_store

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSIONS = sorted(path.name for path in FIXTURES.glob("v*"))

#: What the users of a frozen registry must be: name and address (`tests.support.freeze`).
SOME = {
    "user-0": ("Näme 0", "User.0@Example.com"),
    "user-4": ("Renamed", "User.4@Example.com"),
    "user-5": ("Näme 5", "new.5@example.com"),
    "user-6": ("Näme 6", "User.6@Example.com"),
    "user-8": ("Once more", "user.8@example.com"),
    "astray": ("A", "astray@example.com"),
}
GONE = {"user-9", "thief", "nobody"}


@dataclass
class FrozenReader:
    """Reads a backup as the verification reads topics."""

    folder: Path
    manifest: Manifest
    advance: Advance = lambda description, further: None

    async def extents(self, topic: TopicSpec) -> Sequence[Extent]:
        """Return the partitions of a topic."""
        return [Extent(s.topic, s.partition, s.start, s.end) for s in self._of(topic.name)]

    async def read(self, extent: Extent) -> AsyncIterator[Sequence[ConsumedRecord]]:
        """Yield the records of a partition."""
        saved = next(s for s in self._of(extent.topic) if s.partition == extent.partition)
        records = [
            r for r in read_records(self.folder, saved) if extent.start <= r.offset < extent.end
        ]
        yield cast("Sequence[ConsumedRecord]", records)

    def topic_id(self, topic: str) -> bytes:
        """Return what tells a topic from another one of its name; 0.8 did not write it down."""
        return bytes(16)

    async def diverges_at(self, tp: TP, offset: int, epoch: int) -> int | None:
        """Return where the log has lost its end, before an offset: nowhere."""
        return None

    def _of(self, topic: str) -> list[Saved]:
        return [saved for saved in self.manifest.saved if saved.topic == topic]

    def rows(self, topic: str) -> list[dict[bytes, bytes]]:
        """Return the rows of a table, by partition, as its changelog has them."""
        return [_rows(list(read_records(self.folder, saved))) for saved in self._of(topic)]


def _rows(records: Sequence[Kept]) -> dict[bytes, bytes]:
    newest: Mapping[bytes, bytes | None] = {r.key or b"": r.value for r in records}
    return {key: value for key, value in newest.items() if value is not None}


@pytest.fixture(params=VERSIONS)
def frozen(request: pytest.FixtureRequest) -> FrozenReader:
    """Return what a version wrote."""
    folder = FIXTURES / request.param / "backup"
    return FrozenReader(folder, Manifest.read(folder))


@pytest.fixture
def settings(frozen: FrozenReader) -> Settings:
    """Return the settings of a frozen registry."""
    written = frozen.manifest
    return Settings(
        app_id=written.app_id,
        topic_prefix=written.topic_prefix,
        partitions=written.partitioning.partitions,
    )


def test_there_is_something_frozen() -> None:
    assert VERSIONS


async def test_frozen_records_come_to_the_rows_outcomes_and_letters_that_they_came_to(
    frozen: FrozenReader, settings: Settings
) -> None:
    topics, findings, reader = declare(settings), Findings(), cast(Any, frozen)
    for saved in frozen.manifest.saved:
        require_sound(frozen.folder, saved)
    logs = await Logs.find(topics, reader, reader)
    now = frozen.manifest.partitioning
    verification = Verification(settings, now, topics, logs, reader, findings)
    await verification.find_markers({})
    await verification.run(())
    assert findings.status == CLEAN, "\n".join(findings.lines())
    assert any("2 records" in line for line in findings.lines() if "dead-letter" in line)


def test_frozen_users_are_who_they_were(frozen: FrozenReader, settings: Settings) -> None:
    rows: dict[bytes, bytes] = {}
    for partition in frozen.rows(declare(settings).users_changelog.name):
        rows |= partition
    users = {user_id: public(rows[user_id.encode()]) for user_id in SOME}
    assert {i: (user.name, user.email) for i, user in users.items()} == SOME
    assert not GONE & {key.decode(errors="replace") for key in rows}


@pytest.mark.parametrize("table", ["users", "emails"])
def test_frozen_stores_have_the_rows_of_their_changelogs(
    table: str, frozen: FrozenReader, settings: Settings, tmp_path: Path
) -> None:
    with tarfile.open(frozen.folder.parent / "stores.tar.xz") as stores:
        stores.extractall(tmp_path, filter="data")
    store = open_store(tmp_path, table)
    topics = declare(settings)
    changelog = topics.users_changelog if table == "users" else topics.emails_changelog
    for number, rows in enumerate(frozen.rows(changelog.name)):
        store.open(number)
        assert store.read_many(number, list(rows)) == list(rows.values())
        marker = Marker.decode(store.read(number, MARKER_KEY) or b"")
        assert why_refused(marker.rules, frozen.manifest.rules) is None
    store.close(range(2))


# -- what is newer


def test_rows_of_newer_rules_are_refused_as_such() -> None:
    newer, ours = f"{RULES_VERSION + 1}:abc", f"{RULES_VERSION}:abc"
    assert "newer version (rules" in str(why_refused(newer, ours))
    assert "another EMAIL_SECRET" in str(why_refused(f"{RULES_VERSION}:xyz", ours))
    assert "another EMAIL_SECRET" in str(why_refused(f"{RULES_OF_0_8 - 1}:abc", ours))
    assert why_refused(ours, ours) is None
    assert why_refused(Marker.last().rules, ours) is not None


def test_rows_of_0_8_are_taken_over_if_its_secret_was_the_same() -> None:
    ours = f"{RULES_VERSION}:abc"
    assert why_refused(f"{RULES_OF_0_8}:abc", ours) is None
    assert "another EMAIL_SECRET" in str(why_refused(f"{RULES_OF_0_8}:xyz", ours))


def test_a_newer_partitioning_is_refused_and_further_members_are_not() -> None:
    written = Partitioning(partitions=4).model_dump()
    assert _decoded(orjson.dumps(written | {"something": 1})).partitions == 4
    with pytest.raises(TopicsError, match=r"newer version \(format 2, this one reads up to 1\)"):
        _decoded(orjson.dumps(written | {"format": FORMAT + 1}))
    with pytest.raises(TopicsError, match="cannot be read"):
        _decoded(b"[]")


#: Keys of addresses under the secret "frozen": what 0.8 stored, and domains in both of their forms.
EMAIL_KEYS = {
    "ada@example.com": "lM4aohgWHRIE8Ak2okWBbyOCnnrOaXrQqqesBoyZkqI=",
    " Ada.L+Tag@Example.COM ": "OuVH/++K8mD9GNBQ50rH5kPV333xmpnWH0OxbM2isC4=",
    "ada@a--b.example": "Y7ZOnjlzLKziLG4F7eJFbpVf1L42m/crR+FNlyIV//I=",
    "xn--ada@example.com": "bYxlAA8C34qej75fnt2CSxVMsQy9HtF8DhVG1gEpLXc=",
    "ada@b\xfccher.example": "gb9b1qvtR6fOwadpTfVrZgG5jBGYzqytwZSUIKPrEPI=",
    "\xfc@B\xdcCHER.example": "Kmaxnz62Ol+lrqWdD527rmrwBxu79jey5E6OnfNORO8=",
    "ada@stra\xdfe.example": "DT1ahIw9sWMTKIWrUp2rjmxp9qBqLW42/gwPCx5Gx14=",
    "Ada@xn--bcher-kva.example": "gb9b1qvtR6fOwadpTfVrZgG5jBGYzqytwZSUIKPrEPI=",
    "\xfc@XN--BCHER-KVA.example": "Kmaxnz62Ol+lrqWdD527rmrwBxu79jey5E6OnfNORO8=",
    "ada@xn--strae-oqa.example": "DT1ahIw9sWMTKIWrUp2rjmxp9qBqLW42/gwPCx5Gx14=",
}


@pytest.mark.parametrize(("email", "key"), EMAIL_KEYS.items())
def test_keys_of_addresses_are_frozen(email: str, key: str) -> None:
    keys = EmailKeys(b"frozen")
    assert keys.key(email).decode() == key
    assert (keys.key_of_0_8(email) is None) == ("@xn--" not in email.lower())

"""The files of a backup: one for each partition, and a manifest that is written last."""

import gzip
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from app.domain.consumed_records import ConsumedRecord, writable
from app.domain.errors import SettingsError
from app.kafka.fast_records import ToWrite
from app.kafka.partitioning import Partitioning
from app.system.files import sync, write_whole

#: Raised when older versions could not restore the files.
FORMAT = 1

_MANIFEST = "manifest.json"
#: Fast, and the size is still a third.
_COMPRESSION = 1
_CHUNK_BYTES = 1024 * 1024


class Kept(NamedTuple):
    """A record in a backup, with its old offset."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]

    def to_write(self) -> ToWrite:
        """Return the record in the form that batches take."""
        return self.timestamp, self.key, self.value, list(self.headers)


class Saved(BaseModel):
    """A partition in a backup: its offsets and its file."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    start: int
    end: int
    records: int
    file: str
    sha256: str


class Manifest(BaseModel):
    """The content of a backup, and its registry."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    app_id: str
    topic_prefix: str
    #: The rules of the rows. With another secret no lookup would find anything.
    rules: str
    partitioning: Partitioning
    saved: tuple[Saved, ...]

    def write(self, folder: Path) -> None:
        """Write the manifest. Only then is the backup complete."""
        write_whole(folder / _MANIFEST, self.model_dump_json(indent=2))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest of a backup; raise `SettingsError` if the backup is not complete."""
        try:
            text = (folder / _MANIFEST).read_bytes()
        except OSError as error:
            why = error.strerror or str(error)
            raise SettingsError(f"{folder} is no backup that was finished: {why}") from None
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError:
            raise SettingsError(f"{folder / _MANIFEST} cannot be read") from None
        if manifest.format > FORMAT:
            raise SettingsError(
                f"{folder} was written by a newer version (format {manifest.format}, this one "
                f"reads up to {FORMAT})"
            )
        return manifest


class Writing:
    """Writes the records of one partition to its file."""

    def __init__(self, folder: Path, topic: str, partition: int) -> None:
        self._path = folder / f"{topic}-{partition}.ndjson.gz"
        # The file holds names and addresses.
        self._path.touch(mode=0o600, exist_ok=False)
        self._file = gzip.GzipFile(self._path, "wb", _COMPRESSION)
        self._topic, self._partition = topic, partition
        self._records = 0

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Add the next records."""
        self._file.write(b"".join(map(_encoded, records)))
        self._records += len(records)

    def end(self, start: int, end: int) -> Saved:
        """Close the file; return its entry, for offsets from ``start`` to before ``end``."""
        self.close()
        sync(self._path)
        return Saved(
            topic=self._topic,
            partition=self._partition,
            start=start,
            end=end,
            records=self._records,
            file=self._path.name,
            sha256=_sha256(self._path),
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _encoded(record: ConsumedRecord) -> bytes:
    headers = [(name, _text(value)) for name, value in writable(record.headers)]
    return orjson.dumps(
        (record.offset, record.timestamp, _text(record.key), _text(record.value), headers),
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def read_records(folder: Path, saved: Saved) -> Iterator[Kept]:
    """Yield the records of a partition, in their order."""
    with gzip.open(folder / saved.file, "rb") as lines:
        for line in lines:
            offset, timestamp, key, value, headers = orjson.loads(line)
            named = [(name, _bytes(text) or b"") for name, text in headers]
            yield Kept(offset, timestamp, _bytes(key), _bytes(value), named)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)


def require_sound(folder: Path, saved: Saved) -> None:
    """Raise `SettingsError` if a file has changed since the backup."""
    try:
        is_sound = _sha256(folder / saved.file) == saved.sha256
    except OSError as error:
        raise SettingsError(f"{folder / saved.file}: {error.strerror or error}") from None
    if not is_sound:
        raise SettingsError(f"{folder / saved.file} is damaged: its checksum is another one")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def by_topic(manifest: Manifest) -> Mapping[str, int]:
    """Return the number of records by topic."""
    counts: dict[str, int] = {}
    for saved in manifest.saved:
        counts[saved.topic] = counts.get(saved.topic, 0) + saved.records
    return counts

"""The file of access keys: JSON that only its owner can read."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from app.access.keys import Key
from app.domain.errors import SettingsError
from app.system.files import open_lock_of, write_whole


class KeysFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = ()


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys in a file, none if there is no file; raise `SettingsError`."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SettingsError(f"KEYS_FILE: {path} cannot be read: {_why(error)}") from None
    return _parsed(path, text)


def _parsed(path: Path, text: bytes) -> tuple[Key, ...]:
    try:
        keys = KeysFile.model_validate_json(text).keys
    except ValidationError as error:
        place = "/".join(map(str, error.errors()[0]["loc"]))
        raise SettingsError(f"KEYS_FILE: {path} is not a file of keys (at /{place})") from None
    for unique in ("name", "id", "sha256"):
        if len({getattr(key, unique) for key in keys}) < len(keys):
            raise SettingsError(f"KEYS_FILE: {path} holds two keys with the same {unique}")
    return keys


def write_keys(path: Path, keys: tuple[Key, ...]) -> None:
    """Replace the file, whole and durably; raise `SettingsError`."""
    listed = KeysFile(keys=keys).model_dump(mode="json", exclude_none=True)
    for key in listed["keys"]:
        key["scopes"].sort()
    try:
        write_whole(path, json.dumps(listed, indent=2) + "\n")
    except OSError as error:
        raise SettingsError(f"KEYS_FILE: {path} cannot be written: {_why(error)}") from None


@contextmanager
def locked_keys(path: Path) -> Iterator[tuple[Key, ...]]:
    """Lock the file against other commands, and give its keys; raise `SettingsError`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open_lock_of(path)
    except OSError as error:
        raise SettingsError(f"KEYS_FILE: {path} cannot be written: {_why(error)}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read_keys(path)


def _why(error: OSError) -> str:
    return error.strerror or str(error)

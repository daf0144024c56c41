"""The access keys of a worker. Changes of the file take effect without a restart."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import monotonic

import structlog

from app.access.files import read_keys
from app.access.keys import Key, hash_of
from app.domain.errors import SettingsError
from app.system.file_fingerprint import FileFingerprint, fingerprint_of

log = structlog.get_logger(__name__)

#: How often requests check whether the file has changed.
LOOK_EVERY_SECONDS = 1.0


#: How long the last good keys are accepted while the file cannot be read.
TRUST_SECONDS = 60.0


class KeyRing:
    """The keys of the file. It notices a changed file within a second.

    While the file cannot be read, the last good keys are accepted for a minute. After that no key
    is accepted, because a key may have been revoked meanwhile.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = monotonic) -> None:
        #: Called with the names of keys that were added and removed. A changed key is in both
        #: lists.
        self.changed: Callable[..., None] = _ignore_changes
        self._path = path
        self._clock = clock
        self._fingerprint: FileFingerprint = fingerprint_of(path)
        self._next_look = clock() + LOOK_EVERY_SECONDS
        self._trouble: str | None = None
        #: When each key was used last, by its id.
        self._used_at: dict[str, float] = {}
        self._trusted_until = 0.0
        self._read = frozenset(read_keys(path))
        self._take(self._read)

    @property
    def trouble(self) -> str | None:
        """Why the keys of the file are unknown now; None if they are known."""
        self._look()
        return self._trouble

    def find(self, text: str) -> Key | None:
        """Return the key that a client sent, unless it is unknown or expired.

        Only hashes are compared. So the time that this takes reveals nothing about a key.
        """
        self._look()
        return self._usable(self._by_hash.get(hash_of(text)))

    def find_id(self, key_id: str) -> Key | None:
        """Return the key with an id, unless it is unknown or expired."""
        self._look()
        return self._usable(self._by_id.get(key_id))

    def unused_seconds(self) -> Mapping[str, float]:
        """Return for how long each key was not used, by its name; only keys that were used here."""
        now, used_at = self._clock(), self._used_at
        return {
            key.name: now - used_at[key.id] for key in self._by_id.values() if key.id in used_at
        }

    def _usable(self, key: Key | None) -> Key | None:
        """Return a key unless it has expired, and note that it was used."""
        if key is None or key.is_expired:
            return None
        self._used_at[key.id] = self._clock()
        return key

    def _look(self) -> None:
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_SECONDS
        fingerprint = fingerprint_of(self._path)
        # A file that could not be read may become readable without a new fingerprint.
        if fingerprint != self._fingerprint or self._trouble is not None:
            self._fingerprint = fingerprint
            self._reread(now, vanished=fingerprint is None)
        if self._trouble is not None and now >= self._trusted_until:
            self._take(())

    def _reread(self, now: float, *, vanished: bool) -> None:
        try:
            if vanished:
                raise SettingsError(f"KEYS_FILE: {self._path} is gone, or cannot be reached")
            known = read_keys(self._path)
        except SettingsError as error:
            if self._trouble is None:
                self._trusted_until = now + TRUST_SECONDS
                log.error(
                    "the keys cannot be read: the last good keys are accepted for a minute",
                    reason=str(error),
                )
            self._trouble = str(error)
        else:
            self._trouble = None
            self._take(known)
            log.info("the keys were read again", keys=len(known))
            added, removed = set(known) - self._read, self._read - set(known)
            if added or removed:
                self.changed(added=_names(added), removed=_names(removed))
            self._read = frozenset(known)

    def _take(self, keys: Collection[Key]) -> None:
        self._by_hash: Mapping[str, Key] = {key.sha256: key for key in keys}
        self._by_id: Mapping[str, Key] = {key.id: key for key in keys}


def _names(keys: Collection[Key]) -> list[str]:
    return sorted(key.name for key in keys)


def _ignore_changes(*, added: list[str], removed: list[str]) -> None:
    pass

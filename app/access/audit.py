"""The audit log: one line of JSON for each action: who, what, which user, which outcome.

It holds no personal data: ids and addresses are hashed with a secret. A person who knows an id can
find its lines. Nobody can learn the id from a line.
"""

import hmac
import logging
import os
import pwd
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from time import monotonic
from typing import Final

import orjson
import structlog

from app.access.proofs import derived
from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.ingest.rate_limits import Rate

log = structlog.get_logger(__name__)

LOGGER: Final = logging.getLogger("audit")

#: Most lines a second about refused strangers. Without a limit they could fill any disk.
REFUSALS_PER_SECOND = 10
_HASH_CHARACTERS = 32


class Audit:
    """Writes the lines."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = monotonic) -> None:
        self._secret = derived(secret, "audit")
        self._clock = clock
        self._refusals = Rate()
        self._left_out = 0

    @classmethod
    def of(cls, settings: Settings) -> "Audit | None":
        """Return the log that the settings ask for; None if callers need no key."""
        if settings.keys_file is None and settings.audit_file is None:
            return None
        _write_to(settings.audit_file)
        return cls(settings.audit_secret)

    def hash_of(self, text: str) -> str:
        """Return the hash that stands for an id or an address."""
        hashed = hmac.digest(self._secret, text.encode(errors="surrogateescape"), sha256)
        return hashed.hex()[:_HASH_CHARACTERS]

    def note(self, what: str, outcome: str, **members: object) -> None:
        """Write a line; members without a value are left out."""
        told = {"what": what, "outcome": outcome, **members, "left_out": self._left_out or None}
        self._left_out = 0
        LOGGER.info(orjson.dumps({k: v for k, v in told.items() if v is not None}).decode())

    def note_stranger(self, what: str, outcome: str, **members: object) -> None:
        """Write a line about an unknown caller. Above the limit, only count it."""
        now = self._clock()
        if self._refusals.wait(now):
            self._left_out += 1
            return
        self._refusals.use(1, REFUSALS_PER_SECOND, now)
        self.note(what, outcome, **members)


class CommandAudit:
    """Writes what commands do to AUDIT_FILE, if it is set.

    The actor is the user of the operating system. Without the file there is no log: nothing keeps
    what a command writes to stderr.
    """

    def __init__(self, settings: Settings) -> None:
        """Raise `SettingsError` if the file cannot be written: then the command must do nothing."""
        require_audit_file(settings.audit_file)
        self._audit = Audit.of(settings) if settings.audit_file is not None else None

    def note(self, what: str, outcome: str, user_id: str | None = None, **members: object) -> None:
        """Write a line; members without a value are left out."""
        if self._audit is not None:
            hashed = None if user_id is None else self._audit.hash_of(user_id)
            self._audit.note(what, outcome, who=_os_user(), id=hashed, **members)


def _os_user() -> str:
    """Return the user that runs this process, in a form that no key's name has."""
    number = os.getuid()
    try:
        return f"os:{pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"os:{number}"


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return f'{{"at":"{at}",{record.getMessage()[1:]}'


class _File(WatchedFileHandler):
    """A file that only its owner can read. Another program may rename it, to rotate logs."""

    _is_failing = _was_failing = False

    def _open(self) -> TextIOWrapper:
        return _opened(Path(self.baseFilename))

    def emit(self, record: logging.LogRecord) -> None:
        self._was_failing, self._is_failing = self._is_failing, False
        try:
            super().emit(record)
        except OSError:  # log rotation has renamed it, and a new file cannot be made
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self._is_failing = True
        if not self._was_failing:
            log.error("AUDIT_FILE cannot be written: lines are lost")


def require_audit_file(path: Path | None) -> None:
    """Check that the file can be written; raise `SettingsError`."""
    try:
        if path is not None:
            _opened(path).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingsError(f"AUDIT_FILE: {path} cannot be written: {why}") from None


def _opened(path: Path) -> TextIOWrapper:
    made = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    found = os.fstat(made)
    if os.geteuid() == 0 and stat.S_ISREG(found.st_mode) and not found.st_size:
        # A command of root may be the first to write. Workers must be able to write later.
        folder = path.parent.stat()
        os.fchown(made, folder.st_uid, folder.st_gid)
    return os.fdopen(made, "a", encoding="utf-8")


def _write_to(path: Path | None) -> None:
    """Write the lines to a file, or to stderr unchanged."""
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()
    handler = logging.StreamHandler() if path is None else _File(path, delay=True)
    handler.setFormatter(_Line())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False

"""The environment: `app.config.settings` reads it, and no library does."""

import fnmatch
import os
from collections.abc import Iterable

#: What libraries read of their own accord, most of it while they are imported: it would bend, open
#: or break a worker whose user has set it for something else.
_FOREIGN = (
    "F_*",
    "FAUST_*",
    "AIOHTTP_*",
    "AIOKAFKA_*",
    "DEVLOG",
    "DJANGO_SETTINGS_MODULE",
    "GEVENT_LOOP",
    "NO_CYTHON",
    "PYDANTIC_*",
    "SSLKEYLOGFILE",
    "TYPEXPR_DEBUG",
    "UNICODE_VERSION",
)

#: What programs need to know of the machine and of who runs them.
_SYSTEM = (
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LD_*",
    "LOGNAME",
    "MALLOC_*",
    "NO_COLOR",
    "OPENSSL_CONF",
    "OTEL_*",
    "PATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "USER",
)


def forget_foreign() -> None:
    """Take from this process, and so from what it starts, what was set for other programs."""
    for name in _among(_FOREIGN):
        del os.environ[name]


def handed_down(settings: Iterable[str] = ()) -> dict[str, str]:
    """Return all that a program sees that we start: the system's own, and settings by name."""
    return {name: os.environ[name] for name in _among((*_SYSTEM, *settings))}


def _among(patterns: Iterable[str]) -> list[str]:
    listed = tuple(patterns)
    return [name for name in os.environ if any(fnmatch.fnmatchcase(name, each) for each in listed)]

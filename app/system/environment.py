"""The environment: `app.config.settings` reads it, and libraries do not."""

import fnmatch
import os
from collections.abc import Iterable

#: Variables that libraries read, most of them on import. A user who has set them for another
#: program would change, open or break a worker.
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

#: What programs need to know about the machine and its user.
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
    """Remove variables for other programs from this process, and so from its children."""
    for name in _among(_FOREIGN):
        del os.environ[name]


def handed_down(settings: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment of a child process: the system's variables, and some settings."""
    return {name: os.environ[name] for name in _among((*_SYSTEM, *settings))}


def _among(patterns: Iterable[str]) -> list[str]:
    listed = tuple(patterns)
    return [name for name in os.environ if any(fnmatch.fnmatchcase(name, each) for each in listed)]

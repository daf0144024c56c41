"""Types of settings, and what a value must be."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from app.domain.hosts import HIGHEST_PORT, bare_host

_BROKER = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})")
_LABEL_CHARACTERS = 63


def reachable(path: Path) -> Path:
    """Return a path with ``~`` expanded. It need not exist yet."""
    try:
        path = path.expanduser()
        path.stat()
    except RuntimeError:
        raise ValueError("names the home of an unknown user") from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except OSError as error:
        raise ValueError(f"cannot be used: {error.strerror}") from None
    return path


def host(text: str) -> str:
    """Return a host's name or address, IPv6 without its brackets; raise `ValueError`."""
    found = bare_host(text)
    if found is None:
        raise ValueError("must be a host's name or IP address")
    return found


def brokers(text: str) -> str:
    """Return ``host:port,…`` without blanks; raise `ValueError`."""
    return ",".join(map(_broker, text.split(",")))


def _broker(text: str) -> str:
    address = _BROKER.fullmatch(text.strip())
    if address is None:
        raise ValueError("must be host:port, several separated by commas")
    host(address["host"])
    if not 1 <= int(address["port"]) <= HIGHEST_PORT:
        raise ValueError(f"ports are 1 to {HIGHEST_PORT}")
    return address[0]


def _url(text: str) -> str:
    """Return a URL; raise `ValueError` if it has no usable host or port."""
    parts = urlsplit(text)
    # The resolver decides which names it knows. Only the length of a label is certain.
    if not parts.hostname or max(map(len, parts.hostname.split("."))) > _LABEL_CHARACTERS:
        raise ValueError("must name a host")
    if parts.port == 0:
        raise ValueError(f"ports are 1 to {HIGHEST_PORT}")
    return text


Port = Annotated[int, Field(ge=1, le=HIGHEST_PORT)]
File = Annotated[Path, AfterValidator(reachable)]
Url = Annotated[str, AfterValidator(_url)]
#: How many in a second. A rate near zero would be a standstill.
Rate = Annotated[float, Field(ge=0.001, le=1e9)]
#: Words that may be written in small letters or in capitals.
CAPITALS = BeforeValidator(lambda word: str(word).upper())
SMALL = BeforeValidator(lambda word: str(word).lower())
#: Names that become part of Kafka's names: the alphabet of topics.
KafkaName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]

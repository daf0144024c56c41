"""The HTTP client of export and import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from app.config.target import Target, check_key
from app.domain.errors import RegistryError

CONNECT_SECONDS = 10.0
#: How long nothing may arrive. A server tries for 20 s to read a page of an export.
SILENCE_SECONDS = 60.0

Format = str
FORMATS = ("ndjson", "csv")


class TransferError(RegistryError):
    """A transfer cannot continue."""

    exit_status = 1


class RefusedError(RegistryError):
    """The registry refuses a transfer, or the file cannot be read."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The address of a registry, and the key to use."""

    url: str
    key: str | None = field(default=None, repr=False)
    #: Certificates to trust, beside those of this machine.
    ca_file: Path | None = None

    def address(self, path: str) -> str:
        """Return the address of a path of the registry."""
        return f"{self.url.rstrip('/')}{path}"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Yield an HTTP client; raise `TargetError` if the address or the key cannot be used."""
        tls = Target.parse(self.url).tls(self.ca_file)
        check_key(self.key)
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        connector = aiohttp.TCPConnector(ssl=True if tls is None else tls)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=timeout
        ) as session:
            yield session


async def refused(answer: aiohttp.ClientResponse) -> RegistryError:
    """Return in one line why a request was refused."""
    try:
        detail = orjson.loads(await answer.read())["detail"]
    except (aiohttp.ClientError, ValueError, TypeError, KeyError):
        detail = answer.reason
    kind = RefusedError if answer.status < 500 else TransferError
    return kind(f"the registry answers {answer.status}: {detail}")


def cause(error: BaseException) -> str:
    """Return in a few words why an answer did not come, or ended early."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return "nothing answers there"
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        return "the connection was cut off"
    return str(error) or type(error).__name__

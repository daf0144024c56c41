"""Exports all users to a file. A partial file never looks complete."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import aiohttp

from app.ops.transfer.remote import Format, RefusedError, Remote, TransferError, cause, refused
from app.system.files import whole_file

#: Called with the number of users and bytes written so far.
Advance = Callable[[int, int], None]

#: Standard output, or input.
STDIO = Path("-")


class Counter:
    """Counts rows as they pass. In CSV, a line end in quotes is part of a name."""

    def __init__(self, name: Format) -> None:
        self._has_quotes = name == "csv"
        self._is_quoted = False
        self._lines = 0

    def add(self, chunk: bytes) -> None:
        """Count the rows that end in a chunk."""
        if not self._has_quotes:
            self._lines += chunk.count(b"\n")
            return
        first, *others = chunk.split(b'"')
        self._count(first)
        for part in others:
            self._is_quoted = not self._is_quoted
            self._count(part)

    def _count(self, part: bytes) -> None:
        if not self._is_quoted:
            self._lines += part.count(b"\n")

    @property
    def users(self) -> int:
        """How many users have passed."""
        return max(self._lines - self._has_quotes, 0)


async def export(remote: Remote, name: Format, prefix: str, output: Path, advance: Advance) -> int:
    """Write all users with an id prefix to a file; return how many.

    Raises `TransferError` if the export fails. Then there is no file.
    """
    counter, size = Counter(name), 0
    query = {"format": name, "prefix": prefix}
    try:
        async with (
            remote.session() as session,
            session.get(remote.address("/export"), params=query) as answer,
        ):
            if answer.status != 200:
                raise await refused(answer)
            with _opened(output) as file:
                async for chunk in answer.content.iter_any():
                    file.write(chunk)
                    counter.add(chunk)
                    size += len(chunk)
                    advance(counter.users, size)
                file.flush()
    except aiohttp.ClientConnectorError as error:
        raise RefusedError(f"{remote.url}: {cause(error)}") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        written = f" after {counter.users:,} users; nothing is kept" if size else ""
        raise TransferError(f"nothing is exported: {cause(error)}{written}") from None
    except OSError as error:
        raise TransferError(f"{output}: {error.strerror or error}") from None
    return counter.users


def _opened(output: Path) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdout.buffer) if output == STDIO else whole_file(output)

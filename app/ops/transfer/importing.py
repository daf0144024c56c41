"""Imports registrations from a file, in order. Each batch is sent until it is acknowledged."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import aiohttp
from pydantic import BaseModel
from tenacity import RetryCallState, stop_after_delay

from app.ops.transfer.remote import RefusedError, Remote, TransferError, cause, refused
from app.ops.transfer.rows import Row
from app.system import retries

#: How hard gzip tries: level 6 takes twice as long, and makes rows smaller by a tenth.
_LEVEL = 1

#: Statuses that may pass, unlike mistakes.
_PASSING = (408, 429, 500, 502, 503, 504)


@dataclass(slots=True)
class Imported:
    """The result so far."""

    #: Called for each row that is not sent unchanged: its line, and why.
    tell: Callable[[int, str], None]
    accepted: int = 0
    rejected: int = 0
    mended: int = 0
    #: The line up to which all rows are settled.
    line: int = 0

    def reject(self, line: int, wrong: str) -> None:
        """Note a rejected row."""
        self.rejected += 1
        self.tell(line, wrong)

    def mend(self, line: int) -> None:
        """Note a row whose name was sent without its control characters."""
        self.mended += 1
        self.tell(line, "its name had control characters, and was sent with blanks for them")


class _Wrong(BaseModel):
    pointer: str
    detail: str


class _Rejected(BaseModel):
    index: int
    errors: list[_Wrong]

    def told(self) -> str:
        told = (f"{wrong.pointer.lstrip('/')} {wrong.detail}".strip() for wrong in self.errors)
        return "; ".join(told)


class _Report(BaseModel):
    """The registry's answer to a batch."""

    accepted: int
    rejected: list[_Rejected]


class _Sent(NamedTuple):
    """The result of a batch: how many rows are accepted, and what is wrong with the others."""

    accepted: int
    wrong: dict[int, str]


class _AgainError(TransferError):
    """A request failed in a way that may pass. It is sent again after some seconds."""

    def __init__(self, why: str, after_seconds: float = 0) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


async def import_rows(
    remote: Remote,
    rows: Iterator[Row],
    told: Imported,
    advance: Callable[[], None],
    *,
    batch: int,
    patience_seconds: float,
    is_packed: bool = False,
) -> None:
    """Send rows in batches, and note the result in ``told``.

    Sending a row twice is safe. Raises `TransferError` if the registry refuses, or if a batch is
    not accepted within ``patience_seconds``.
    """
    trying = retries.IMPORT.attempts(
        _AgainError, wait=_wait, stop=stop_after_delay(patience_seconds)
    )
    async with remote.session() as session:
        await _require_server(session, remote)
        while some := list(islice(rows, batch)):
            wrong = {row.line: row.wrong for row in some if row.wrong}
            good = [row for row in some if not row.wrong]
            if good:
                sent: _Sent = await trying(_send, session, remote, good, is_packed)
                told.accepted += sent.accepted
                wrong |= sent.wrong
            for row in some:
                if row.line in wrong:
                    told.reject(row.line, wrong[row.line])
                elif row.is_mended:
                    told.mend(row.line)
            told.line = some[-1].line
            advance()


async def _require_server(session: aiohttp.ClientSession, remote: Remote) -> None:
    """Fail at once if no server is at the address. Later, a server that is away is waited for."""
    try:
        async with session.get(remote.address("/health/live")):
            pass
    except (aiohttp.ClientError, TimeoutError) as error:
        raise RefusedError(f"{remote.url}: {cause(error)}") from None


def _wait(state: RetryCallState) -> float:
    error = None if state.outcome is None else state.outcome.exception()
    asked = error.after_seconds if isinstance(error, _AgainError) else 0.0
    return max(asked, retries.IMPORT.pause_seconds(state.attempt_number))


async def _send(
    session: aiohttp.ClientSession, remote: Remote, rows: Sequence[Row], is_packed: bool
) -> _Sent:
    body = b"\n".join(row.sent for row in rows)
    headers = {"Content-Type": "application/x-ndjson"}
    if is_packed:
        body, headers["Content-Encoding"] = gzip.compress(body, _LEVEL), "gzip"
    try:
        async with session.post(
            remote.address("/users/batch"), data=body, headers=headers
        ) as answer:
            if answer.status in _PASSING:
                raise _AgainError(str(await refused(answer)), _retry_after(answer))
            if answer.status != 202:
                raise await refused(answer)
            report = _Report.model_validate_json(await answer.read())
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
        raise _AgainError(cause(error)) from None
    except (aiohttp.ClientError, ValueError):
        raise RefusedError(f"{remote.url}: what answers there is no registry") from None
    return _Sent(report.accepted, {rows[each.index].line: each.told() for each in report.rejected})


def _retry_after(answer: aiohttp.ClientResponse) -> float:
    seconds = answer.headers.get("Retry-After", "")
    return min(float(seconds), retries.MAX_RETRY_AFTER_SECONDS) if seconds.isdecimal() else 0.0

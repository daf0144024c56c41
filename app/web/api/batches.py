"""Many registrations in one request: a JSON array, or NDJSON of any length.

A bad row never costs the good ones. If the broker does not take a row, the request ends with a
problem that says how far it came. Sending everything again is safe, unless the problem says
otherwise.
"""

import asyncio
from codecs import BOM_UTF8
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import orjson
from aiohttp import web

from app.domain.errors import OutcomeOpenError, OutcomeUnknownError, RegistryError
from app.domain.records import FieldError, read_registrations
from app.web.api.writes import require_json
from app.web.http.bodies import body_of, parts_of
from app.web.http.negotiation import json
from app.web.http.problems import ProblemError, from_error, pointers
from app.web.http.room import turn
from app.web.services import Services, services

routes = web.RouteTableDef()

#: Rows that are validated and sent together. Other tasks run between two chunks.
CHUNK_ROWS = 1_000
CHUNK_BYTES = 256 * 1024
#: The most chunks of one request that may wait for acknowledgements. Then reading stops.
MAX_CHUNKS_UNDER_WAY = 4
#: No legal row is longer.
MAX_ROW_BYTES = 16 * 1024
#: At most this many rejected rows are listed. One more ends the request: its client sends something
#: else.
MAX_REJECTED = 1_000

_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")

#: How much a failure speaks against sending a batch again. Others do not.
_GRAVITY: Mapping[type[Exception], int] = {OutcomeOpenError: 2, OutcomeUnknownError: 1}

#: In place of a row that cannot be read, with the reason.
_NOT_JSON, _TOO_LONG = object(), object()
_BROKEN: Mapping[object, Sequence[FieldError]] = {
    _NOT_JSON: [FieldError((), "The row is not JSON", "json_invalid")],
    _TOO_LONG: [FieldError((), f"The row has more than {MAX_ROW_BYTES} bytes", "too_long")],
}


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The result of some rows: how many, how many accepted, and what is wrong with others.

    ``failure`` is why the broker did not take a valid row; None if it took all.
    """

    rows: int
    accepted: int
    wrong: Mapping[int, Sequence[FieldError]]
    failure: RegistryError | None


@dataclass(slots=True)
class _Report:
    """The result so far. Rows from ``settled_rows`` on must be sent again."""

    settled_rows: int = 0
    accepted: int = 0
    rejected: list[dict[str, object]] = field(default_factory=list)

    def add(self, chunk: _Chunk) -> None:
        """Note the next chunk; raise its failure."""
        self.accepted += chunk.accepted
        if chunk.failure is not None:
            raise chunk.failure
        self.rejected += [
            {"index": self.settled_rows + index, "errors": pointers(errors)}
            for index, errors in chunk.wrong.items()
        ]
        self.settled_rows += chunk.rows
        if len(self.rejected) > MAX_REJECTED:
            told = f"{len(self.rejected)} rows are rejected: the rest is not read."
            raise ProblemError(422, "too-many-rejected", told, headers={"Connection": "close"})

    def members(self) -> dict[str, object]:
        """Return the report as JSON members."""
        return {"accepted": self.accepted, "rejected": self.rejected}


@routes.post("/users/batch")
async def post_users(request: web.Request) -> web.Response:
    """Accept registrations: 202 with how many, and which rows are none and why."""
    require_json(request, "application/json", *_NDJSON)
    report = _Report()
    try:
        await _accept_all(request, report)
    except (ProblemError, RegistryError) as error:
        # Rows that are not in the report may have been accepted. Sending them again is safe.
        problem = from_error(error)
        members = {**report.members(), "settled_rows": report.settled_rows}
        raise replace(problem, members=members) from None
    return json(orjson.dumps(report.members()), 202)


async def _accept_all(request: web.Request, report: _Report) -> None:
    given = services(request)
    under_way: deque[asyncio.Task[_Chunk]] = deque()
    try:
        async for rows in _chunks(request):
            if report.settled_rows or under_way:
                await given.turn()
                await asyncio.sleep(0)
            # One task for each chunk, in order: each sends before it first waits.
            under_way.append(asyncio.create_task(_accept(request, given, rows)))
            if len(under_way) == MAX_CHUNKS_UNDER_WAY:
                report.add(await under_way.popleft())
        while under_way:
            report.add(await under_way.popleft())
    except (ProblemError, RegistryError) as error:
        rest = await asyncio.gather(*under_way)
        raise _gravest([error, *(chunk.failure for chunk in rest if chunk.failure)]) from None
    finally:
        await asyncio.gather(*under_way)


async def _accept(request: web.Request, given: Services, rows: Sequence[Any]) -> _Chunk:
    """Send the valid rows, and wait for their acknowledgements."""
    async with turn(request):
        good, wrong = read_registrations(rows)
    wrong = {
        index: _BROKEN.get(rows[index], errors) if type(rows[index]) is object else errors
        for index, errors in wrong.items()
    }
    try:
        failures = (await given.write_all(good, len(wrong))).failures()
    except RegistryError as error:
        return _Chunk(len(rows), 0, wrong, error)
    accepted = len(good) - len(failures)
    failure = _gravest(failures) if failures else None
    return _Chunk(len(rows), accepted, wrong, failure)


_Failure = TypeVar("_Failure", bound=Exception)


def _gravest(failures: Sequence[_Failure]) -> _Failure:
    """Return the failure that matters most for sending everything again."""
    return max(failures, key=lambda failure: _GRAVITY.get(type(failure), 0))


async def _chunks(request: web.Request) -> AsyncIterator[list[Any]]:
    """Yield chunks of rows as parsed JSON. A marker stands for a row that cannot be read."""
    if request.content_type in _NDJSON:
        async for lines in _lines(request):
            for begin in range(0, len(lines), CHUNK_ROWS):
                yield list(map(_row, lines[begin : begin + CHUNK_ROWS]))
        return
    body = await body_of(request, may_be_packed=True)
    async with turn(request):
        rows = iter(_array(body))
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


def _array(body: bytes) -> list[Any]:
    try:
        rows = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProblemError(400, "malformed", str(error)) from None
    if not isinstance(rows, list):
        raise ProblemError(422, "invalid", "The body must be a JSON array of registrations.")
    return rows


async def _lines(request: web.Request) -> AsyncIterator[list[bytes]]:
    """Yield chunks of lines that are not blank, as they come.

    Of a line that is too long, only the beginning is kept. It is also too long.
    """
    lines: list[bytes] = []
    size, rest, is_first = 0, b"", True
    async for part in parts_of(request):
        first, *others = part.split(b"\n")
        rest += first if len(rest) <= MAX_ROW_BYTES else b""
        if is_first and (others or len(rest) >= len(BOM_UTF8)):
            rest, is_first = rest.removeprefix(BOM_UTF8), False
        if others:
            lines += filter(_is_row, [rest, *others[:-1]])
            rest = others[-1]
        size += len(part)
        if len(lines) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield lines
            lines, size = [], 0
    if _is_row(rest):
        lines.append(rest)
    if lines:
        yield lines


def _is_row(line: bytes) -> bool:
    """Return whether a line is not blank. A cut line may go on, so it counts."""
    return len(line) > MAX_ROW_BYTES or bool(line.strip())


def _row(line: bytes) -> Any:
    """Return the value in a line. Each line stands alone."""
    if len(line) > MAX_ROW_BYTES:
        return _TOO_LONG
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return _NOT_JSON

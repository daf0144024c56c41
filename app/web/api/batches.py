"""Many writes in one request: a JSON array, or NDJSON of any length.

A row is a registration, or by its ``type`` an update or an erasure. A bad row never costs the good
ones. If the broker does not take a row, the request ends with a problem that says how far it came.
Sending everything again is safe, unless the problem says otherwise. With ``?receipts=1`` each row
is answered by a line, and one that the broker does not take costs only itself.
"""

import asyncio
from codecs import BOM_UTF8
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from typing import Any

import orjson
from aiohttp import web

from app.domain.errors import OutcomeOpenError, OutcomeUnknownError, RegistryError
from app.domain.records import CommandValue, FieldError, is_erasure, read_commands
from app.web.api.writes import require_json
from app.web.auth.auditing import audited
from app.web.http.bodies import body_of, parts_of
from app.web.http.negotiation import json
from app.web.http.problems import ProblemError, from_error, pointers
from app.web.http.room import turn
from app.web.services import Writes, services

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
    """Some rows: which are good, what is wrong with the others, what came of the good ones."""

    rows: int
    good: Sequence[CommandValue]
    wrong: Mapping[int, Sequence[FieldError]]
    #: Or why nothing was sent.
    came: Writes | RegistryError

    def failures(self) -> list[RegistryError]:
        """Return why the broker did not take the good rows that it did not take."""
        return [self.came] if isinstance(self.came, RegistryError) else self.came.failures()

    @property
    def accepted(self) -> int:
        """How many rows are durable."""
        refused = isinstance(self.came, RegistryError)
        return 0 if refused else len(self.good) - len(self.failures())

    def told(self) -> Iterator[tuple[CommandValue, str | RegistryError]]:
        """Yield each good row, and its position or why it has none."""
        came = repeat(self.came) if isinstance(self.came, RegistryError) else self.came.told()
        return zip(self.good, came, strict=False)


@dataclass(slots=True)
class _Report:
    """The result so far. Rows from ``settled_rows`` on must be sent again."""

    settled_rows: int = 0
    accepted: int = 0
    rejected: list[dict[str, object]] = field(default_factory=list)

    def add(self, chunk: _Chunk) -> list[Exception]:
        """Note the next chunk; return why the request ends with it, if it does."""
        self.accepted += chunk.accepted
        if failures := chunk.failures():
            return [*failures]
        self.rejected += [
            {"index": self.settled_rows + index, "errors": pointers(errors)}
            for index, errors in chunk.wrong.items()
        ]
        self.settled_rows += chunk.rows
        return [] if len(self.rejected) <= MAX_REJECTED else [_too_many(len(self.rejected))]

    def members(self) -> dict[str, object]:
        """Return the report as JSON members."""
        return {"accepted": self.accepted, "rejected": self.rejected}


def _too_many(rejected: int) -> ProblemError:
    told = f"{rejected} rows are rejected: the rest is not read."
    return ProblemError(422, "too-many-rejected", told, headers={"Connection": "close"})


@routes.post("/users/batch")
async def post_users(request: web.Request) -> web.StreamResponse:
    """Accept many writes: 202 with how many, and which rows are none and why."""
    require_json(request, "application/json", *_NDJSON)
    match request.query.get("receipts", "0"):
        case "1":
            return await _with_receipts(request)
        case "0":
            return await _with_report(request)
    raise ProblemError(400, "malformed", "receipts must be 0 or 1.")


async def _with_report(request: web.Request) -> web.Response:
    """Answer with one report; the first row that the broker does not take ends the request."""
    report, upload = _Report(), _Upload(request)
    failures: list[Exception] = []
    async with aclosing(upload.chunks()) as chunks:
        try:
            async for chunk in chunks:
                failures += chunk.failures() if failures else report.add(chunk)
                if failures:
                    upload.stop()
        except (ProblemError, RegistryError) as error:
            failures.append(error)
    if failures:
        # Rows that are not in the report may have been accepted. Sending them again is safe.
        problem = from_error(_gravest(failures))
        members = {**report.members(), "settled_rows": report.settled_rows}
        raise replace(problem, members=members)
    return json(orjson.dumps(report.members()), 202)


def _gravest(failures: Sequence[Exception]) -> Exception:
    """Return the failure that matters most for sending everything again."""
    return max(failures, key=lambda failure: _GRAVITY.get(type(failure), 0))


async def _with_receipts(request: web.Request) -> web.StreamResponse:
    """Answer each row with a line, in order, while more rows come."""
    response = web.StreamResponse(
        headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
    )
    with suppress(ConnectionResetError):  # the client has gone
        try:
            async for lines in _receipts(request):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(lines)
        except (ProblemError, RegistryError) as error:
            if not response.prepared:
                raise
            # The last line: of no row, but of all that would follow.
            await response.write(_line(problem=_told(from_error(error))))
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
    return response


async def _receipts(request: web.Request) -> AsyncIterator[bytes]:
    """Yield lines, one for each row; raise why the rows cannot be read to the end."""
    rows = rejected = 0
    async with aclosing(_Upload(request).chunks()) as chunks:
        async for chunk in chunks:
            yield b"".join(_receipts_of(chunk, rows))
            rows += chunk.rows
            rejected += len(chunk.wrong)
            if rejected > MAX_REJECTED:
                raise _too_many(rejected)


def _receipts_of(chunk: _Chunk, first: int) -> Iterator[bytes]:
    """Yield a line for each row of a chunk."""
    told = chunk.told()
    for index in range(chunk.rows):
        if index in chunk.wrong:
            yield _line(index=first + index, errors=pointers(chunk.wrong[index]))
            continue
        command, came = next(told)
        if isinstance(came, RegistryError):
            yield _line(index=first + index, id=command["id"], problem=_told(from_error(came)))
        else:
            yield _line(index=first + index, id=command["id"], position=came)


def _line(**members: object) -> bytes:
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def _told(problem: ProblemError) -> orjson.Fragment:
    return orjson.Fragment(problem.body())


class _Upload:
    """The rows of a request, sent as they come."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._is_over = False

    def stop(self) -> None:
        """Read no more; what is under way is still told."""
        self._is_over = True

    async def chunks(self) -> AsyncGenerator[_Chunk, None]:
        """Yield what came of the rows, in their order; raise why they cannot be read to the end."""
        under_way: deque[asyncio.Task[_Chunk]] = deque()
        error: Exception | None = None
        try:
            try:
                async for rows in self._admitted():
                    # One task for each chunk, in order: each sends before it first waits.
                    under_way.append(asyncio.create_task(_accept(self._request, rows)))
                    if len(under_way) == MAX_CHUNKS_UNDER_WAY:
                        yield await under_way.popleft()
                    if self._is_over:
                        break
            except (ProblemError, RegistryError) as failed:
                error = failed
            while under_way:
                yield await under_way.popleft()
            if error is not None:
                raise error
        finally:
            await asyncio.gather(*under_way)

    async def _admitted(self) -> AsyncIterator[list[Any]]:
        """Yield chunks of rows, no faster than the client may send them."""
        is_first = True
        async for rows in _chunks(self._request):
            if not is_first:
                await services(self._request).turn()
                await asyncio.sleep(0)
            is_first = False
            yield rows


async def _accept(request: web.Request, rows: Sequence[Any]) -> _Chunk:
    """Send the valid rows, and wait for their acknowledgements."""
    async with turn(request):
        good, wrong = read_commands(rows)
    wrong = {
        index: _BROKEN.get(rows[index], errors) if type(rows[index]) is object else errors
        for index, errors in wrong.items()
    }
    came: Writes | RegistryError
    try:
        came = await services(request).write_all(good, len(wrong))
    except RegistryError as error:
        came = error
    chunk = _Chunk(len(rows), good, wrong, came)
    _tell_erasures(request, chunk)
    return chunk


def _tell_erasures(request: web.Request, chunk: _Chunk) -> None:
    """Write a line to the audit log about each erasure, as about any other one."""
    if not any("type" in command and is_erasure(command) for command in chunk.good):
        return
    for command, came in chunk.told():
        if is_erasure(command):
            with suppress(ProblemError), audited(request, "erasure", command["id"]) as noted:
                if isinstance(came, RegistryError):
                    raise came
                noted["position"] = came


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
        raise ProblemError(422, "invalid", "The body must be a JSON array of rows.")
    return rows


async def _lines(request: web.Request) -> AsyncIterator[list[bytes]]:
    """Yield chunks of lines that are not blank, as they come.

    Of a line that is too long, only the beginning is kept. It is also too long.
    """
    lines: list[bytes] = []
    size, rest, is_first = 0, b"", True
    async for part in parts_of(request):
        # A part may be nothing but line ends, and many may come at once.
        async with turn(request):
            first, *others = part.split(b"\n")
            rest += first if len(rest) <= MAX_ROW_BYTES else b""
            if is_first and (others or len(rest) >= len(BOM_UTF8)):
                rest, is_first = rest.removeprefix(BOM_UTF8), False
            if others:
                *whole, last = others
                lines += filter(_is_row, filter(None, (rest, *whole)))
                rest = last
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

"""Streams all users, in the order of their ids, as NDJSON or CSV.

The next page of the list is read once the client has read the one before, so memory is bounded. If
an export fails, the connection is closed, so a partial file never looks complete.
"""

import csv
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from io import StringIO

import structlog
from aiohttp import web

from app.domain.errors import NotReadyError, RegistryError, Unavailable
from app.domain.records import User
from app.query.listing import UsersPage, Wanted
from app.query.lookups import FindsUsers
from app.system import retries
from app.web.api.lookups import prefix_of
from app.web.auth.auditing import note
from app.web.http.problems import ProblemError
from app.web.http.rates import USERS_OF_READ
from app.web.http.room import EXPORTS, hold
from app.web.services import services

routes = web.RouteTableDef()

log = structlog.get_logger(__name__)

#: How many users are read at once.
PAGE_USERS = 1_000

#: The columns of CSV, where no cell may be missing.
COLUMNS = tuple(name for name in User.model_fields if name not in ("position", "stale_seconds"))

Encode = Callable[[Sequence[User]], bytes]


def _ndjson(users: Sequence[User]) -> bytes:
    return b"".join(user.encode() + b"\n" for user in users)


def _csv(users: Sequence[User]) -> bytes:
    """Return users as CSV (RFC 4180). A text that looks like a formula is not changed."""
    return _csv_rows([_cells(user) for user in users])


def _cells(user: User) -> Sequence[object]:
    members = user.model_dump(mode="json", include=set(COLUMNS))
    return [members[column] for column in COLUMNS]


def _csv_rows(rows: Sequence[Sequence[object]]) -> bytes:
    written = StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue().encode()


#: By format: the content type, the first bytes, and the encoder.
FORMATS: Mapping[str, tuple[str, bytes, Encode]] = {
    "ndjson": ("application/x-ndjson", b"", _ndjson),
    "csv": ("text/csv; charset=utf-8; header=present", _csv_rows([COLUMNS]), _csv),
}


@routes.get("/export")
async def get_export(request: web.Request) -> web.StreamResponse:
    """Stream all users, in the order of their ids."""
    name, wanted = request.query.get("format", "ndjson"), Wanted(prefix_of(request), PAGE_USERS)
    if name not in FORMATS:
        raise ProblemError(400, "malformed", f"format must be one of {', '.join(FORMATS)}.")
    content_type, head, encode = FORMATS[name]
    response = web.StreamResponse(
        headers={
            "Content-Type": content_type,
            "Content-Disposition": f'attachment; filename="users.{name}"',
            "Cache-Control": "no-store",
        }
    )
    await hold(request, EXPORTS, 1)
    given = services(request)
    pages = _pages(given.lookups, wanted)
    first = await anext(pages)  # what fails here is a problem like any other
    if request.method == "HEAD":
        return response
    try:
        await response.prepare(request)
        await response.write(head + encode(first))
        async for users in pages:
            await given.read_more(len(users) // USERS_OF_READ)
            await response.write(encode(users))
        await response.write_eof()
    except ConnectionResetError:
        note(request, outcome="cut off by its client")
    except RegistryError as error:
        log.warning("an export is cut off", because=str(error))
        note(request, outcome="cut off")
        _cut_off(request)
    return response


async def _pages(lookups: FindsUsers, wanted: Wanted) -> AsyncIterator[Sequence[User]]:
    """Yield pages of users. The first may be empty."""
    # The client waits for the first page, and can simply try again.
    page = await _page(lookups, wanted)
    yield page.users
    while page.has_more:
        wanted = replace(wanted, after_id=page.users[-1].id)
        page = await _patiently(lookups, wanted)
        yield page.users


async def _page(lookups: FindsUsers, wanted: Wanted) -> UsersPage:
    """Return a page of the owners: a copy may lack users, and nobody would notice."""
    page = await lookups.page(wanted)
    if page.stale_seconds:
        raise NotReadyError(Unavailable.STALE_COPY)
    return page


async def _patiently(lookups: FindsUsers, wanted: Wanted) -> UsersPage:
    return await retries.EXPORT.attempts(NotReadyError)(_page, lookups, wanted)


def _cut_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()

"""Request bodies: time limits, and one memory limit for all together.

Room is asked for twice: for a body while it comes, which its client decides, and for what it is
parsed to, many times as much, which does not take long. So those that send slowly keep out none but
others who send.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from aiohttp import web

from app.web.http.clients import client_of
from app.web.http.problems import ProblemError
from app.web.http.room import COMING, PARSED, hold
from app.web.http.unpacking import CODINGS, Coding, unpacked
from app.web.http.urls import require_escapes, require_once
from app.web.services import services

T = TypeVar("T")

#: Smaller bodies need no room: there are as few of them as connections.
SMALL_BYTES = 16 * 1024
#: So many times its size a body of empty lists takes, parsed.
PARSED_TIMES = 20
#: What a stream of rows takes: a few chunks of them.
STREAM_BYTES = 4 * 1024 * 1024

#: A form of ours has a few short fields.
MAX_FORM_BYTES, MAX_FORM_FIELDS = 16 * 1024, 20


#: A form that was read: who checks that it is of a session reads it before who handles it.
_FORM = web.RequestKey("form", Mapping[str, str])


async def body_of(request: web.Request, *, may_be_packed: bool = False) -> bytes:
    """Return a body that is wholly there in time, or raise the problem of one that is not.

    Raises `OverloadedError` while too many large ones are under way.
    """
    coding = _coding_of(request, CODINGS if may_be_packed else {})
    return await _read(request, request.client_max_size, "body", coding)


async def form_of(request: web.Request) -> Mapping[str, str]:
    """Return the fields of a form that is wholly there in time; what holds files has none."""
    if _FORM not in request:
        coding = _coding_of(request, {})
        request[_FORM] = _fields(request, await _read(request, MAX_FORM_BYTES, "form", coding))
    return request[_FORM]


def _fields(request: web.Request, body: bytes) -> Mapping[str, str]:
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ProblemError(400, "malformed", "The form is not UTF-8.") from None
    require_escapes(text)
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        raise ProblemError(
            400, "malformed", f"A form has at most {MAX_FORM_FIELDS} fields."
        ) from None
    require_once(name for name, _ in fields)
    return dict(fields)


async def _read(request: web.Request, most: int, what: str, coding: Coding | None) -> bytes:
    size = most if request.content_length is None else request.content_length
    if size > most:
        raise _too_large(most, what)
    if coding is not None:
        # Its length says nothing of what it unpacks to, and as much again is kept to refer to.
        size = 2 * most
    parts = _unpacked(_parts(request), coding)
    if size <= SMALL_BYTES:
        return await _in_time(request, _all(parts, most, what))
    async with request.app[COMING].take(client_of(request), size):
        body = await _in_time(request, _all(parts, most, what))
        await hold(request, PARSED, PARSED_TIMES * len(body))
    return body


async def _all(parts: AsyncIterator[bytes], most: int, what: str) -> bytes:
    kept, left = [], most
    async for part in parts:
        kept.append(part)
        left -= len(part)
        if left < 0:
            raise _too_large(most, what)
    return b"".join(kept)


async def _parts(request: web.Request) -> AsyncIterator[bytes]:
    while part := await request.content.readany():
        yield part


def _too_large(most: int, what: str) -> ProblemError:
    return ProblemError(413, "too-large", f"A {what} has at most {most} bytes.")


async def parts_of(request: web.Request) -> AsyncIterator[bytes]:
    """Yield a body of any length as it comes, unpacked; each part must come in time."""
    coding = _coding_of(request, CODINGS)
    await hold(request, PARSED, STREAM_BYTES + (0 if coding is None else coding.memory_bytes))
    async for part in _unpacked(_parts_in_time(request), coding):
        yield part


async def _parts_in_time(request: web.Request) -> AsyncIterator[bytes]:
    while part := await _in_time(request, request.content.readany()):
        yield part


def _unpacked(parts: AsyncIterator[bytes], coding: Coding | None) -> AsyncIterator[bytes]:
    return parts if coding is None else unpacked(parts, coding)


def _coding_of(request: web.Request, taken: Mapping[str, Coding]) -> Coding | None:
    """Return how a body is packed; raise the problem of a coding that is not taken, or of two.

    RFC 7694: the answer says which ones are.
    """
    said = ",".join(request.headers.getall("Content-Encoding", ())).lower().split(",")
    codings = [name for each in said if (name := each.strip()) not in ("", "identity")]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in taken:
        return taken[codings[0]]
    names = ", ".join(dict.fromkeys(each.name for each in taken.values())) or "identity"
    raise ProblemError(
        415,
        "unsupported-media-type",
        f"Content-Encoding may be one of these: {names}.",
        headers={"Accept-Encoding": names},
    )


async def _in_time(request: web.Request, reading: Awaitable[T]) -> T:
    content = request.content
    try:
        if content.is_eof():
            part = await reading
        else:
            async with asyncio.timeout(services(request).settings.slow_client_seconds):
                part = await reading
        if (broken := content.exception()) is None:
            return part
        raise broken
    except TimeoutError:
        status, name, detail = 408, "too-slow", "The body did not come in time."
    except (ConnectionError, web.RequestPayloadError):
        # Perhaps nobody is there any more to read this.
        status, name, detail = 400, "malformed", "The body ends too early, or is badly framed."
    raise ProblemError(status, name, detail, headers={"Connection": "close"})

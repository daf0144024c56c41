"""Bodies of requests: whoever sends one too slowly is cut off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from aiohttp import web

from app.web.problems import ProblemError
from app.web.services import services
from app.web.urls import require_escapes

T = TypeVar("T")

#: A form of ours has a few short fields.
MAX_FORM_BYTES, MAX_FORM_FIELDS = 16 * 1024, 20


async def body_of(request: web.Request) -> bytes:
    """Return a body that is wholly there in time, or raise the problem of one that is not."""
    _require_plain(request)
    return await _in_time(request, request.read())


async def form_of(request: web.Request) -> Mapping[str, str]:
    """Return the fields of a form that is wholly there in time; what holds files has none."""
    body = await body_of(request)
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    if len(body) > MAX_FORM_BYTES:
        raise ProblemError(413, "too-large", f"A form has at most {MAX_FORM_BYTES} bytes.")
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
    return dict(fields)


async def parts_of(request: web.Request) -> AsyncIterator[bytes]:
    """Yield a body of any length as it comes; each part must come in time."""
    _require_plain(request)
    while part := await _in_time(request, request.content.readany()):
        yield part


def _require_plain(request: web.Request) -> None:
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise ProblemError(415, "unsupported-media-type", "Bodies are taken uncompressed only.")


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

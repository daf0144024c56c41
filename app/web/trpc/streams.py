"""Streamed tRPC answers: each result is sent as soon as it is ready."""

import asyncio
import json as stdlib_json
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from aiohttp import web

from app.web.http.problems import ProblemError
from app.web.services import services
from app.web.trpc.answers import VARY, envelope
from app.web.trpc.calls import Calls, answer

_JSONL = "application/jsonl"


@dataclass(frozen=True, slots=True)
class Form:
    """How a stream is written: the beginning, a line for each call, the end."""

    vary: str
    head: Callable[[int], bytes]
    #: Takes the index of the call, its envelope, and whether it is the first result.
    line: Callable[[int, bytes, bool], bytes]
    end: bytes


def _jsonl_head(calls: int) -> bytes:
    # The value of each call is a promise, resolved under the call's own number.
    return orjson.dumps({str(index): [[0], [None, 0, index]] for index in range(calls)}) + b"\n"


def _jsonl_line(index: int, body: bytes, _: bool) -> bytes:
    return b"[%d,0,[[%b]]]\n" % (index, body)


def _member_line(index: int, body: bytes, is_first: bool) -> bytes:
    if not body.isascii():
        # The client decodes each piece as UTF-8 by itself, wherever it was cut. So only ASCII is
        # sent.
        body = stdlib_json.dumps(orjson.loads(body), separators=(",", ":")).encode()
    return b'%b"%d":%b\n' % (b"{" if is_first else b",", index, body)


#: `httpBatchStreamLink` of version 11.
JSONL = Form(VARY, _jsonl_head, _jsonl_line, b"")

#: `unstable_httpBatchStreamLink` of version 10: the members of an object, one in each line.
MEMBERS = Form(f"trpc-batch-mode, {VARY}", lambda _: b"", _member_line, b"}")


def form_of(request: web.Request, *, is_batch: bool) -> Form | None:
    """Return the form of stream that a client wants; None if it wants none."""
    if _accepted(request) == _JSONL:
        if not is_batch:
            told = "Streaming requests must be batched (you can do a batch of 1)"
            raise ProblemError(400, "malformed", told)
        return JSONL
    return MEMBERS if is_batch and wants_members(request) else None


def wants_members(request: web.Request) -> bool:
    """Return whether a client of version 10 wants a stream."""
    return request.headers.get("trpc-batch-mode") == "stream"


def _accepted(request: web.Request) -> str:
    types = request.headers.get("Accept", "").split(",")
    accepted = _JSONL if _JSONL in map(str.strip, types) else ""
    return request.headers.get("trpc-accept", accepted)


def refused_members(request: web.Request, problem: ProblemError) -> web.Response:
    """Return the answer to a request that failed before it was split into calls.

    Clients of version 10 that want a stream accept only errors of calls. So each call gets the
    error, up to the largest batch.
    """
    body = orjson.dumps(envelope(problem, None))
    named = request.rel_url.raw_path.count(",") + 1
    calls = range(min(named, services(request).settings.max_batch_calls))
    lines = b"".join(MEMBERS.line(index, body, index == 0) for index in calls)
    return web.Response(
        body=lines + MEMBERS.end,
        status=problem.status,
        headers={**problem.headers, "Content-Type": "application/json", "Vary": MEMBERS.vary},
    )


async def stream(request: web.Request, calls: Calls, form: Form) -> web.StreamResponse:
    """Answer calls as they complete."""
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Vary": form.vary},
    )
    if request.method == "HEAD":
        return response
    told: asyncio.Queue[tuple[int, object]] = asyncio.Queue()
    answering = asyncio.create_task(
        answer(request, calls, lambda index, data: told.put_nowait((index, data)))
    )
    try:
        await response.prepare(request)
        await response.write(form.head(len(calls.paths)))
        await _write_all(response, calls, form, told)
    except ConnectionResetError:
        pass  # the client has gone
    finally:
        answering.cancel()
        await asyncio.wait([answering])
    return response


async def _write_all(
    response: web.StreamResponse,
    calls: Calls,
    form: Form,
    told: asyncio.Queue[tuple[int, object]],
) -> None:
    written = 0
    while written < len(calls.paths):
        lines = []
        some = [await told.get()]
        while not told.empty():
            some.append(told.get_nowait())
        for index, data in some:
            body = orjson.dumps(envelope(data, calls.paths[index]))
            lines.append(form.line(index, body, written == 0))
            written += 1
        await response.write(b"".join(lines))
    await response.write_eof(form.end)

"""The overview as JSON: once, or once a second as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from aiohttp import web

from app.domain.records import User
from app.query.overview.numbers import Moment, newest, tick
from app.query.overview.watching import TICK_SECONDS, Watching
from app.web.auth.access import is_forwarded
from app.web.http.clients import client_of
from app.web.http.negotiation import EVENT_HEADERS, json
from app.web.http.places import Places
from app.web.http.problems import ProblemError
from app.web.http.urls import user_url
from app.web.services import Services, services

routes = web.RouteTableDef()

#: A watcher that reads nothing for so long is disconnected.
SLOW_WATCHER_SECONDS = 30.0

MAX_WATCHERS = 100
#: Of one client: a few windows of a browser.
MAX_WATCHERS_OF_CLIENT = 10

WATCHING = web.AppKey("watching", Watching[Moment])
PLACES = web.AppKey("watchers", Places)


def install(web_app: web.Application, given: Services) -> None:
    """Let clients watch until the worker stops."""

    async def collect() -> Moment:
        return await given.overview.moment()

    def tell(now: Moment, before: Moment) -> bytes:
        latest = [_members(user) for user in newest(now.workers)]
        told = tick(now, before, given.registrations.partitions)
        return orjson.dumps({**told, "newest": latest})

    async def stop(_: web.Application) -> None:
        web_app[WATCHING].stop()

    web_app[WATCHING] = Watching(collect, tell)
    web_app[PLACES] = Places(MAX_WATCHERS, MAX_WATCHERS_OF_CLIENT, TICK_SECONDS)
    web_app.on_shutdown.append(stop)


def _members(user: User) -> dict[str, Any]:
    """Return what the overview shows of a user."""
    members = user.model_dump(mode="json", include={"id", "name", "status", "registered_at"})
    return {**members, "url": user_url(user.id)}


@routes.get("/overview")
async def get_overview(request: web.Request) -> web.Response:
    """Tell what the registry is doing: rates, latencies, lag, workers, newest registrations."""
    if "here" in request.query or "history" in request.query:
        return await _here(request)
    # However many watch: to look once is possible all the same.
    with request.app[WATCHING].watch() as ticks:
        async for told in ticks:
            return json(told)
    raise ProblemError(503, "not-ready", "This worker is stopping.")


async def _here(request: web.Request) -> web.Response:
    """Tell another worker what this one is doing."""
    if not is_forwarded(request):
        raise ProblemError(404, "not-found", "Not Found")
    overview = services(request).overview
    if "history" in request.query:
        return json(overview.history_here())
    return json((await overview.here()).model_dump_json().encode())


@routes.get("/events")
async def get_events(request: web.Request) -> web.StreamResponse:
    """Tell the same as /overview once a second, as server-sent events.

    The first event has the last two minutes.
    """
    answer = web.StreamResponse(headers=EVENT_HEADERS)
    if request.method == "HEAD":
        return answer
    app = request.app
    with app[PLACES].take(client_of(request)), app[WATCHING].watch() as ticks:
        history = orjson.dumps(await services(request).overview.history())
        await answer.prepare(request)
        try:
            await _stream(request, answer, history, ticks)
        except (ConnectionError, TimeoutError):
            # A client that reads nothing would not read the end of the answer either.
            if request.transport is not None:
                request.transport.abort()
        return answer


async def _stream(
    request: web.Request, answer: web.StreamResponse, history: bytes, ticks: AsyncIterator[bytes]
) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SLOW_WATCHER_SECONDS) as deadline:
        await answer.write(b"event: history\ndata: " + history + b"\n\n")
        async for told in ticks:
            if request.transport is None:
                return
            # If the client has not read the last event, it gets a newer one later.
            if request.transport.get_write_buffer_size() == 0:
                deadline.reschedule(loop.time() + SLOW_WATCHER_SECONDS)
                await answer.write(b"data: " + told + b"\n\n")

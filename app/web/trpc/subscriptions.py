"""Subscriptions of tRPC, as server-sent events in the form of @trpc/server 11 (sse.ts).

Each event has an id that says how far its reader has come: who connects again with the last one
(``Last-Event-ID``, which browsers send by themselves) misses nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, cast

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from app.domain.errors import NotReadyError, RegistryError, Unavailable
from app.domain.records import OutcomeOfWrite, User, UserId
from app.query.outcome_feed import Told
from app.web.http.clients import client_of
from app.web.http.conditions import etag
from app.web.http.negotiation import EVENT_HEADERS
from app.web.http.places import Places
from app.web.http.problems import ProblemError, from_error
from app.web.services import services
from app.web.trpc.answers import envelope

#: How often a user who is followed is looked up, and how often a quiet reader hears of us.
LOOK_SECONDS = 0.5
PING_SECONDS = 5.0
#: After so long without a word a client connects again.
RECONNECT_MS = 20_000
#: A reader that takes nothing for so long is disconnected.
SLOW_READER_SECONDS = 30.0
#: Those who follow something: all of them, and of one client. Each costs a consumer or lookups.
MAX_FOLLOWERS = 50
MAX_FOLLOWERS_OF_CLIENT = 5

#: The id while nobody is registered under the id that is followed.
_NOBODY = "nobody"

_CONNECTED = b'event: connected\ndata: {"reconnectAfterInactivityMs":%d}\n\n' % RECONNECT_MS
_PING = b"event: ping\ndata: \n\n"


@dataclass(frozen=True, slots=True)
class Event:
    """What a reader is told, and where it goes on after it."""

    id: str
    data: object


#: Yields events as they come, and before them none once it is known from where on; none at times,
#: so that the client hears of us.
Follow = Callable[[web.Request, Any], AsyncIterator[Sequence[Event]]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription: what it takes, what each event tells, and how it goes on."""

    follow: Follow
    input: TypeAdapter[Any]
    output: TypeAdapter[Any]
    needs_input: bool = False


_STRICT = ConfigDict(strict=True, extra="ignore")
LastEventId = Annotated[str, Field(max_length=16 * 1024)]


@with_config(_STRICT)
class FollowUser(TypedDict):
    """Whose changes: those of the user with an id."""

    id: UserId
    lastEventId: NotRequired[LastEventId]


@with_config(_STRICT)
class FollowOutcomes(TypedDict):
    """Which outcomes: those after an event, or from now on."""

    lastEventId: NotRequired[LastEventId]


class Outcome(OutcomeOfWrite):
    """What became of a write, and of which id it was."""

    id: str


async def follow_user(request: web.Request, wanted: FollowUser) -> AsyncIterator[Sequence[Event]]:
    """Tell the user under an id, and again after each change; null while there is nobody.

    Of changes that follow one another within half a second, the last one is told.
    """
    lookups, loop = services(request).lookups, asyncio.get_running_loop()
    known, quiet_since = wanted.get("lastEventId"), loop.time()
    yield []
    while True:
        try:
            user = await lookups.find(wanted["id"])
        except NotReadyError:
            pass  # it goes on once somebody can tell
        else:
            # A copy may be older than what was told already.
            is_fresh = user is None or not user.stale_seconds
            seen = _NOBODY if user is None else etag(user).strip('"')
            if is_fresh and seen != known:
                known, quiet_since = seen, loop.time()
                yield [Event(seen, None if user is None else orjson.Fragment(user.encode()))]
        if loop.time() - quiet_since >= PING_SECONDS:
            quiet_since = loop.time()
            yield []
        await asyncio.sleep(LOOK_SECONDS)


async def follow_outcomes(
    request: web.Request, wanted: FollowOutcomes
) -> AsyncIterator[Sequence[Event]]:
    """Tell what becomes of every write: each record of ``registration-outcomes``."""
    feed = services(request).feed.follow(wanted.get("lastEventId"))
    async with aclosing(cast(AsyncGenerator[Sequence[Told], None], feed)) as following:
        async for some in following:
            yield [Event(told.cursor, told.members) for told in some]


SUBSCRIPTIONS: Mapping[str, Subscription] = {
    "user": Subscription(
        follow_user, TypeAdapter(FollowUser), TypeAdapter(User | None), needs_input=True
    ),
    "outcomes": Subscription(follow_outcomes, TypeAdapter(FollowOutcomes), TypeAdapter(Outcome)),
}


PLACES = web.AppKey("followers", Places)
#: Set once the worker stops.
STOPPED = web.AppKey("stopped", asyncio.Event)


def install(web_app: web.Application) -> None:
    """Let clients follow until the worker stops: then they connect again, to another one."""
    web_app[PLACES] = Places(MAX_FOLLOWERS, MAX_FOLLOWERS_OF_CLIENT, PING_SECONDS)
    web_app[STOPPED] = stopped = asyncio.Event()

    async def stop(_: web.Application) -> None:
        stopped.set()

    web_app.on_shutdown.append(stop)


async def stream(request: web.Request, path: str, given: Any) -> web.StreamResponse:
    """Tell a subscription's events until the client goes, or the worker stops."""
    response, stopped = web.StreamResponse(headers=EVENT_HEADERS), request.app[STOPPED]
    if request.method == "HEAD":
        return response
    if stopped.is_set():
        raise NotReadyError(Unavailable.STOPPING)
    with request.app[PLACES].take(client_of(request)):
        await response.prepare(request)
        try:
            is_connected = False
            events = _until(stopped, SUBSCRIPTIONS[path].follow(request, given))
            async with aclosing(events):
                async for some in events:
                    told = b"".join(map(_told, some))
                    await _write(response, told or _PING if is_connected else _CONNECTED + told)
                    is_connected = True
        except (RegistryError, ProblemError) as error:
            failed = orjson.dumps(envelope(from_error(error), path)["error"])
            await response.write(b"event: serialized-error\ndata: %b\n\n" % failed)
        except (ConnectionError, TimeoutError):
            # A client that reads nothing would not read the end of the answer either.
            if request.transport is not None:
                request.transport.abort()
    response.force_close()
    return response


async def _until(
    stopped: asyncio.Event, events: AsyncIterator[Sequence[Event]]
) -> AsyncGenerator[Sequence[Event], None]:
    """Yield what comes until somebody stops it."""
    ends = asyncio.ensure_future(stopped.wait())
    following: asyncio.Future[Sequence[Event] | None] | None = None
    try:
        while True:
            following = asyncio.ensure_future(_next_of(events))
            await asyncio.wait({following, ends}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done() or (some := following.result()) is None:
                return
            yield some
    finally:
        # What waits inside ends first: only then its consumer is closed.
        waiting = {each for each in (ends, following) if each is not None and not each.done()}
        for each in waiting:
            each.cancel()
        if waiting:
            await asyncio.wait(waiting)
        await cast(AsyncGenerator[Any, None], events).aclose()


async def _next_of(events: AsyncIterator[Sequence[Event]]) -> Sequence[Event] | None:
    return await anext(events, None)


async def _write(response: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(SLOW_READER_SECONDS):
        await response.write(text)


def _told(event: Event) -> bytes:
    return b"data: %b\nid: %b\n\n" % (orjson.dumps(event.data), event.id.encode())

"""Read rates, and the ``RateLimit`` headers.

Where a client has a rate, each answer says how it stands (RateLimit header fields for HTTP,
draft-ietf-httpapi-ratelimit-headers-10): the policy, what is left of it, when it is whole again.
"""

import math
from collections.abc import Iterator

from aiohttp import web

from app.ingest.rate_limits import Limits
from app.web.auth.access import ACCESS, is_below, route_of
from app.web.http.clients import is_worker
from app.web.http.problems import Handler
from app.web.services import SERVICES, Services, services

#: What shows no users and is asked for by machines that watch.
_FREE = ("/health", "/metrics", "/static")
#: So many users that a request asks for count as one read.
USERS_OF_READ = 100


def install(web_app: web.Application) -> None:
    """Count reads, and tell clients how they stand."""
    given = web_app[SERVICES]
    if given.reads.are_set or ACCESS in web_app:
        web_app.middlewares.append(_admit_reads)
    if given.limits.are_set or given.reads.are_set or ACCESS in web_app:
        web_app.on_response_prepare.append(_tell)


@web.middleware
async def _admit_reads(request: web.Request, handler: Handler) -> web.StreamResponse:
    is_free = is_below(route_of(request), _FREE) or is_worker(request)
    if request.method in ("GET", "HEAD") and not is_free:
        services(request).admit_reads(_count(request))
    return await handler(request)


def _count(request: web.Request) -> int:
    """Return how many reads a request is: calls of a batch, hundreds of users in a list."""
    limit = request.query.get("limit", "")
    users = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 5 else 0
    calls = request.path.count(",") + 1 if request.path.startswith("/trpc/") else 1
    return max(calls, math.ceil(users / USERS_OF_READ))


async def _tell(request: web.Request, answer: web.StreamResponse) -> None:
    for name, value in standing(services(request)):
        answer.headers[name] = value


def standing(given: Services) -> Iterator[tuple[str, str]]:
    """Yield the headers that tell a client how it stands; none if it has no rate."""
    both: tuple[tuple[Limits, float | None], ...] = (
        (given.limits, given.own_writes),
        (given.reads, given.own_reads),
    )
    found = [
        (limits.name, one)
        for limits, own_rate in both
        if (one := limits.standing(given.client, own_rate)) is not None
    ]
    if found:
        policies = (f'"{name}";q={max(int(one.per_second), 1)};w=1' for name, one in found)
        left = (f'"{name}";r={one.left};t={math.ceil(one.whole_in_seconds)}' for name, one in found)
        yield "RateLimit-Policy", ", ".join(policies)
        yield "RateLimit", ", ".join(left)

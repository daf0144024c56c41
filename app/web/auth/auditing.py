"""Writes requests to the audit log: logins, refusals, erasures, exports, replays."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from aiohttp import web

from app.access.audit import Audit
from app.config.settings import Settings
from app.web.auth.access import route_of
from app.web.http.clients import CLIENT
from app.web.http.problems import Handler, answer_errors, from_error, tell_status
from app.web.http.proxies import address_of

#: Requests that get a line whatever their outcome is, by method and route.
_TOLD: Mapping[tuple[str, str], str] = {
    ("POST", "/login"): "login",
    ("DELETE", "/users"): "erasure",
    ("DELETE", "/users/{id}"): "erasure",
    ("POST", "/erase"): "erasure",
    ("GET", "/export"): "export",
    ("POST", "/dead-letters/{position}/replay"): "replay",
}
#: Unauthorized, forbidden, misdirected.
_REFUSED = (401, 403, 421)

AUDIT = web.AppKey("audit", Audit)
#: What handlers note about a request.
_NOTED = web.RequestKey("noted", dict[str, object])


def install(web_app: web.Application, settings: Settings) -> Audit | None:
    """Write an audit log of the requests, if the settings ask for one."""
    audit = Audit.of(settings)
    if audit is not None:
        web_app[AUDIT] = audit
        # Outside the middleware that turns errors into answers, so that it sees what clients get.
        web_app.middlewares.insert(web_app.middlewares.index(answer_errors), tell)
    return audit


def note(request: web.Request, **members: object) -> None:
    """Note facts about a request: who, position, outcome, and others."""
    request.setdefault(_NOTED, {}).update(members)


def note_id(request: web.Request, user_id: str) -> None:
    """Note the hash of the id of the user that a request is about."""
    if AUDIT in request.app:
        note(request, id=request.app[AUDIT].hash_of(user_id))


@web.middleware
async def tell(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write a line about a request after it was answered."""
    route = route_of(request)
    what = _TOLD.get((request.method, route))

    def told(status: int) -> None:
        if what is not None or status in _REFUSED:
            _tell(request, what or f"{request.method} {route}".rstrip(), status)

    return await tell_status(request, handler, told)


@contextmanager
def audited(request: web.Request, what: str, user_id: str) -> Iterator[dict[str, object]]:
    """Write a line about one call of a request, once its block ends: of a user, by its hash.

    The block may note more facts. What it raises becomes a `ProblemError`.
    """
    noted: dict[str, object] = {}
    try:
        yield noted
    except Exception as error:
        problem = from_error(error)
        _tell_call(request, what, user_id, problem.status, noted)
        raise problem from None
    _tell_call(request, what, user_id, 200, noted)


def _tell_call(
    request: web.Request, what: str, user_id: str, status: int, noted: Mapping[str, object]
) -> None:
    if AUDIT in request.app:
        _tell(request, what, status, {"id": request.app[AUDIT].hash_of(user_id), **noted})


def _tell(
    request: web.Request, what: str, status: int, more: Mapping[str, object] = MappingProxyType({})
) -> None:
    audit, client = request.app[AUDIT], request.get(CLIENT)
    outcome = "refused" if status in _REFUSED else "done" if status < 400 else "failed"
    key = None if client is None else client.key
    members: dict[str, object] = {"outcome": outcome, "who": key and key.name, "status": status}
    members |= {**request.get(_NOTED, {}), **more}
    if members["who"] is None:
        members["address"] = audit.hash_of(address_of(request))
    told = audit.note if outcome == "done" or members["who"] else audit.note_stranger
    told(what, str(members.pop("outcome")), **members)

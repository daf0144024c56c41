"""Authorization over HTTP: keys of programs, sessions of people, proofs of workers.

It is installed only if KEYS_FILE is set. The route decides what a request needs, and not the
spelling of its path. A route that is not named below needs a key.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from aiohttp import web

from app.access.audit import Audit
from app.access.keys import Key
from app.access.proofs import Proofs
from app.access.ring import KeyRing
from app.access.scopes import Scope
from app.access.sessions import Sessions
from app.access.tokens import Tokens
from app.config.settings import Settings
from app.query.worker_client import FORWARDED_HEADER, origin_of
from app.web.http.bodies import form_of
from app.web.http.clients import CLIENT, Client
from app.web.http.internal import is_internal
from app.web.http.negotiation import page, wants_page
from app.web.http.problems import Handler, ProblemError
from app.web.http.proxies import is_same_site
from app.web.http.urls import rest_of_path
from app.web.pages import rendering

#: Holds a session. Cookies ignore ports: two registries on one host share it, and log each other's
#: people out.
COOKIE = "registry_session"
#: The form field that only pages of the same session know.
FORM_FIELD = "csrf"

#: Routes that need no key, and everything below them.
_OPEN = ("/health", "/static", "/openapi.json", "/docs", "/login", "/logout")
_ADMINS = ("/dead-letters",)
#: The only routes where a session may do more than read.
_FORMS = ("/register", "/edit", "/erase", "/samples", "/logout", "/dead-letters")
#: The routes where workers ask each other. A proof is valid only there.
_FORWARDED = (
    "/users",
    "/registrations",
    "/registrations/{position}",
    "/email-holders/{key}",
    "/counts",
    "/overview",
)
#: What the internal address serves beside them.
_WATCHING = ("/health", "/metrics")
_NOT_HERE = (
    "This is a worker's internal address: for other workers, health and metrics. All else is "
    "served at the public address, WEB_HOST:WEB_PORT."
)
_READING = ("GET", "HEAD", "OPTIONS")
#: Routes of one user or one write, and query parameters that name one. Every other read is a list.
_LOOKUPS = ("/users/{id}", "/registrations/{position}", "/edit", "/erase")
_TRPC = "/trpc/{path}"
_LOOKUPS_OVER_TRPC = frozenset({"hello", "userById", "userByEmail", "registration", "user"})
_NAMES_OF_ONE = frozenset({"id", "email"})
#: Reads with their own scope.
_READS = {
    "/metrics": Scope.METRICS,
    "/metrics/targets": Scope.METRICS,
    "/export": Scope.EXPORT,
}


@dataclass(frozen=True, slots=True)
class Access:
    """Identifies clients."""

    ring: KeyRing
    sessions: Sessions
    proofs: Proofs
    #: The address in proofs for this worker.
    here: str
    tokens: Tokens | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return what the settings ask for; None if callers need no key; raise `SettingsError`."""
        if settings.keys_file is None:
            return None
        secret, *others = settings.signing_secrets
        sessions = Sessions(secret, settings.session_hours, others)
        proofs = Proofs(secret, others=others)
        here, tokens = origin_of(settings.url), Tokens.of(settings)
        return cls(KeyRing(settings.keys_file), sessions, proofs, here, tokens)

    def key_of(self, authorization: str) -> Key | None:
        """Return the key, or the rights of a token, in a header ``Authorization``."""
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        # A key has no dots, a token has two.
        if self.tokens is not None and "." in text:
            return self.tokens.find(text.strip())
        return self.ring.find(text.strip())


ACCESS = web.AppKey("access", Access)


def install(web_app: web.Application, settings: Settings, audit: Audit | None = None) -> bool:
    """Require keys if the settings say so; return whether they do."""
    access = Access.of(settings)
    if access is not None:
        web_app[ACCESS] = access
        if access.tokens is not None:
            web_app.cleanup_ctx.append(_keep_up)
        if audit is not None:
            access.ring.changed = partial(audit.note, "keys", "changed")
        web_app.middlewares.append(require_access)
    return access is not None


async def _keep_up(web_app: web.Application) -> AsyncIterator[None]:
    """Read the keys of tokens again from time to time, while the application runs."""
    tokens = web_app[ACCESS].tokens
    keeping = asyncio.create_task(tokens.keep_up()) if tokens else None
    yield
    if keeping is not None:
        keeping.cancel()
        await asyncio.wait([keeping])


@web.middleware
async def require_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request through if its key or session may do it; else answer 401 or 403."""
    access = request.app[ACCESS]
    client = request[CLIENT] = _identify(access, request)
    rendering.FORM_TOKEN.set(client.session and access.sessions.token(client.session))
    for needed in scopes_of(request):
        if not client.may(needed):
            return _refuse(request, client, needed)
    if client.session is not None and request.method not in _READING:
        await _require_token(access, request, client.session)
    return await handler(request)


def scopes_of(request: web.Request) -> Collection[Scope]:
    """Return the scopes that a request needs: all of them."""
    route = route_of(request)
    if is_below(route, _OPEN):
        return ()
    if is_below(route, _ADMINS):
        return (Scope.ADMIN,)
    if request.method in _READING:
        return (Scope.LOOKUP if _is_lookup(request, route) else _READS.get(route, Scope.READ),)
    if route == "/users/lookup":
        return (Scope.LOOKUP,)
    if route == _TRPC:
        return {Scope.ERASE if call == "eraseUser" else Scope.WRITE for call in _called(request)}
    erases = request.method == "DELETE" or route == "/erase"
    return (Scope.ERASE if erases else Scope.WRITE,)


def _is_lookup(request: web.Request, route: str) -> bool:
    """Return whether a request asks for single users, or for the outcome of a write."""
    if route == "/users":
        return not request.query.keys().isdisjoint(_NAMES_OF_ONE)
    if route == _TRPC:
        return _LOOKUPS_OVER_TRPC.issuperset(_called(request))
    return route in _LOOKUPS


def _called(request: web.Request) -> list[str]:
    """Return the procedures that a request of tRPC calls."""
    return rest_of_path(request, "/trpc/").rstrip("/").split(",")


def route_of(request: web.Request) -> str:
    """Return the route of a request as it is declared; "" if there is none."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def is_below(route: str, tops: tuple[str, ...]) -> bool:
    """Return whether a route is one of ``tops``, or below one of them."""
    return any(route == top or route.startswith(f"{top}/") for top in tops)


def _identify(access: Access, request: web.Request) -> Client:
    if _has_proof(access, request):
        return Client(is_worker=True)
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        return Client(access.key_of(authorization))
    session = request.cookies.get(COOKIE)
    if session is None or not (request.method in _READING or is_below(route_of(request), _FORMS)):
        return Client()
    key_id = access.sessions.key_id(session)
    key = None if key_id is None else access.ring.find_id(key_id)
    return Client() if key is None else Client(key, session)


def _has_proof(access: Access, request: web.Request) -> bool:
    proof = request.headers.get(FORWARDED_HEADER)
    if proof is None or request.method != "GET" or route_of(request) not in _FORWARDED:
        return False
    return access.proofs.holds(access.here, request.raw_path, proof)


def _refuse(request: web.Request, client: Client, needed: Scope) -> web.Response:
    if client.key is not None:
        detail = f"This key may not do that: it lacks the scope {needed}."
        raise ProblemError(403, "forbidden", detail)
    asks = {"WWW-Authenticate": "Bearer"}
    if wants_page(request):
        back = request.raw_path if request.method == "GET" else "/"
        return page(rendering.login(back, None), 401, asks)
    detail = "Send a valid access key: Authorization: Bearer <key>."
    raise ProblemError(401, "unauthorized", detail, headers=asks)


async def _require_token(access: Access, request: web.Request, session: str) -> None:
    """Refuse a form without the token of this session."""
    given = (await form_of(request)).get(FORM_FIELD, "")
    if not access.sessions.has_token(session, given):
        raise ProblemError(403, "cross-site", "This form was not sent from a page of your session.")


def require_same_site(request: web.Request) -> None:
    """Refuse a form that a page of another site has sent."""
    origin = request.headers.get("Origin")
    if origin is not None and not is_same_site(request, origin):
        raise ProblemError(403, "cross-site", "This form was sent from another site's page.")


def is_for_internal_address(request: web.Request) -> bool:
    """Return whether the internal address serves what is asked for."""
    route = route_of(request)
    if is_below(route, _WATCHING):
        return True
    return request.method == "GET" and route in _FORWARDED and is_forwarded(request)


@web.middleware
async def keep_internal(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 421 to who asks the internal address for anything that is not served there."""
    if is_internal(request) and not is_for_internal_address(request):
        raise ProblemError(421, "misdirected", _NOT_HERE)
    return await handler(request)


def may(request: web.Request, what: Scope) -> bool:
    """Return whether the caller has a right. Without KEYS_FILE every caller has all."""
    return ACCESS not in request.app or request[CLIENT].may(what)


def why_no_key_is_known(request: web.Request) -> list[str]:
    """Return why the keys are unknown now; nothing if they are known or not needed."""
    access = request.app.get(ACCESS)
    if access is None:
        return []
    troubles = (access.ring.trouble, access.tokens and access.tokens.trouble)
    return [trouble for trouble in troubles if trouble]


def seconds_of_keys_unused(request: web.Request) -> Mapping[str, float]:
    """Return for how long each key was not used, by its name; only keys that were used here."""
    access = request.app.get(ACCESS)
    return {} if access is None else access.ring.unused_seconds()


def is_forwarded(request: web.Request) -> bool:
    """Return whether another worker sent a request. If callers need keys, it has proven that."""
    if ACCESS in request.app:
        return request[CLIENT].is_worker
    return FORWARDED_HEADER in request.headers

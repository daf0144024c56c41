"""Who may do what over HTTP: keys for programs, sessions for people, proofs for other workers.

Installed only where keys are asked for. What a request needs follows from the route that it found,
not from how its path is spelt; a route that is not named below needs a key.
"""

from dataclasses import dataclass
from typing import Self

from aiohttp import web

from app.access.keys import Key
from app.access.proofs import Proofs
from app.access.ring import KeyRing
from app.access.scopes import Scope
from app.access.sessions import Sessions
from app.routing import FORWARDED_HEADER
from app.settings import Settings
from app.web import rendering
from app.web.bodies import form_of
from app.web.clients import CLIENT, Client
from app.web.negotiation import page, wants_page
from app.web.problems import Handler, ProblemError
from app.web.proxies import is_same_site

#: Holds a session. Cookies know no ports: two registries on one host log each other's people out.
COOKIE = "registry_session"
#: The field of forms that only pages of the same session know.
FORM_FIELD = "csrf"

#: Routes that ask for no key, and whatever is below them.
_OPEN = ("/health", "/static", "/openapi.json", "/docs", "/login", "/logout")
_ADMINS = ("/dead-letters",)
#: The only routes where a session may do more than read.
_FORMS = ("/register", "/logout", "/dead-letters")
_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Access:
    """What tells who a client is."""

    ring: KeyRing
    sessions: Sessions
    proofs: Proofs

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return what settings ask for, None if they ask for no keys; raise `SettingsError`."""
        if settings.keys_file is None:
            return None
        secret = settings.signing_secret
        sessions = Sessions(secret, settings.session_hours)
        return cls(KeyRing(settings.keys_file), sessions, Proofs(secret))

    def key_of(self, authorization: str) -> Key | None:
        """Return the key in the value of a header ``Authorization``."""
        scheme, _, text = authorization.partition(" ")
        return self.ring.find(text.strip()) if scheme.lower() == "bearer" else None


ACCESS = web.AppKey("access", Access)


def install(web_app: web.Application, settings: Settings) -> bool:
    """Ask for keys if the settings say so, and return whether; if not, requests pass unseen."""
    access = Access.of(settings)
    if access is not None:
        web_app[ACCESS] = access
        web_app.middlewares.append(require_access)
    return access is not None


@web.middleware
async def require_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let through who may do what is asked for; everyone else gets 401 or 403."""
    access = request.app[ACCESS]
    client = request[CLIENT] = _identify(access, request)
    rendering.FORM_TOKEN.set(client.session and access.sessions.token(client.session))
    needed = scope_of(request)
    if needed is not None and not client.may(needed):
        return _refuse(request, client, needed)
    if client.session is not None and request.method not in _READING:
        await _require_token(access, request, client.session)
    return await handler(request)


def scope_of(request: web.Request) -> Scope | None:
    """Return what a request needs; None if it is open to all."""
    route = _route(request)
    if _is_below(route, _OPEN):
        return None
    if _is_below(route, _ADMINS):
        return Scope.ADMIN
    return Scope.READ if request.method in _READING else Scope.WRITE


def _route(request: web.Request) -> str:
    """Return the route that was found as it is written, "" if there is none."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def _is_below(route: str, tops: tuple[str, ...]) -> bool:
    return any(route == top or route.startswith(f"{top}/") for top in tops)


def _identify(access: Access, request: web.Request) -> Client:
    if _has_proof(access, request):
        return Client(is_worker=True)
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        return Client(access.key_of(authorization))
    session = request.cookies.get(COOKIE)
    if session is None or not (request.method in _READING or _is_below(_route(request), _FORMS)):
        return Client()
    key_id = access.sessions.key_id(session)
    key = None if key_id is None else access.ring.find_id(key_id)
    return Client() if key is None else Client(key, session)


def _has_proof(access: Access, request: web.Request) -> bool:
    proof = request.headers.get(FORWARDED_HEADER)
    is_get = request.method == "GET"
    return proof is not None and is_get and access.proofs.holds(request.raw_path, proof)


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
    """Refuse a form that was not on a page of this session."""
    given = (await form_of(request)).get(FORM_FIELD, "")
    if not access.sessions.has_token(session, given):
        raise ProblemError(403, "cross-site", "This form was not sent from a page of your session.")


def require_same_site(request: web.Request) -> None:
    """Refuse a form that another site's page sent."""
    origin = request.headers.get("Origin")
    if origin is not None and not is_same_site(request, origin):
        raise ProblemError(403, "cross-site", "This form was sent from another site's page.")


def is_forwarded(request: web.Request) -> bool:
    """Return whether another worker sent a request; where keys are asked for, it is proven."""
    if ACCESS in request.app:
        return request[CLIENT].is_worker
    return FORWARDED_HEADER in request.headers

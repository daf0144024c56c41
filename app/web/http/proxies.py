"""Behind proxies: the address of the client, and the address by which it reaches us.

``X-Forwarded-For``, ``-Host``, ``-Proto`` and ``-Prefix`` count only where the setting
TRUSTED_PROXIES says how many proxies in front set them; of a list, each has added one entry.
"""

import ipaddress
import re

from aiohttp import hdrs, web

from app.domain.hosts import host_in
from app.web.http.internal import INTERNAL_PORT, is_internal
from app.web.http.problems import Handler
from app.web.pages import rendering

#: How many proxies in front are trusted.
TRUSTED_PROXIES = web.AppKey("trusted_proxies", int)

_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")
#: An address in brackets, or an IPv4 address, and its port.
_WITH_PORT = re.compile(r"(?:\[([^\]]*)\]|([0-9.]+))(?::[0-9]+)?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def install(
    web_app: web.Application, trusted_proxies: int, internal_port: int | None = None
) -> None:
    """Let links and redirects lead to where clients reach us."""
    web_app[TRUSTED_PROXIES] = trusted_proxies
    web_app[INTERNAL_PORT] = internal_port
    if trusted_proxies:
        web_app.middlewares.insert(0, _lead_through_proxies)


@web.middleware
async def _lead_through_proxies(request: web.Request, handler: Handler) -> web.StreamResponse:
    prefix = prefix_of(request)
    rendering.PREFIX.set(prefix)
    try:
        answer = await handler(request)
    except web.HTTPRedirection as leading_on:
        _prepend(prefix, leading_on)
        raise
    if not answer.prepared:
        _prepend(prefix, answer)
    return answer


def _prepend(prefix: str, answer: web.StreamResponse) -> None:
    location = answer.headers.get(hdrs.LOCATION, "")
    if prefix and location.startswith("/"):
        answer.headers[hdrs.LOCATION] = prefix + location


def address_of(request: web.Request) -> str:
    """Return the client's address: its own, or what the first of the trusted proxies saw."""
    own = request.remote or ""
    trusted, told = _trusted(request), _entries(request, "X-Forwarded-For")
    if not trusted or len(told) < trusted:
        return own
    entry = told[-trusted]
    with_port = _WITH_PORT.fullmatch(entry)
    try:
        return str(ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else entry))
    except ValueError:
        return own


def is_https(request: web.Request) -> bool:
    """Return whether the client uses https, as far as can be told."""
    return request.secure or _forwarded(request, "X-Forwarded-Proto").lower() == "https"


def prefix_of(request: web.Request) -> str:
    """Return the path below which the proxies show us; "" if it is none."""
    told = _forwarded(request, "X-Forwarded-Prefix").rstrip("/")
    return told if _PREFIX.fullmatch(told) else ""


def base_url(request: web.Request) -> str:
    """Return the address at which this client reaches the worker."""
    scheme = "https" if is_https(request) else "http"
    return f"{scheme}://{_without_default_port(scheme, _host(request))}{prefix_of(request)}"


def is_same_site(request: web.Request, origin: str) -> bool:
    """Return whether an origin is the one at which this client reaches the worker."""
    scheme, _, host = origin.partition("://")
    ours, theirs = (_without_default_port(scheme, each) for each in (_host(request), host))
    return ours.lower() == theirs.lower()


def _host(request: web.Request) -> str:
    told = _forwarded(request, "X-Forwarded-Host")
    return told if host_in(told) is not None else request.host


def _without_default_port(scheme: str, host: str) -> str:
    """Return a host without the port that its scheme means anyway."""
    name, colon, port = host.rpartition(":")
    return name if colon and port in ("", _DEFAULT_PORTS.get(scheme)) else host


def _trusted(request: web.Request) -> int:
    """Return how many proxies are in front of the address that a request came to."""
    return 0 if is_internal(request) else request.app[TRUSTED_PROXIES]


def _entries(request: web.Request, name: str) -> list[str]:
    return [entry.strip() for entry in ",".join(request.headers.getall(name, [])).split(",")]


def _forwarded(request: web.Request, name: str) -> str:
    """Return what the first of the trusted proxies said; a header may be set by that one only."""
    trusted = _trusted(request)
    entries = _entries(request, name)
    return entries[-min(trusted, len(entries))] if trusted else ""

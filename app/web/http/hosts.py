"""Allowed hosts: without keys, only names of this machine.

A page of any site can let its own name lead to this machine (DNS rebinding). Its scripts then may
read and write here as if they were ours; but their browser says that name in ``Host``.
"""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, hdrs, web

from app.config.settings import Settings
from app.domain.hosts import address_in, host_in, is_loopback
from app.web.auth.access import is_below, route_of
from app.web.http.problems import Handler, ProblemError, as_json

#: What is asked for by address, whatever the way there translates it to: no site names itself so.
_PROBED = ("/health", "/metrics")

_REFUSED = ProblemError(
    421,
    "misdirected",
    "This worker is not to be asked under that host; ALLOWED_HOSTS adds names.",
)


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that are served, beside loopback and the address that a client has reached."""

    names: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return what settings ask for; None if any host is served."""
        if settings.keys_file is not None and settings.allowed_hosts is None:
            return None
        given = (settings.web_host, urlsplit(settings.url).netloc, *settings.hosts)
        return cls(frozenset(map(_name_in_setting, given)) - {""})

    def serves(self, host: str, local: str) -> bool:
        """Return whether a host is served to who has reached this machine at a local address."""
        name = name_of(host)
        return name != "" and (name in self.names or name == local or is_loopback(name))


HOSTS = web.AppKey("hosts", Hosts)


def install(web_app: web.Application, settings: Settings) -> None:
    """Check the hosts of requests, if the settings ask for that."""
    hosts = Hosts.of(settings)
    if hosts is not None:
        web_app[HOSTS] = hosts
        web_app.middlewares.append(require_host)


@web.middleware
async def require_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 421 to who asks another host than this one."""
    hosts, local = request.app[HOSTS], local_of(request.get_extra_info("sockname"))
    named = request.headers.getall(hdrs.HOST, [])
    # No browser leaves its host out. Programs that speak HTTP/1.0 do.
    is_named = named or request.version < HttpVersion11
    if is_named and all(hosts.serves(host, local) for host in named):
        return await handler(request)
    if is_below(route_of(request), _PROBED) and all(address_in(name_of(host)) for host in named):
        return await handler(request)
    return as_json(_REFUSED)


def local_of(sockname: object) -> str:
    """Return the address of this machine that a client has reached, "" if it has none."""
    address = address_in(str(sockname[0])) if isinstance(sockname, tuple) else None
    return "" if address is None else str(address)


def name_of(host: str) -> str:
    """Return the name or address in a host as clients send it, "" if there is none."""
    return host_in(host) or ""


def _name_in_setting(host: str) -> str:
    """Return what `name_of` does, also for an address of IPv6 without brackets."""
    return name_of(f"[{host}]") or name_of(host)

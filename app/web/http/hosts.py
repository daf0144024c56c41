"""Allowed hosts: without keys, only names of this machine.

A page of any site can let its own name lead to this machine (DNS rebinding). Its scripts then may
read and write here as if they were ours; but their browser says that name in ``Host``.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, hdrs, web

from app.config.settings import Settings, is_loopback
from app.web.auth.access import is_below, route_of
from app.web.http.problems import Handler, ProblemError, as_json

#: What is asked for by address, whatever the way there translates it to: no site names itself so.
_PROBED = ("/health", "/metrics")

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]*)?")

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
    if is_below(route_of(request), _PROBED) and all(_address(name_of(host)) for host in named):
        return await handler(request)
    return as_json(_REFUSED)


def local_of(sockname: object) -> str:
    """Return the address of this machine that a client has reached, "" if it has none."""
    address = _address(str(sockname[0])) if isinstance(sockname, tuple) else None
    return "" if address is None else str(address)


def name_of(host: str) -> str:
    """Return the name or address in a host as clients send it, "" if there is none."""
    found = _HOST.fullmatch(host)
    if found is None:
        return ""
    address = _address(found["v6"] or found["name"])
    if found["v6"] and address is None:
        return ""
    return found["name"].lower().removesuffix(".") if address is None else str(address)


def _name_in_setting(host: str) -> str:
    """Return what `name_of` does, also for an address of IPv6 without brackets."""
    return name_of(f"[{host}]") or name_of(host)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, that of IPv4 if it is written as one of IPv6; None if it is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

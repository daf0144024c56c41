"""Identifies a client: by its key, else by its address."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

from aiohttp import web

from app.access.keys import Key
from app.access.scopes import Scope, allow
from app.web.http.proxies import address_of


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request: the holder of a key, perhaps by a session, another worker, or nobody."""

    key: Key | None = None
    session: str | None = None
    is_worker: bool = False

    def may(self, needed: Scope) -> bool:
        """Return whether the client has a right."""
        if self.is_worker:
            return allow((Scope.READ,), needed)
        return self.key is not None and self.key.allows(needed)


#: What providers give to one customer, at least (RFC 6177).
CLIENT_NETWORK_BITS = 64

#: Set by `app.web.auth.access` on each request, where keys are asked for.
CLIENT = web.RequestKey("client", Client)


def client_of(request: web.Request) -> str:
    """Return who the client is, as far as its rate is concerned."""
    key = key_of(request)
    if key is not None:
        return client_with(key)
    return client_at(address_of(request))


def is_worker(request: web.Request) -> bool:
    """Return whether another worker has proven to be who asks."""
    client = request.get(CLIENT)
    return client is not None and client.is_worker


def key_of(request: web.Request) -> Key | None:
    """Return the key of who sent a request; None if it has none."""
    client = request.get(CLIENT)
    return None if client is None else client.key


def client_with(key: Key) -> str:
    """Return who the holder of a key is."""
    return f"key:{key.name}"


@lru_cache(maxsize=4_096)
def client_at(address: str) -> str:
    """Return who is at an address; a network of IPv6 that one client has whole is one."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return f"address:{address}"
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return f"address:{IPv6Network((int(found), CLIENT_NETWORK_BITS), strict=False)}"
    return f"address:{getattr(found, 'ipv4_mapped', None) or found}"

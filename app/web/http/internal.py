"""The internal address: where other workers ask this one, and no other one.

Workers of a machine share the public address: who asks there is answered by any of them. The
internal address is one worker's own. It serves other workers, health and metrics, and nothing else;
hosts, keys and proofs are asked for as at the public one. No proxy is in front of it.
"""

from aiohttp import web

#: The port of the internal address; None if there is none.
INTERNAL_PORT = web.AppKey("internal_port", object)


def is_internal_at(sockname: object, internal_port: object) -> bool:
    """Return whether a client has reached the internal address."""
    return isinstance(sockname, tuple) and sockname[1] == internal_port


def is_internal(request: web.Request) -> bool:
    """Return whether a request came to the internal address."""
    port = request.app.get(INTERNAL_PORT)
    return port is not None and is_internal_at(request.get_extra_info("sockname"), port)

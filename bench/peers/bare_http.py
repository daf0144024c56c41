"""The ceiling of our web stack: aiohttp that takes what we take, and looks nothing up.

``python -m bench.peers.bare_http PORT``
"""

import sys

import uvloop
from aiohttp import web

_USER = (
    b'{"id":"user-000000000","name":"Augusta Ada King","email":"000000@example.com",'
    b'"status":"registered","registered_at":"2026-01-01T00:00:00.000000Z",'
    b'"updated_at":"2026-01-01T00:00:00.000000Z","version":1,"position":"AQAAAAAAAAAAAAAAAAAA"}'
)
_HEADERS = {"Vary": "Accept", "Cache-Control": "no-store"}


async def answer(request: web.Request) -> web.Response:
    """Say that a registration is accepted, without looking at it."""
    await request.read()
    return web.Response(status=202)


async def show(_: web.Request) -> web.Response:
    """Show the same user, whoever is asked for."""
    return web.Response(body=_USER, content_type="application/json", headers=_HEADERS)


def main(port: int) -> None:
    """Serve ``POST /users`` and ``GET /users/{id}`` on the loop that our worker has, too."""
    server = web.Application()
    server.router.add_post("/users", answer)
    server.router.add_get("/users/{id}", show)
    loop = uvloop.new_event_loop()
    web.run_app(server, host="127.0.0.1", port=port, print=None, access_log=None, loop=loop)


if __name__ == "__main__":
    main(int(sys.argv[1]))

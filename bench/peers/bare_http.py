"""The ceiling of our web stack: aiohttp that reads a body and answers nothing.

``python -m bench.peers.bare_http PORT``
"""

import sys

import uvloop
from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    """Say that a registration is accepted, without looking at it."""
    await request.read()
    return web.Response(status=202)


def main(port: int) -> None:
    """Serve ``POST /users`` on the loop that our worker has, too."""
    server = web.Application()
    server.router.add_post("/users", answer)
    loop = uvloop.new_event_loop()
    web.run_app(server, host="127.0.0.1", port=port, print=None, access_log=None, loop=loop)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""The web server of a worker: Faust's aiohttp driver with our routes only.

Faust finds it by the URL scheme ``registry://`` (entry point ``faust.web.drivers``).
"""

import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any, cast

from aiohttp import web
from faust.types import AppT
from faust.web.drivers import aiohttp as faust_aiohttp

from app.web.fast_lane import Runner
from app.web.routes import runner_options
from app.worker.registry import Registry
from app.worker.restart import inherited

#: How long requests under way may take to be answered once the server stops; what was written is
#: waited for before that, in `app.worker.shutdown`.
CLOSE_TIMEOUT_SECONDS = 3.0
#: Connections that the kernel keeps until they are accepted. Past it, it drops what clients send,
#: and they try again after a second: of those who flood, so would the others.
BACKLOG = 1_024
#: For how long, about, a connection on which nothing is said is left to the kernel.
SILENT_SECONDS = 10


def _hear_of_who_speaks(descriptors: Iterable[int]) -> None:
    """Let the kernel keep connections on which nothing is said: tcp(7), TCP_DEFER_ACCEPT.

    They come here once their clients speak, or after some seconds. It is the same to who listens
    anew on the sockets. Elsewhere than on Linux each comes at once.
    """
    if hasattr(socket, "TCP_DEFER_ACCEPT"):
        for each in descriptors:
            with socket.socket(fileno=os.dup(each)) as listening:
                if listening.family != socket.AF_UNIX:
                    listening.setsockopt(
                        socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, SILENT_SECONDS
                    )


class RegistryWeb(faust_aiohttp.Web):
    """Faust's web server, serving the registry."""

    # Faust's own pages show table data, routing and code to anyone: all off.
    default_blueprints = ()
    production_blueprints = ()
    debug_blueprints = ()
    optional_blueprints = ()

    def __init__(self, app: AppT, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._runner = Runner(
            self.web_app,
            tls=app.conf.web_ssl_context,
            shutdown_timeout=CLOSE_TIMEOUT_SECONDS,
            **runner_options(),
        )
        self._registry.new_start.listening = self._listening

    @property
    def _registry(self) -> Registry:
        return cast(Registry, self.app)

    async def start_server(self) -> None:
        """Listen where the settings say, or on what was handed to this process."""
        if not inherited():
            await super().start_server()
            _hear_of_who_speaks(self._listening())
            return
        await self._runner.setup()
        for handed in inherited():
            await web.SockSite(self._runner, handed, backlog=BACKLOG).start()

    def _new_transport_tcp(self) -> web.BaseSite:
        # The runner begins TLS by itself.
        conf = self.app.conf
        return web.TCPSite(self._runner, conf.web_bind, conf.web_port, backlog=BACKLOG)

    def _listening(self) -> Iterator[int]:
        """Yield the file descriptors of what is listened on."""
        for site in self._runner.sites:
            server = cast(Any, site)._server
            yield from (each.fileno() for each in server.sockets)

    def init_server(self) -> None:
        """Add the routes, before the server listens."""
        super().init_server()
        self._registry.add_routes(self.web_app)

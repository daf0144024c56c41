"""The web server of a worker: Faust's aiohttp driver with our routes only.

Faust finds it by the URL scheme ``registry://`` (entry point ``faust.web.drivers``).
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from aiohttp import web
from faust.types import AppT
from faust.web.drivers import aiohttp as faust_aiohttp

from app.system.handed_sockets import INTERNAL, PUBLIC, inherited
from app.web.accepting import Accepting
from app.web.fast_lane import Runner
from app.web.routes import runner_options
from app.web.services import SERVICES, Services
from app.worker.preflight import cannot_listen
from app.worker.registry import Registry

#: How long requests under way may take to be answered once the server stops; what was written is
#: waited for before that, in `app.worker.shutdown`.
CLOSE_TIMEOUT_SECONDS = 3.0
#: Connections that the kernel keeps until they are accepted. Past it, it drops what clients send,
#: and they try again after a second: of those who flood, so would the others.
BACKLOG = 1_024
#: The setting of each address that a worker opens.
_SETTINGS = {PUBLIC: "WEB_PORT", INTERNAL: "INTERNAL_PORT"}
#: How often a worker looks whether it is ready for the shared address.
LOOK_SECONDS = 0.05
#: For how long, about, a connection on which nothing is said is left to the kernel.
SILENT_SECONDS = 10


def hear_of_who_speaks(descriptors: Iterable[int]) -> None:
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
        #: What is this worker's own, by name, and what it takes from what it shares.
        self._own: list[tuple[str, web.BaseSite]] = []
        self._taking: list[Accepting] = []
        self._registry.new_start.listening = self._listening
        self._registry.winding_down.begins = self._leave_to_others

    @property
    def _registry(self) -> Registry:
        return cast(Registry, self.app)

    async def start_server(self) -> None:
        """Listen where the settings say, or on what was handed to this process."""
        await self._runner.setup()
        conf, settings = self.app.conf, self._services.settings
        if not inherited():
            await self._listen(PUBLIC, conf.web_bind, conf.web_port)
        for handed in inherited():
            if not handed.is_shared:
                await self._begin(
                    handed.name, web.SockSite(self._runner, handed.socket, backlog=BACKLOG)
                )
        is_new = INTERNAL not in (name for name, _ in self._own)
        if settings.internal_port is not None and is_new:
            await self._listen(INTERNAL, settings.internal_host, settings.internal_port)
        if any(handed.is_shared for handed in inherited()):
            self.add_future(self._share())

    async def _listen(self, name: str, host: str, port: int) -> None:
        try:
            # The runner begins TLS by itself.
            await self._begin(name, web.TCPSite(self._runner, host, port, backlog=BACKLOG))
        except OSError as error:
            # It was free when the worker began to start.
            raise cannot_listen(host, port, _SETTINGS[name], error) from None
        hear_of_who_speaks(each for each, of in self._listening() if of == name)

    async def _begin(self, name: str, site: web.BaseSite) -> None:
        await site.start()
        self._own.append((name, site))

    async def _share(self) -> None:
        """Take connections to the shared address once this worker is ready.

        Until then the other workers take them. A worker that was ready once goes on, whatever
        comes: if none of them took any, clients would wait, and not hear why.
        """
        while self._services.why_not_ready():
            await asyncio.sleep(LOOK_SECONDS)
        factory = cast(Callable[[], asyncio.BaseProtocol], self._runner.server)
        for shared in (each.socket for each in inherited() if each.is_shared):
            shared.listen(BACKLOG)
            hear_of_who_speaks([shared.fileno()])
            self._taking.append(Accepting(shared, factory))

    def _leave_to_others(self) -> None:
        """Take no more connections to the shared address: they wait for the other workers."""
        for each in self._taking:
            each.stop()

    def _listening(self) -> Iterator[tuple[int, str]]:
        """Yield the file descriptors of what is listened on, and their names."""
        for name, site in self._own:
            server = cast(Any, site)._server
            yield from ((each.fileno(), name) for each in server.sockets)
        yield from ((each.socket.fileno(), each.name) for each in inherited() if each.is_shared)

    @property
    def _services(self) -> Services:
        return self.web_app[SERVICES]

    def init_server(self) -> None:
        """Add the routes, before the server listens."""
        super().init_server()
        self._registry.add_routes(self.web_app)

"""The web server inside a worker: Faust's aiohttp driver with our routes, and none of Faust's.

Faust finds it by the URL scheme ``registry://`` (entry point ``faust.web.drivers``).
"""

from collections.abc import Iterator
from typing import Any, cast

from aiohttp import web
from faust.types import AppT
from faust.web.drivers import aiohttp as faust_aiohttp

from app.registry import Registry
from app.restart import inherited
from app.web.fast_lane import Runner
from app.web.routes import runner_options

#: How long requests under way may take to be answered once the server stops; what was written is
#: waited for before that, in `app.shutdown`.
CLOSE_TIMEOUT_SECONDS = 3.0


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
            self.web_app, shutdown_timeout=CLOSE_TIMEOUT_SECONDS, **runner_options()
        )
        self._registry.new_start.listening = self._listening

    @property
    def _registry(self) -> Registry:
        return cast(Registry, self.app)

    async def start_server(self) -> None:
        """Listen where the settings say, or on what was handed to this process."""
        if not inherited():
            await super().start_server()
            return
        await self._runner.setup()
        for handed in inherited():
            tls = self.app.conf.web_ssl_context
            await web.SockSite(self._runner, handed, ssl_context=tls).start()

    def _listening(self) -> Iterator[int]:
        """Yield the file descriptors of what is listened on."""
        for site in self._runner.sites:
            server = cast(Any, site)._server
            yield from (each.fileno() for each in server.sockets)

    def init_server(self) -> None:
        """Add the routes, before the server listens."""
        super().init_server()
        self._registry.add_routes(self.web_app)

"""The web server inside a worker: Faust's aiohttp driver with our routes, and none of Faust's.

Faust finds it by the URL scheme ``registry://`` (entry point ``faust.web.drivers``).
"""

from typing import Any, cast

import faust
from faust.types import AppT
from faust.web.drivers import aiohttp as faust_aiohttp

from app.lookups import Lookups
from app.main import producer, registry_topics
from app.settings import settings
from app.web.routes import application_options, install
from app.web.services import Services
from tables.recent import recent_registrations
from tables.users import users


class RegistryWeb(faust_aiohttp.Web):
    """Faust's web server, serving the registry."""

    # Faust's own pages show table data, routing and code to anyone: all off.
    default_blueprints = ()
    production_blueprints = ()
    debug_blueprints = ()
    optional_blueprints = ()

    def __init__(self, app: AppT, **kwargs: Any) -> None:
        app.conf.web_application_options = application_options(settings())
        super().__init__(app, **kwargs)

    def init_server(self) -> None:
        """Add the routes, before the server listens."""
        super().init_server()
        written = registry_topics.user_registrations
        lookups = Lookups(
            cast(faust.App, self.app), users, recent_registrations, written.partitions
        )
        given = Services(settings(), written, producer, lookups)
        install(self.web_app, given)

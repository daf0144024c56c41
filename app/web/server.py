"""The web server inside a worker: Faust's aiohttp driver with our routes, and none of Faust's.

Faust finds it by the URL scheme ``registry://`` (entry point ``faust.web.drivers``).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import faust
from aiohttp import web
from faust.types import AppT
from faust.web.drivers import aiohttp as faust_aiohttp

from app.dead_letters.recent import RecentDeadLetters
from app.dead_letters.replaying import LetterReplays
from app.limits import Limits
from app.lookups import Lookups, Tables
from app.main import (
    access,
    lags,
    producer,
    registry_topics,
    restart,
    shutdown,
    standstills,
)
from app.overview.collecting import Collecting
from app.overview.here import state
from app.readiness import Readiness
from app.restart import inherited
from app.routing import Asking, Routing
from app.settings import settings
from app.web.connections import most
from app.web.fast_lane import Runner
from app.web.routes import application_options, install, runner_options
from app.web.services import Services
from app.web.waits import SHARE_OF_CONNECTIONS, Waits
from tables.emails import EMAILS, emails
from tables.outcomes import record_outcomes
from tables.recent import recent_registrations
from tables.users import USERS, users

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
        app.conf.web_application_options = application_options(settings())
        super().__init__(app, **kwargs)
        self._runner = Runner(
            self.web_app, shutdown_timeout=CLOSE_TIMEOUT_SECONDS, **runner_options()
        )
        restart.listening = self._listening

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
        written = registry_topics.user_registrations
        wanted = settings()
        registry = cast(faust.App, self.app)
        asking = Asking.of(wanted)
        by_id = Routing(registry, USERS, registry_topics.users_changelog, asking)
        lookups = Lookups(
            Tables(users, emails, record_outcomes, recent_registrations),
            by_id,
            Routing(registry, EMAILS, registry_topics.emails_changelog, asking),
            wanted.email_keys,
            wanted.max_wait_seconds,
        )
        dead_letters = RecentDeadLetters(wanted.kafka, registry_topics.dead_letter)
        limits = Limits(wanted.max_writes_per_second, wanted.client_writes_per_second)
        reads = Limits(wanted.max_reads_per_second, wanted.client_reads_per_second, are_reads=True)
        ready = Readiness(registry, lags, access, producer, shutdown, wanted.ready_lag_seconds)
        given = Services(
            wanted,
            written,
            producer,
            lookups,
            dead_letters,
            limits=limits,
            reads=reads,
            waits=Waits(most(wanted) // SHARE_OF_CONNECTIONS),
            replays=LetterReplays(wanted),
            overview=Collecting(by_id, lookups, partial(state, registry, USERS, lags)),
            why_not_ready=ready.why_not,
            standstills=standstills,
        )
        install(self.web_app, given)

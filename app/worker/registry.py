"""The Faust app, with our services between Faust's."""

from collections.abc import Callable, Iterable
from typing import Any

import faust
from aiohttp import web
from faust.app.base import BootStrategy
from faust.assignor import PartitionAssignor
from mode.types import ServiceT

from app.engine.consumer import GROUP_PROTOCOL
from app.worker.restart import Restart
from app.worker.shutdown import Shutdown


class _Boot(BootStrategy):
    """Faust's order of services, with ours."""

    app: "Registry"

    def kafka_producer(self) -> list[ServiceT]:
        """Return the services that start before the tables, and stop after all senders."""
        return [*super().kafka_producer(), *self.app.with_producer]

    def tables(self) -> Iterable[ServiceT]:
        """Return the tables, and the services that watch them."""
        return [*super().tables(), *self.app.with_tables]


class Assignor(PartitionAssignor):
    """Faust's assignor under another name: workers of 0.8 fence in another way, and cannot join."""

    @property
    def name(self) -> str:
        """The name of the group's protocol."""
        return GROUP_PROTOCOL


class Registry(faust.App):
    """The app. It starts by our boot strategy, and stops gracefully."""

    BootStrategy = _Boot

    def __init__(self, app_id: str, shutdown: Shutdown, restart: Restart, **options: Any) -> None:
        #: Faust's services have their own `restart` and `_shutdown`.
        self.new_start = restart
        self.winding_down = shutdown
        #: Services that run as long as the producer, or as long as the tables.
        self.with_producer: list[ServiceT] = []
        self.with_tables: list[ServiceT] = []
        #: Adds the routes to the web server.
        self.add_routes: Callable[[web.Application], None] = lambda application: None
        super().__init__(app_id, **options)

    async def stop(self) -> None:
        """Wind down, unless something has failed; then stop and leave the group."""
        self.new_start.follow_signals()
        if not (self.should_stop or self.winding_down.is_under_way):
            await self.winding_down.wind_down()
        await super().stop()

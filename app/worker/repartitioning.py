"""Follows a repartition of the registry, as long as the worker runs."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP
from mode import Service

from app.config.settings import Settings
from app.domain.errors import NotWrittenError, RegistryError
from app.kafka.partitioning import Partitioning, Register, Step, changes, read
from app.system import retries

log = structlog.get_logger(__name__)

#: A worker that holds writes for so long without news gives the change up, for all workers.
SILENT_SECONDS = 40.0
LOOK_SECONDS = 0.5


class Follows(Protocol):
    """What a change makes a worker do."""

    def hold(self, *, are_held: bool) -> None:
        """Refuse writes, or take them again."""

    def end_at(self, ends: Mapping[TP, int]) -> None:
        """Apply these sources only up to their ends, and all others without limit."""

    def restart(self) -> None:
        """Restart this worker."""


class Watching(Service):
    """Reads the partitioning as long as the worker runs."""

    def __init__(self, settings: Settings, registrations: str, follower: Follows) -> None:
        super().__init__()
        self._settings = settings
        self._registrations = registrations
        self._follower = follower
        #: When writes were held without news since, in the loop's time; None if they are not held.
        self._held_since: float | None = None

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            try:
                async for current in changes(self._settings):
                    self.follow(current)
            except (KafkaError, RegistryError, OSError) as error:
                log.warning("the partitioning is read again", cause=type(error).__name__)
                await self.sleep(retries.REPARTITIONED.first_seconds)

    @Service.task
    async def _give_up_in_time(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK_SECONDS)
            since = self._held_since
            if since is not None and self._now() - since > SILENT_SECONDS:
                await self._give_up()

    def follow(self, current: Partitioning) -> None:
        """Do what the partitioning asks for now."""
        if current.generation != self._settings.generation:
            log.info("the registry was repartitioned", partitions=current.partitions)
            self._held_since = None
            self._follower.restart()
            return
        change = current.change
        is_held = change is not None and change.step is not Step.COPYING
        if is_held or self._held_since is not None:
            log.info("the registry is being repartitioned", step=change.step if change else "over")
        self._held_since = self._now() if is_held else None
        self._follower.hold(are_held=is_held)
        ends = enumerate(change.ends if change is not None and is_held else ())
        self._follower.end_at({TP(self._registrations, number): end for number, end in ends})

    async def _give_up(self) -> None:
        """Give up a change without news. The command that began it is fenced first."""
        log.warning("a repartition makes no progress: it is given up")
        register = Register(self._settings)
        try:
            current = await register.start()
            if current.change is not None:
                await register.write(current.changing(None))
        except (RegistryError, KafkaError) as error:
            log.warning(
                "the repartition cannot be given up yet; this will be retried",
                cause=type(error).__name__,
            )
            await self.sleep(retries.REPARTITIONED.first_seconds)
        finally:
            await register.close()

    async def require_current(self) -> None:
        """Raise `NotWrittenError` unless sealed tables continue here."""
        current = await read(self._settings)
        if current.generation != self._settings.generation:
            self.follow(current)
            raise NotWrittenError("the registry was repartitioned; this worker restarts")
        if current.change is not None:
            raise NotWrittenError("the registry is being repartitioned")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

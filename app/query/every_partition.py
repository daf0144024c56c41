"""Asks workers until every partition is told of. What is partial never looks complete.

Each worker tells of its own partitions, and says which these are. What a worker was asked for and
another one answers meanwhile, because partitions move, is missed by nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Protocol, TypeVar

from app.domain.errors import NotReadyError, Unavailable
from app.query.routing import Routing


class Part(Protocol):
    """What a worker tells."""

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that it tells of."""
        ...

    @property
    def stale_seconds(self) -> float:
        """For how long it may lack something; 0 if the owner has told it."""
        ...


P = TypeVar("P", bound=Part)


async def parts(routing: Routing, here: P, ask: Callable[[str], Awaitable[P | None]]) -> list[P]:
    """Return what workers tell, the freshest last, until every partition is told of.

    ``here`` is this worker's part. Raises `NotReadyError` if of some partition nobody can tell.
    """
    told = [here]
    missing = _missing(routing, told)
    # Those that should have what is missing; if some of it moved since, everyone.
    for workers in (routing.owners_elsewhere, lambda _: routing.other_workers()):
        if missing:
            told += filter(None, await asyncio.gather(*map(ask, workers(missing))))
            missing = _missing(routing, told)
    if missing:
        raise NotReadyError(_why(routing, missing))
    # A partition that moved meanwhile may have been told of twice: the fresher part counts.
    return sorted(told, key=lambda part: part.stale_seconds, reverse=True)


def _missing(routing: Routing, told: Iterable[Part]) -> frozenset[int]:
    return frozenset(range(routing.partitions)).difference(*(part.partitions for part in told))


def _why(routing: Routing, missing: Collection[int]) -> Unavailable:
    causes = map(routing.why_not_here, sorted(missing))
    if (cause := next(filter(None, causes), None)) is not None:
        return cause
    is_owned = bool(routing.owners_elsewhere(missing))
    return Unavailable.OWNER_UNREACHABLE if is_owned else Unavailable.REBALANCING


def stale_seconds(routing: Routing, partitions: Iterable[int]) -> float:
    """Return for how long some of this worker's partitions may lack something."""
    return max((routing.stale_seconds(number) or 0.0 for number in partitions), default=0.0)

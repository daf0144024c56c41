"""Readiness: why this worker should not get requests now."""

import faust

from app.engine.partitions import Partitions
from app.ingest.producer import Producer
from app.kafka.acls import AccessWatch
from app.worker.lag import Lags
from app.worker.shutdown import Shutdown


class Readiness:
    """What keeps a worker from its work."""

    def __init__(
        self,
        app: faust.App,
        partitions: Partitions,
        lags: Lags,
        access: AccessWatch,
        producer: Producer,
        shutdown: Shutdown,
        max_lag_seconds: float,
    ) -> None:
        self._app = app
        self._partitions = partitions
        self._lags = lags
        self._access = access
        self._producer = producer
        self._shutdown = shutdown
        self._max_lag_seconds = max_lag_seconds

    def why_not(self) -> list[str]:
        """Return the reasons why the worker is not ready; none if it is."""
        checks = (
            self._stops,
            self._is_refused,
            self._joins,
            self._recovers,
            self._fails,
            self._is_alone,
            self._lags_far,
        )
        return [reason for check in checks if (reason := check())]

    def _stops(self) -> str | None:
        return "the worker is stopping" if self._shutdown.is_under_way else None

    def _is_refused(self) -> str | None:
        return self._access.told or self._producer.refused

    def _joins(self) -> str | None:
        if self._app.tables.actives_ready and not self._app.rebalancing:
            return None
        return "the worker joins its group, or partitions are moving between workers"

    def _recovers(self) -> str | None:
        owned = self._partitions.owned()
        behind = sum(not partition.is_open for partition in owned)
        return f"{behind} of {len(owned)} partitions are recovering" if behind else None

    def _fails(self) -> str | None:
        owned = self._partitions.owned()
        failing = [partition.trouble for partition in owned if partition.trouble]
        if not failing:
            return None
        return f"{len(failing)} of {len(owned)} partitions try again: {failing[0]}"

    def _is_alone(self) -> str | None:
        # A worker without partitions has nothing that the broker could confirm.
        if self._partitions.lease.holds or not self._partitions.owned():
            return None
        return "no broker confirms that the worker is in its group"

    def _lags_far(self) -> str | None:
        seconds = [lag.seconds for lag in self._lags.of_all().values()]
        late = [each for each in seconds if each > self._max_lag_seconds]
        if not late:
            return None
        return f"records of {len(late)} partitions wait for {max(late):.0f} s"

"""Routing: finds the owner of a partition, and asks it over HTTP."""

import re
from collections.abc import Collection, Iterator
from time import monotonic

import faust
import structlog
from faust.types import TP

from app.domain.errors import NotReadyError, Unavailable
from app.engine.assignment import TableManager
from app.engine.partitions import OwnedPartition, Partitions
from app.kafka.topics import TopicSpec
from app.query.worker_client import NoAnswerError, WorkerClient
from app.system.clocks import now
from app.system.http_client import AnswerTooLongError
from app.telemetry.metrics import FORWARD_SECONDS, FORWARDED

log = structlog.get_logger(__name__)

#: How long another worker may take to answer, unless who asks says otherwise.
FORWARD_TIMEOUT_SECONDS = 2.0

#: All of an address that is sent a question: nothing that leads a proof elsewhere.
_WORKER_URL = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
#: Most announced texts that are told of.
MAX_TOLD = 100

#: What is not surely all there is was so a moment ago, at least; Kafka's clocks tick in ms.
MIN_STALE_SECONDS = 0.001

_ANSWERED, _FAILED = FORWARDED.labels("answered"), FORWARDED.labels("failed")


class Routing:
    """Who owns the partitions of a table, by Faust's knowledge of the group."""

    def __init__(
        self,
        app: faust.App,
        tables: TableManager,
        table: str,
        changelog: TopicSpec,
        client: WorkerClient,
    ) -> None:
        self._app = app
        self._tables = tables
        self._table = table
        self._changelog = changelog
        self._client = client
        #: Workers that do not take this one's proofs, and what is announced that is no address.
        self._refused_by: set[str] = set()
        self._no_addresses: set[str] = set()

    @property
    def partitions(self) -> int:
        """How many partitions the table has."""
        return self._changelog.partitions

    def here(self, partition: int) -> OwnedPartition | None:
        """Return a partition that this worker, and surely no other one, can answer for now."""
        partitions = self._partitions
        if not partitions.owns(self._table, partition):
            return None
        return partitions.get(self._table, partition)

    def why_not_here(self, partition: int) -> Unavailable | None:
        """Return why this worker cannot answer for its partition; None if it was not assigned."""
        owned = self._partitions.get(self._table, partition)
        if owned is None:
            return None
        if not owned.is_open:
            return Unavailable.RECOVERING
        return Unavailable.LEASE_EXPIRED if owned.answers else Unavailable.REBALANCING

    async def reaches(self, source: TP, offset: int) -> bool:
        """Return whether a log has an offset; True as well if no broker can tell in time."""
        return await self._tables.reaches(source, offset)

    def all_here(self) -> list[int]:
        """Return the partitions that this worker answers for, as far as it knows."""
        owned = self._partitions.owned()
        return [p.number for p in owned if p.table.name == self._table and p.answers]

    def stale_seconds(self, partition: int) -> float | None:
        """Return for how long the rows here may lack something: 0 if this worker owns them.

        None if that is not known: they may be a part only, or nothing.
        """
        if self.here(partition) is not None:
            return 0.0
        complete_at = self._partitions.complete_at(self._table, partition)
        return None if complete_at is None else max(now() - complete_at, MIN_STALE_SECONDS)

    @property
    def _partitions(self) -> Partitions:
        return self._tables.partitions

    def _others(self) -> Iterator[tuple[str, list[int]]]:
        """Yield what the other members of the group announce as their address, and their part."""
        topic, here = self._changelog.name, self._url
        for url, topics in self._app.assignor.table_metadata(topic).items():
            if url.rstrip("/") != here:
                yield url, topics.get(topic, [])

    @property
    def _url(self) -> str:
        return str(self._app.conf.canonical_url).rstrip("/")

    def _is_address(self, url: str) -> bool:
        """Return whether what a member of the group announces may be asked; tell once if not."""
        if _WORKER_URL.fullmatch(url):
            return True
        if url not in self._no_addresses and len(self._no_addresses) < MAX_TOLD:
            self._no_addresses.add(url)
            log.warning("a member of the group announces no address of a worker", announced=url)
        return False

    def other_workers(self) -> set[str]:
        """Return the addresses of the other workers."""
        return {url for url, _ in self._others() if self._is_address(url)}

    def all_workers(self) -> set[str]:
        """Return the addresses of all workers; raise `NotReadyError` before the group is known."""
        members = self._app.assignor.table_metadata(self._changelog.name)
        if self._url not in (url.rstrip("/") for url in members):
            raise NotReadyError(Unavailable.REBALANCING)
        return set(filter(self._is_address, members))

    def owners_elsewhere(self, partitions: Collection[int]) -> set[str]:
        """Return the addresses of the other workers that own some partitions."""
        wanted = set(partitions)
        return {
            url
            for url, has in self._others()
            if not wanted.isdisjoint(has) and self._is_address(url)
        }

    async def ask(
        self, url: str, path: str, seconds: float = FORWARD_TIMEOUT_SECONDS
    ) -> tuple[int, bytes]:
        """Return another worker's answer to a GET: status and body.

        Raises `NotReadyError` if none comes in time. Whether it owns what it is asked for, that
        worker knows better: it is not taken on trust.
        """
        if self._client.is_closed:
            raise NotReadyError(Unavailable.STOPPING)
        began = monotonic()
        try:
            status, body = await self._client.get(url, path, seconds)
        except (OSError, NoAnswerError, AnswerTooLongError) as error:
            _FAILED.inc()
            is_strange = isinstance(error, AnswerTooLongError)
            cause = Unavailable.INCOMPATIBLE_ANSWER if is_strange else Unavailable.OWNER_UNREACHABLE
            raise NotReadyError(cause) from None
        _ANSWERED.inc()
        FORWARD_SECONDS.observe(monotonic() - began)
        self._note_refusal(url, is_refused=status == 401)
        return status, body

    def _note_refusal(self, url: str, *, is_refused: bool) -> None:
        """Tell once of a worker that does not take this one's proofs."""
        if not is_refused:
            self._refused_by.discard(url)
        elif url not in self._refused_by:
            self._refused_by.add(url)
            log.warning(
                "a worker refuses to be asked: clocks or EMAIL_SECRET differ",
                or_else="SIGNING_SECRET, WEB_URL or the version",
                url=url,
            )

"""Routing: finds the owner of a partition, and asks it over HTTP."""

import re
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Self

import aiohttp
import faust
import structlog
from faust.types import TP
from yarl import URL

from app.access.proofs import Proofs
from app.config.settings import Settings
from app.config.tls import client_tls
from app.domain.errors import NotReadyError, Unavailable
from app.engine.assignment import TableManager
from app.engine.partitions import OwnedPartition, Partitions
from app.kafka.topics import TopicSpec
from app.system.clocks import now
from app.system.http_client import AnswerTooLongError, read_body
from app.telemetry.metrics import FORWARD_SECONDS, FORWARDED

log = structlog.get_logger(__name__)

#: How long another worker may take to answer, beyond what it was asked to wait.
FORWARD_TIMEOUT_SECONDS = 2.0
CONNECT_TIMEOUT_SECONDS = 0.5

#: All of an address that is sent a question: nothing that leads a proof elsewhere.
_WORKER_URL = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
#: The longest answer: 1,000 users, or the newest of many partitions, are far less.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
#: Most announced texts that are told of.
MAX_TOLD = 100

#: What is not surely all there is was so a moment ago, at least; Kafka's clocks tick in ms.
MIN_STALE_SECONDS = 0.001

#: What another worker forwarded carries this header, and is not forwarded again. Where keys are
#: asked for, it holds the proof that it comes from a worker.
FORWARDED_HEADER = "Registry-Forwarded"


@dataclass(frozen=True, slots=True)
class Asking:
    """How other workers are asked: what proves who asks, and how their certificates are checked."""

    proofs: Proofs | None = None
    tls: ssl.SSLContext | bool = True

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return how workers with these settings ask each other."""
        if settings.keys_file is None:
            return cls(tls=client_tls(settings))
        secret, *others = settings.signing_secrets
        return cls(Proofs(secret, others=others), client_tls(settings))

    def headers(self, url: URL) -> dict[str, str]:
        """Return the headers of a GET at an address."""
        proof = "1"
        if self.proofs is not None:
            proof = self.proofs.make(str(url.origin()), url.raw_path_qs)
        # What would unpack to more than it seems is not asked for.
        asked = {"Accept": "application/json", "Accept-Encoding": "identity"}
        return {FORWARDED_HEADER: proof, **asked}


def origin_of(url: str) -> str:
    """Return a worker's address as proofs name it, however it is written."""
    return str(URL(url).origin())


_ANSWERED, _FAILED = FORWARDED.labels("answered"), FORWARDED.labels("failed")

#: Among workers that trust whoever reaches them.
_PLAINLY = Asking()


class Routing:
    """Who owns the partitions of a table, by Faust's knowledge of the group."""

    def __init__(
        self,
        app: faust.App,
        tables: TableManager,
        table: str,
        changelog: TopicSpec,
        asking: Asking = _PLAINLY,
    ) -> None:
        self._app = app
        self._tables = tables
        self._table = table
        self._changelog = changelog
        self._asking = asking
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

    def _workers(self) -> Mapping[str, list[int]]:
        """Return the partitions of every worker of the group, by the worker's URL."""
        topic = self._changelog.name
        distribution = self._app.assignor.table_metadata(topic)
        return {
            url: topics.get(topic, [])
            for url, topics in distribution.items()
            if self._is_address(url)
        }

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
        return {url for url in self._workers() if not self._is_here(url)}

    def all_workers(self) -> set[str]:
        """Return the addresses of all workers; raise `NotReadyError` before the group is known."""
        known = set(self._workers())
        if not any(map(self._is_here, known)):
            raise NotReadyError(Unavailable.REBALANCING)
        return known

    def owners_elsewhere(self, partitions: Collection[int]) -> set[str]:
        """Return the addresses of the other workers that own some partitions."""
        # Asked once: the consumer's thread may take another assignment in at any moment.
        workers = self._workers().items()
        wanted = set(partitions)
        return {url for url, has in workers if not (self._is_here(url) or wanted.isdisjoint(has))}

    def _is_here(self, url: str) -> bool:
        return url.rstrip("/") == str(self._app.conf.canonical_url).rstrip("/")

    async def ask(self, url: str, path: str, wait_seconds: float = 0) -> tuple[int, bytes]:
        """Return another worker's answer to a GET: status and body; `NotReadyError` if none comes.

        Whether it owns what it is asked for, that worker knows better: it is not taken on trust.
        """
        # Faust closes its client before the web server stops.
        if self._app.http_client.closed:
            raise NotReadyError(Unavailable.STOPPING)
        timeout = aiohttp.ClientTimeout(
            total=FORWARD_TIMEOUT_SECONDS + wait_seconds, sock_connect=CONNECT_TIMEOUT_SECONDS
        )
        asked = URL(url.rstrip("/") + path)
        began = monotonic()
        try:
            async with self._app.http_client.get(
                asked,
                headers=self._asking.headers(asked),
                timeout=timeout,
                ssl=self._asking.tls,
                allow_redirects=False,
                auto_decompress=False,
            ) as answer:
                body = await read_body(answer, MAX_ANSWER_BYTES)
                _ANSWERED.inc()
                FORWARD_SECONDS.observe(monotonic() - began)
                self._note_refusal(url, is_refused=answer.status == 401)
                return answer.status, body
        except (aiohttp.ClientError, TimeoutError, AnswerTooLongError) as error:
            _FAILED.inc()
            is_strange = isinstance(error, AnswerTooLongError)
            cause = Unavailable.INCOMPATIBLE_ANSWER if is_strange else Unavailable.OWNER_UNREACHABLE
            raise NotReadyError(cause) from None

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

"""Lookups: who owns a key, and the user under it: from this worker's tables or from the owner's."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import quote

import aiohttp
import faust
from pydantic import TypeAdapter, ValidationError

from app.engine.takeover import TableManager
from app.errors import NotReadyError
from app.keys import encode_key, partition_of
from app.records import User
from tables.recent import RECENT_PER_PARTITION, RecentRegistrations
from tables.users import Users

#: How long another worker may take to answer a forwarded lookup.
FORWARD_TIMEOUT_SECONDS = 2.0

#: A lookup that another worker forwarded carries this header, and is not forwarded again.
FORWARDED_HEADER = "Registry-Forwarded"

_USERS = TypeAdapter(list[User])


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest registrations, newest first, and the workers that did not answer in time."""

    users: list[User]
    unavailable: list[str]


class FindsUsers(Protocol):
    """What the web view needs of lookups; tests may bring their own."""

    async def find(self, user_id: str, *, forwarded: bool = False) -> User | None:
        """Return the user under an id, or None; `NotReadyError` if nobody can tell now."""
        ...

    async def newest(self, *, forwarded: bool = False) -> Newest:
        """Return the newest registrations of all workers, or of this one if ``forwarded``."""
        ...

    def is_ready(self) -> bool:
        """Return whether this worker's part of the tables can be asked."""
        ...


class Lookups:
    """Lookups over the tables of all workers, by Faust's knowledge of who owns what."""

    def __init__(
        self, app: faust.App, users: Users, recent: RecentRegistrations, partitions: int
    ) -> None:
        self._app = app
        self._partitions = partitions
        self._users = users
        self._recent = recent

    async def find(self, user_id: str, *, forwarded: bool = False) -> User | None:
        """Return the user under an id, or None; `NotReadyError` if nobody can tell now."""
        partition = partition_of(encode_key(user_id), self._partitions)
        if partition in self._owned():
            return self._users.find(partition, user_id)
        if forwarded:
            raise NotReadyError("this worker does not own the user's partition")
        return await self._ask_owner(partition, user_id)

    async def newest(self, *, forwarded: bool = False) -> Newest:
        """Return the newest registrations of all workers, or of this one if ``forwarded``."""
        here = [user for partition in self._owned() for user in self._newest_of(partition)]
        others = [] if forwarded else sorted(self._other_workers())
        answers = await asyncio.gather(*map(self._ask_newest, others))
        everywhere = [*here, *(user for answer in answers for user in answer or [])]
        everywhere.sort(key=lambda user: (user.registered_at, user.id), reverse=True)
        return Newest(
            everywhere[:RECENT_PER_PARTITION],
            [url for url, answer in zip(others, answers, strict=True) if answer is None],
        )

    def _newest_of(self, partition: int) -> list[User]:
        recent = self._recent.newest(partition)
        return self._users.find_many(partition, (registered.id for registered in recent))

    def is_ready(self) -> bool:
        """Return whether this worker's part of the tables can be asked."""
        return bool(self._app.tables.actives_ready) and not self._app.rebalancing

    def _owned(self) -> set[int]:
        """Return the partitions that this worker owns and has recovered."""
        owned = cast(TableManager, self._app.tables).partitions.owned()
        return {partition.number for partition in owned if partition.answers}

    def _workers(self) -> Mapping[str, list[int]]:
        """Return the partitions of every worker of the group, by the worker's URL."""
        topic = self._users.store.table.changelog_topic.get_topic_name()
        distribution = self._app.assignor.table_metadata(topic)
        return {url: topics.get(topic, []) for url, topics in distribution.items()}

    def _other_workers(self) -> set[str]:
        return {url for url in self._workers() if not self._is_here(url)}

    def _is_here(self, url: str) -> bool:
        return url.rstrip("/") == str(self._app.conf.canonical_url).rstrip("/")

    async def _ask_owner(self, partition: int, user_id: str) -> User | None:
        owners = [url for url, owned in self._workers().items() if partition in owned]
        if not owners or self._is_here(owners[0]):
            raise NotReadyError("the tables are recovering or moving between workers")
        status, body = await self._ask(owners[0], f"/users?id={quote(user_id, safe='')}")
        if status == 404 and b"unknown-user" in body:
            return None
        try:
            return User.model_validate_json(body)
        except ValidationError:
            raise NotReadyError(f"the owner of the user's partition answered {status}") from None

    async def _ask_newest(self, url: str) -> list[User] | None:
        try:
            _, body = await self._ask(url, "/registrations")
            return _USERS.validate_json(body)
        except (NotReadyError, ValidationError):
            return None

    async def _ask(self, url: str, path: str) -> tuple[int, bytes]:
        try:
            async with self._app.http_client.get(
                url.rstrip("/") + path,
                headers={FORWARDED_HEADER: "1", "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=FORWARD_TIMEOUT_SECONDS),
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotReadyError(
                f"the owner of the user's partition does not answer ({type(error).__name__})"
            ) from None

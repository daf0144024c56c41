"""Lists users in the order of their ids, over all workers: each reads those of its partitions."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from app.domain import cursors
from app.domain.errors import NotReadyError
from app.domain.records import User, is_user_id
from app.query.every_partition import parts, stale_seconds
from app.query.routing import Routing
from tables.users import Users

#: No id is longer.
MAX_PREFIX = 128


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of the list: ids that begin so, at most so many, those after an id."""

    prefix: str = ""
    limit: int = 100
    after_id: str | None = None

    @property
    def path(self) -> str:
        """Where another worker has its part of it."""
        path = f"/users?prefix={quote(self.prefix, safe='')}&limit={self.limit}"
        return path if self.after_id is None else f"{path}&cursor={cursor_after(self.after_id)}"


@dataclass(frozen=True, slots=True)
class UsersPage:
    """Users in the order of their ids, whether there are more, and of which partitions."""

    users: list[User]
    has_more: bool
    partitions: frozenset[int]
    #: For how long it may lack something, because the broker confirms nobody's partitions.
    stale_seconds: float = 0.0

    def cursor(self) -> str:
        """Return the cursor of the next page."""
        return cursor_after(self.users[-1].id)


class _Answer(BaseModel):
    """What another worker tells of its part."""

    users: list[User]
    next: str | None = None
    partitions: frozenset[int]
    stale_seconds: float = 0.0


class Listing:
    """Pages of the table ``users``."""

    def __init__(self, users: Users, routing: Routing) -> None:
        self._users = users
        self._routing = routing

    async def page(self, wanted: Wanted, *, forwarded: bool = False) -> UsersPage:
        """Return a page over all workers, or over this one if ``forwarded``.

        Raises `NotReadyError` if some partition's users cannot be told.
        """
        # One request may ask for many pages: others have their turn between two of them.
        await asyncio.sleep(0)
        here = self._page_here(wanted)
        if forwarded:
            return here
        pages = await parts(self._routing, here, partial(self._ask, wanted))
        return _whole(pages, wanted.limit)

    def _page_here(self, wanted: Wanted) -> UsersPage:
        partitions = self._routing.all_here()
        users = self._users.in_order(partitions, wanted.prefix, wanted.after_id)
        found = list(islice(users, wanted.limit + 1))
        return UsersPage(
            found[: wanted.limit],
            len(found) > wanted.limit,
            frozenset(partitions),
            stale_seconds(self._routing, partitions),
        )

    async def _ask(self, wanted: Wanted, url: str) -> UsersPage | None:
        try:
            _, body = await self._routing.ask(url, wanted.path)
            answer = _Answer.model_validate_json(body)
        except (NotReadyError, ValidationError):
            return None
        return UsersPage(
            answer.users, answer.next is not None, answer.partitions, answer.stale_seconds
        )


def _whole(pages: Sequence[UsersPage], limit: int) -> UsersPage:
    """Return the first users of all pages, the freshest last; each is whole up to its own end."""
    found = {user.id: user for page in pages for user in page.users}
    return UsersPage(
        [found[key] for key in sorted(found)[:limit]],
        len(found) > limit or any(page.has_more for page in pages),
        frozenset[int]().union(*(page.partitions for page in pages)),
        max(page.stale_seconds for page in pages),
    )


def cursor_after(user_id: str) -> str:
    """Return the cursor of the users after an id. It does not depend on which users there are."""
    return cursors.encode(user_id.encode())


def id_before(cursor: str | None) -> str | None:
    """Return the id that a cursor comes after; None at the beginning."""
    if cursor is None:
        return None
    try:
        user_id = cursors.decode(cursor).decode()
    except UnicodeDecodeError:
        raise cursors.invalid() from None
    if not is_user_id(user_id):
        raise cursors.invalid()
    return user_id

"""Exports: whole or visibly broken off, in bounded memory, whatever the names are."""

import csv
import io
from dataclasses import replace

import orjson
import pytest
from aiohttp import ClientPayloadError

from app.domain.errors import NotReadyError, Unavailable
from app.query.listing import UsersPage, Wanted
from app.system import retries
from app.web.api import export
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups

ODD = ['Ada, "the first"', "line\r\nbreak", "=1+1", "Ünï 😀", "'; drop", " "]


@pytest.fixture(autouse=True)
def _short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PAGE_USERS", 2)


def add_odd(lookups: FakeLookups) -> None:
    """Register a user with each odd name."""
    for number, name in enumerate(ODD):
        lookups.add(f"user-{number}", name=name, email=f"{number}@example.com")


async def test_ndjson_has_every_user_as_a_lookup_shows_it(
    client: Client, lookups: FakeLookups
) -> None:
    add_odd(lookups)
    answer = await client.get("/export")
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    lines = (await answer.read()).split(b"\n")
    assert lines.pop() == b""
    assert lines == [user.encode() for user in lookups.users.values()]


async def test_of_whom_only_the_headers_are_asked_nothing_else_is_sent(
    client: Client, lookups: FakeLookups
) -> None:
    add_odd(lookups)
    answer = await client.head("/export?format=csv")
    assert (answer.status, answer.content_type) == (200, "text/csv")
    # What follows on the connection is the answer to what was asked next.
    assert await (await client.get("/users/user-0")).json()
    assert (await client.head("/export?format=doc")).status == 400


async def test_csv_holds_odd_names(client: Client, lookups: FakeLookups) -> None:
    add_odd(lookups)
    answer = await client.get("/export?format=csv")
    assert (answer.status, answer.content_type) == (200, "text/csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="users.csv"'
    rows = list(csv.DictReader(io.StringIO(await answer.text(), newline="")))
    assert [row["name"] for row in rows] == ODD
    assert list(rows[0]) == list(export.COLUMNS)
    shown = orjson.loads(lookups.users["user-0"].encode())
    assert rows[0] == {column: str(shown[column]) for column in export.COLUMNS}


async def test_only_ids_that_begin_so(client: Client, lookups: FakeLookups) -> None:
    for user_id in ("a1", "a2", "a3", "b1"):
        lookups.add(user_id)
    answer = await client.get("/export?prefix=a")
    ids = [orjson.loads(line)["id"] for line in (await answer.text()).splitlines()]
    assert ids == ["a1", "a2", "a3"]


async def test_an_empty_export_is_whole(client: Client) -> None:
    assert await (await client.get("/export")).read() == b""
    assert (
        await (await client.get("/export?format=csv")).text() == f"{','.join(export.COLUMNS)}\r\n"
    )


async def test_a_mistake_is_a_problem(client: Client) -> None:
    for path in ("/export?format=xml", f"/export?prefix={'x' * 129}"):
        answer = await client.get(path)
        assert (answer.status, answer.content_type) == (400, "application/problem+json")


async def test_without_a_first_page_there_is_a_problem(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.ready = False
    answer = await client.get("/export")
    assert (answer.status, answer.content_type) == (503, "application/problem+json")
    assert "Retry-After" in answer.headers


class Moving(FakeLookups):
    """Lookups whose partitions move from the second page on, for so many pages."""

    failures = 0
    pages = 0
    stale = False

    async def page(self, wanted: Wanted, **_: object) -> UsersPage:
        """Return a page, or fail."""
        self.pages += 1
        page = await super().page(wanted)
        if self.pages == 1 or not self.failures:
            return page
        self.failures -= 1
        if self.stale:
            return UsersPage(page.users, page.has_more, page.partitions, 1.0)
        raise NotReadyError(Unavailable.REBALANCING)


@pytest.fixture
def lookups() -> FakeLookups:
    """Return lookups that may fail."""
    return Moving()


@pytest.mark.parametrize("stale", [False, True])
async def test_a_page_that_fails_or_may_be_old_is_read_again(
    client: Client, lookups: Moving, stale: bool
) -> None:
    add_odd(lookups)
    lookups.failures, lookups.stale = 2, stale
    answer = await client.get("/export")
    assert len((await answer.text()).splitlines()) == len(ODD)
    assert lookups.pages == 3 + 2


async def test_what_cannot_be_completed_is_cut_off(
    client: Client, lookups: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "EXPORT", replace(retries.EXPORT, limit_seconds=0.2))
    add_odd(lookups)
    lookups.failures = 1_000
    answer = await client.get("/export")
    assert answer.status == 200
    with pytest.raises(ClientPayloadError):
        await answer.read()


async def test_pages_are_read_as_the_client_takes_them(
    client: Client, lookups: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE_USERS", 100)
    ada = lookups.add("ada", name="😀" * 256)
    ids = [f"{number:05}" for number in range(20_000)]
    lookups.users = {user_id: ada.model_copy(update={"id": user_id}) for user_id in ids}
    answer = await client.get("/export")
    await answer.content.readexactly(1)
    # Nobody reads, and it goes on until all buffers on the way are full.
    taken, turns = 0, 0
    while turns < 20:
        turns = turns + 1 if taken == lookups.pages else 0
        taken = lookups.pages
        assert (await client.get("/health/live")).status == 200
    assert taken < 150
    assert len((await answer.text()).splitlines()) == len(ids)
    assert lookups.pages == 200

"""``/users`` as a page: everybody in the order of ids, by prefix, a page at a time."""

import re
from html import unescape

import pytest

from app.domain.outcomes import Outcome
from app.domain.positions import Position
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups
from tests.component.test_pages import page


def ids_on(text: str) -> list[str]:
    """Return the addresses of the users that a page lists."""
    return re.findall(r'<a class="row[^"]*" href="/users/([^"]*)"', text)


def next_of(text: str) -> str | None:
    """Return the address of the page after a page."""
    found = re.search(r'href="([^"]*)" rel="next"', text)
    return None if found is None else unescape(found[1])


async def test_people_see_fifty_users_a_page_in_the_order_of_ids(
    client: Client, lookups: FakeLookups
) -> None:
    ids = [f"user-{number:03}" for number in range(120)]
    for user_id in reversed(ids):
        lookups.add(user_id)
    listed: list[list[str]] = []
    path: str | None = "/users"
    while path is not None:
        text = await page(client, path)
        listed.append(ids_on(text))
        path = next_of(text)
    assert listed == [ids[:50], ids[50:100], ids[100:]]


async def test_the_search_by_prefix_goes_on_to_the_next_page(
    client: Client, lookups: FakeLookups
) -> None:
    for number in range(60):
        lookups.add(f"a&b {number:03}")
    lookups.add("other")
    text = await page(client, "/users?prefix=a%26b%20")
    assert 'value="a&amp;b "' in text
    following = next_of(text)
    assert following is not None
    rest = await page(client, following)
    assert len(ids_on(rest)) == 10
    assert next_of(rest) is None
    assert "other" not in rest.partition("<main")[2]


@pytest.mark.parametrize("prefix", ["", "?prefix="])
async def test_an_empty_registry_tells_what_to_do(client: Client, prefix: str) -> None:
    text = await page(client, f"/users{prefix}")
    assert "Nobody is registered yet" in text
    assert "curl -X POST" in text


async def test_a_prefix_that_nobody_has_is_told(client: Client, lookups: FakeLookups) -> None:
    lookups.add("ada")
    assert "No id begins with" in await page(client, "/users?prefix=%3Cb%3E")


async def test_a_list_that_cannot_be_told_is_a_page_that_says_so(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.ready = False
    assert "Service Unavailable" in await page(client, "/users", status=503)


async def test_a_users_page_shows_the_outcome_of_its_last_write(
    client: Client, lookups: FakeLookups
) -> None:
    user = lookups.add("ada")
    lookups.outcomes = {Position.parse(user.position): Outcome.REGISTERED}
    text = await page(client, "/users/ada")
    assert f'href="/registrations/{user.position}"' in text
    assert "<dd>registered<br>" in text

"""Pages: one address for people and programs, safe headers, forms that work without scripts."""

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from yarl import URL

from app.domain.counts import MAX_DAYS
from app.domain.errors import BrokerUnavailableError
from app.domain.outcomes import Outcome
from app.domain.positions import Position
from app.domain.records import registration_in
from app.web.http.urls import user_url
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


async def page(client: Client, path: str, status: int = 200) -> str:
    """Return a page's text, having checked that it is one."""
    answer = await client.get(URL(path, encoded=True), headers=BROWSER)
    assert (answer.status, answer.content_type) == (status, "text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return await answer.text()


async def test_the_same_address_is_a_page_or_json(client: Client, lookups: FakeLookups) -> None:
    user = lookups.add("ada", name="Ada King")
    assert "Ada King" in await page(client, "/users/ada")
    for accept in ("*/*", "application/json", "text/html;q=0.5, application/json"):
        answer = await client.get("/users/ada", headers={"Accept": accept})
        assert await answer.read() == user.encode()


async def test_home_lists_the_newest(client: Client, lookups: FakeLookups) -> None:
    lookups.add("a/b", name="<script>alert(1)</script>")
    text = await page(client, "/")
    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text
    assert 'href="/users/a%2Fb"' in text


async def test_home_says_which_workers_did_not_answer(client: Client, lookups: FakeLookups) -> None:
    assert "did not answer" not in await page(client, "/")
    lookups.unavailable = ["http://127.0.0.1:6067"]
    assert "did not answer" in await page(client, "/")


async def test_home_shows_how_many_users_there_are(client: Client, lookups: FakeLookups) -> None:
    assert 'data-plot="users"' not in await page(client, "/")
    today = datetime.now(UTC)
    for number in range(1_234):
        user = lookups.add(f"user-{number}")
        lookups.users[user.id] = user.model_copy(update={"registered_at": today})
    text = await page(client, "/")
    assert '<p class="plot-now">1,234</p>' in text
    assert f"<title>{today:%Y-%m-%d}: 1,234</title>" in text
    assert text.count("<title>") == 1 + MAX_DAYS  # that of the page, and of each day
    lookups.ready = False
    assert 'data-plot="users"' not in await page(client, "/")


@pytest.mark.parametrize("user_id", ["..", ".", "a/b", "%2F", "é 😀", "?#&=", "'\"<>"])
async def test_odd_ids_have_pages(client: Client, lookups: FakeLookups, user_id: str) -> None:
    lookups.add(user_id, name="Odd One")
    assert "Odd One" in await page(client, user_url(user_id))


async def test_an_unknown_user_is_a_page_that_says_so(client: Client) -> None:
    assert "&lt;nobody&gt;" in await page(client, "/users/%3Cnobody%3E", status=404)


async def test_the_form_registers_and_leads_to_the_user(
    client: Client, producer: FakeProducer, lookups: FakeLookups
) -> None:
    answer = await client.post("/register", data=ADA, headers=BROWSER, allow_redirects=False)
    assert answer.status == 303
    location = answer.headers["Location"]
    assert location.startswith("/users/ada?after=")
    assert [key for _, _, key, _ in producer.sent] == [b"ada"]
    waiting = await page(client, location, status=202)
    assert f'content="1;url={location}&amp;tries=1"' in waiting
    lookups.add("ada", name="Ada King")
    lookups.outcome_of_all = Outcome.REGISTERED
    assert "Ada King" in await page(client, location)


async def test_a_page_does_not_ask_for_ever(client: Client) -> None:
    waiting = await page(client, f"/users/ada?after={Position(7, 7).token()}&tries=60", status=202)
    assert "http-equiv" not in waiting
    assert "longer than usual" in waiting


async def test_who_comes_second_is_told(client: Client, lookups: FakeLookups) -> None:
    lookups.add("ada")
    first, second = Position(7, 6), Position(7, 7)
    lookups.outcomes = {first: Outcome.REGISTERED, second: Outcome.ID_TAKEN}
    told = "the registration that stands"
    assert told not in await page(client, f"/users/ada?after={first.token()}")
    assert told in await page(client, f"/users/ada?after={second.token()}")


async def test_who_wants_a_taken_address_is_told(client: Client, lookups: FakeLookups) -> None:
    lookups.outcome_of_all = Outcome.EMAIL_TAKEN
    rejected = await page(client, f"/users/ada?after={Position(7, 7).token()}", status=409)
    assert "belongs to another user" in rejected
    assert "Nobody is registered under" in rejected


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.reason])
async def test_every_rejection_is_told(
    client: Client, lookups: FakeLookups, outcome: Outcome
) -> None:
    address = f"/users/ada?after={Position(7, 7).token()}"
    lookups.outcome_of_all = Outcome.REGISTERED
    nothing_special = await page(client, address, status=404)
    lookups.outcome_of_all = outcome
    assert await page(client, address, status=409) != nothing_special


async def test_who_meets_a_full_queue_is_told_to_try_again(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.add("ada")
    lookups.outcome_of_all = Outcome.TOO_MANY_PENDING
    told = await page(client, f"/users/ada?after={Position(7, 7).token()}")
    assert "your request was rejected. Send it again." in told


async def test_people_find_a_user_by_email_in_the_same_box(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.add("ada", name="Ada King", email="ada@example.com")
    assert "Ada King" in await page(client, "/users?id=ada%40example.com")
    assert "Ada King" in await page(client, "/users?email=ada%40example.com")
    await page(client, "/users?email=eve%40example.com", status=404)


async def test_a_position_that_is_none_is_not_waited_for(client: Client) -> None:
    assert "Not a position token" in await page(client, "/users/ada?after=garbage", status=400)


async def test_the_form_of_a_dot_id_leads_to_its_query_address(client: Client) -> None:
    answer = await client.post("/register", data=ADA | {"id": ".."}, allow_redirects=False)
    location = urlsplit(answer.headers["Location"])
    assert (location.path, parse_qs(location.query)["id"]) == ("/users", [".."])


async def test_a_bad_form_is_shown_again_with_what_was_typed(
    client: Client, producer: FakeProducer
) -> None:
    typed = {"id": "ada", "name": '"Ada" <King>', "email": "nonsense"}
    answer = await client.post("/register", data=typed, headers=BROWSER)
    text = await answer.text()
    assert answer.status == 422
    assert "Must be an email address" in text
    assert "&lt;King&gt;" in text
    assert producer.sent == []


@pytest.mark.parametrize("missing", ["id", "name", "email"])
async def test_an_empty_field_is_told(client: Client, missing: str) -> None:
    answer = await client.post("/register", data=ADA | {missing: ""})
    assert answer.status == 422
    assert 'aria-invalid="true"' in await answer.text()


async def test_a_form_of_another_site_is_refused(client: Client, producer: FakeProducer) -> None:
    headers = {"Origin": "http://evil.example"}
    answer = await client.post("/register", data=ADA, headers=headers)
    assert (answer.status, producer.sent) == (403, [])
    headers = {"Origin": f"http://{client.host}:{client.port}"}
    answer = await client.post("/register", data=ADA, headers=headers, allow_redirects=False)
    assert answer.status == 303


async def test_a_person_sees_errors_as_a_page(
    client: Client, producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.ready = False
    assert "Service Unavailable" in await page(client, "/users/ada", status=503)
    assert "Not Found" in await page(client, "/nothing", status=404)
    producer.failure = BrokerUnavailableError("no broker takes records")
    answer = await client.post("/register", data=ADA, headers=BROWSER)
    assert (answer.status, answer.content_type) == (503, "text/html")
    assert "No broker takes records" in await answer.text()


async def test_readiness_has_reasons(client: Client, lookups: FakeLookups) -> None:
    assert (await client.get("/health/ready")).status == 200
    lookups.ready = False
    answer = await client.get("/health/ready")
    assert (answer.status, len((await answer.json())["reasons"])) == (503, 1)
    assert (await client.get("/health/live")).status == 200


async def test_static_files_are_served_and_nothing_beside_them(client: Client) -> None:
    assert (await client.get("/static/registry.css")).status == 200
    assert (await client.get(URL("/static/../pages.py", encoded=True))).status in {403, 404}


async def test_a_page_says_that_it_shows_a_copy(client: Client, lookups: FakeLookups) -> None:
    lookups.users["ada"] = lookups.add("ada").stale(2.1)
    assert "A copy, up to 3 s old" in await page(client, "/users/ada")
    lookups.add("ada")
    assert "A copy" not in await page(client, "/users/ada")


# -- changing and erasing a user


async def hidden(client: Client, path: str) -> dict[str, str]:
    """Return the fields that a form holds without showing them."""
    text = await page(client, path)
    return dict(re.findall(r'<input type="hidden" name="([a-z]+)" value="([^"]*)">', text))


async def send(client: Client, path: str, form: dict[str, str]) -> str:
    """Send a form; return where it leads."""
    answer = await client.post(path, data=form, headers=BROWSER, allow_redirects=False)
    assert answer.status == 303, await answer.text()
    return answer.headers["Location"]


async def test_a_user_is_changed_in_the_state_that_the_page_shows(
    client: Client, producer: FakeProducer, lookups: FakeLookups
) -> None:
    user = lookups.add("a/b", name="Ada <King>")
    assert 'href="/edit?id=a/b"' in await page(client, "/users/a%2Fb")
    form = await hidden(client, "/edit?id=a%2Fb")
    assert form == {"id": "a/b", "version": "1", "position": user.position}
    assert 'value="Ada &lt;King&gt;"' in await page(client, "/edit?id=a%2Fb")
    location = await send(client, "/edit", form | {"name": "B", "email": "b@example.com"})
    assert location.startswith("/users/a%2Fb?after=")
    assert orjson.loads(producer.sent[0][3] or b"") == {
        "type": "update",
        "id": "a/b",
        "name": "B",
        "email": "b@example.com",
        "ifVersion": 1,
        "ifPosition": user.position,
    }
    lookups.outcome_of_all = Outcome.VERSION_MISMATCH
    assert "had changed before your request" in await page(client, location)


async def test_what_is_wrong_with_a_change_is_shown_beside_its_field(
    client: Client, producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.add("ada")
    form = await hidden(client, "/edit?id=ada")
    answer = await client.post("/edit", data=form | {"name": "", "email": "no"}, headers=BROWSER)
    text = await answer.text()
    assert (answer.status, producer.sent) == (422, [])
    assert 'id="error-name"' in text
    assert 'id="error-email"' in text
    assert 'value="no"' in text


async def test_a_user_is_erased_after_a_question(
    client: Client, producer: FakeProducer, lookups: FakeLookups
) -> None:
    user = lookups.add("ada", name="Ada King")
    assert 'href="/erase?id=ada"' in await page(client, "/users/ada")
    asked = await page(client, "/erase?id=ada")
    assert "Ada King" in asked
    assert "cannot be undone" in asked
    location = await send(client, "/erase", await hidden(client, "/erase?id=ada"))
    assert orjson.loads(producer.sent[0][3] or b"") == {
        "type": "erase",
        "id": "ada",
        "ifVersion": 1,
        "ifPosition": user.position,
    }
    lookups.users.clear()
    lookups.outcome_of_all = Outcome.ERASED
    assert "Erased" in await page(client, location)


@pytest.mark.parametrize("path", ["/edit", "/erase"])
@pytest.mark.parametrize(
    "change",
    [{"version": ""}, {"version": "0"}, {"version": "1" * 16}, {"position": "x"}, {"id": None}],
)
async def test_a_form_that_names_no_state_changes_nothing(
    client: Client, producer: FakeProducer, lookups: FakeLookups, path: str, change: Any
) -> None:
    lookups.add("ada")
    form = await hidden(client, f"{path}?id=ada") | {"name": "B", "email": "b@x.co"} | change
    form = {name: value for name, value in form.items() if value is not None}
    answer = await client.post(path, data=form, headers=BROWSER, allow_redirects=False)
    assert (answer.status, producer.sent) == (400, [])


@pytest.mark.parametrize("path", ["/edit", "/erase"])
async def test_nobody_is_changed_from_another_site(
    client: Client, producer: FakeProducer, lookups: FakeLookups, path: str
) -> None:
    lookups.add("ada")
    form = await hidden(client, f"{path}?id=ada") | {"name": "B", "email": "b@x.co"}
    headers = BROWSER | {"Origin": "https://evil.example"}
    answer = await client.post(path, data=form, headers=headers, allow_redirects=False)
    assert (answer.status, producer.sent) == (403, [])
    for query in ("?id=nobody", ""):
        assert (await client.get(f"{path}{query}", headers=BROWSER)).status == 404


# -- an empty registry


async def test_an_empty_registry_offers_sample_users(
    client: Client, producer: FakeProducer, lookups: FakeLookups
) -> None:
    for path in ("/", "/users"):
        assert 'action="/samples"' in await page(client, path)
    assert await send(client, "/samples", {}) == "/"
    assert len(producer.sent) == len({key for _, _, key, _ in producer.sent}) == 1_000
    sent = [registration_in(value or b"") for *_, value in producer.sent]
    assert len({each["email"] for each in sent}) == 1_000
    lookups.add("ada")
    assert "/samples" not in await page(client, "/")
    assert await send(client, "/samples", {}) == "/"
    assert len(producer.sent) == 1_000


async def test_sample_users_that_cannot_be_written_are_told(
    client: Client, producer: FakeProducer
) -> None:
    producer.failure = BrokerUnavailableError("no broker")
    answer = await client.post("/samples", headers=BROWSER, allow_redirects=False)
    assert (answer.status, answer.content_type) == (503, "text/html")
    evil = BROWSER | {"Origin": "https://evil.example"}
    assert (await client.post("/samples", headers=evil)).status == 403

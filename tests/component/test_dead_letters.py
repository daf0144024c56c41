"""``GET /dead-letters``: what could not be applied, by cause, without what stands in it."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.config.settings import Settings
from app.dead_letters.letters import DeadLetters, Letter
from app.dead_letters.listing import by_cause
from app.dead_letters.recent import Recent
from app.domain.errors import (
    FencedError,
    NotReadyError,
    NotReplayedError,
    Unavailable,
    UnknownLetterError,
    UnreadableRecordError,
)
from app.domain.positions import Position
from app.kafka import topics
from app.web.routes import application_options, install
from app.web.services import Services
from tests.component.access import SECRET, add_key, bearer
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer
from tests.support.strategies import Record

BROWSER = {"Accept": "text/html"}
NOON_MS = 1_772_625_600_000


@dataclass
class FakeDeadLetters:
    """Has the letters that it was given."""

    letters: list[Letter] = field(default_factory=list)
    truncated: bool = False
    failure: Exception | None = None
    forgotten: int = 0

    def forget(self) -> None:
        """Count it."""
        self.forgotten += 1

    async def recent(self) -> Recent:
        """Return what was set."""
        if self.failure is not None:
            raise self.failure
        return Recent(by_cause(self.letters), self.letters, self.truncated)

    def add(self, offset: int, cause: str, detail: str = "detail") -> Letter:
        """Add the letter of a record with an id and a secret."""
        made = DeadLetters("user-registrations", "dead").letter(
            3,
            Record(b'{"id":"ada","secret":"body"}', offset, key=b"ada"),
            UnreadableRecordError(cause, detail),
        )
        letter = Letter.read(Record(made.value, 1, made.key, NOON_MS, made.headers))
        assert letter is not None
        self.letters.append(letter)
        return letter


@dataclass
class FakeReplays:
    """Replays everything as one record, or nothing."""

    failure: Exception | None = None
    asked: list[Position] = field(default_factory=list)

    async def replay(self, position: Position) -> Position:
        """Return a place in the same partition."""
        self.asked.append(position)
        if self.failure is not None:
            raise self.failure
        return Position(position.partition, 99)


@pytest.fixture
def replays() -> FakeReplays:
    """Return replays without a broker."""
    return FakeReplays()


@pytest.fixture
def dead_letters() -> FakeDeadLetters:
    """Return dead letters without a broker."""
    return FakeDeadLetters()


@pytest.fixture
async def client(
    producer: FakeProducer,
    lookups: FakeLookups,
    dead_letters: FakeDeadLetters,
    replays: FakeReplays,
) -> AsyncIterator[Client]:
    """Serve the web view and return a client of it."""
    settings = Settings()
    web_app = web.Application(**application_options(settings))
    services = Services(settings, topics.declare(settings).user_registrations, producer, lookups)
    install(web_app, replace(services, dead_letters=dead_letters, replays=replays))
    async with TestClient(TestServer(web_app)) as serving:
        yield serving


async def test_letters_are_told_by_cause_without_ids_and_bodies(
    client: Client, dead_letters: FakeDeadLetters
) -> None:
    dead_letters.add(7, "invalid-json")
    answer = await client.get("/dead-letters")
    assert (answer.status, answer.content_type) == (200, "application/json")
    time = "2026-03-04T12:00:00.000Z"
    assert await answer.json() == {
        "causes": [{"cause": "invalid-json", "count": 1, "oldest": time, "newest": time}],
        "letters": [
            {
                "position": Position(3, 7).token(),
                "topic": "user-registrations",
                "cause": "invalid-json",
                "detail": "detail",
                "time": time,
                "bytes": 31,
            }
        ],
        "truncated": False,
    }


async def test_people_get_a_page_that_names_the_command(
    client: Client, dead_letters: FakeDeadLetters
) -> None:
    letter = dead_letters.add(7, "invalid-json", detail="<script>alert(1)</script>")
    dead_letters.add(8, "unknown-type")
    answer = await client.get("/dead-letters", headers=BROWSER)
    text = await answer.text()
    assert (answer.status, answer.content_type) == (200, "text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert f"python -m app dead-letters show {letter.position.token()}" in text
    assert text.count("1 letter") == 2
    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text
    for hidden in ("ada", "secret", 'body"'):
        assert hidden not in text.partition("<main")[2]


async def test_an_empty_page_says_what_a_dead_letter_is(client: Client) -> None:
    text = await (await client.get("/dead-letters", headers=BROWSER)).text()
    assert "There are no dead letters" in text
    assert "cannot be applied" in text


async def test_a_page_that_has_not_all_says_so(
    client: Client, dead_letters: FakeDeadLetters
) -> None:
    dead_letters.truncated = True
    text = await (await client.get("/dead-letters", headers=BROWSER)).text()
    assert "There are no dead letters" not in text
    dead_letters.add(7, "invalid-json")
    text = await (await client.get("/dead-letters", headers=BROWSER)).text()
    assert "python -m app dead-letters list" in text
    assert (await (await client.get("/dead-letters")).json())["truncated"] is True


async def test_what_takes_too_long_is_tried_again(
    client: Client, dead_letters: FakeDeadLetters
) -> None:
    dead_letters.failure = NotReadyError(Unavailable.BROKER_SLOW)
    answer = await client.get("/dead-letters")
    assert answer.status == 503
    assert "Retry-After" in answer.headers


async def test_every_page_leads_to_the_dead_letters(client: Client) -> None:
    text = await (await client.get("/", headers=BROWSER)).text()
    assert 'href="/dead-letters"' in text


async def test_a_letter_is_replayed_by_its_button(
    client: Client, dead_letters: FakeDeadLetters, replays: FakeReplays
) -> None:
    token = dead_letters.add(7, "invalid-json").position.token()
    text = await (await client.get("/dead-letters", headers=BROWSER)).text()
    path = f"/dead-letters/{token}/replay"
    assert f'action="{path}" method="post"' in text
    answer = await client.post(path, headers=BROWSER, allow_redirects=False)
    assert answer.status == 303
    text = await (await client.get(answer.headers["Location"], headers=BROWSER)).text()
    assert f"/registrations/{Position(3, 99).token()}" in text
    assert replays.asked == [Position(3, 7)]
    assert dead_letters.forgotten == 1


@pytest.mark.parametrize(
    ("failure", "status", "name"),
    [
        (NotReplayedError("its id has a later record"), 409, "not-replayed"),
        (UnknownLetterError("there is no such dead letter"), 404, "unknown-letter"),
        (FencedError("another replay has begun"), 503, "not-ready"),
    ],
)
async def test_why_a_letter_is_not_replayed_is_told(
    client: Client, replays: FakeReplays, failure: Exception, status: int, name: str
) -> None:
    replays.failure = failure
    path = f"/dead-letters/{Position(3, 7).token()}/replay"
    told = await client.post(path)
    assert (told.status, told.content_type) == (status, "application/problem+json")
    assert (await told.json())["type"] == f"urn:user-registry:problem:{name}"
    shown = await client.post(path, headers=BROWSER)
    assert (shown.status, shown.content_type) == (status, "text/html")
    assert str(failure)[1:] in await shown.text()


async def test_a_program_is_told_where_the_record_is_now(client: Client) -> None:
    answer = await client.post(f"/dead-letters/{Position(3, 7).token()}/replay")
    assert answer.status == 200
    assert await answer.json() == {
        "position": Position(3, 7).token(),
        "replayed_as": Position(3, 99).token(),
    }


async def test_what_is_no_position_is_not_replayed(client: Client, replays: FakeReplays) -> None:
    assert (await client.post("/dead-letters/nonsense/replay")).status == 400
    assert replays.asked == []


async def test_another_sites_form_replays_nothing(client: Client, replays: FakeReplays) -> None:
    headers = {"Origin": "http://evil.example"}
    path = f"/dead-letters/{Position(3, 7).token()}/replay"
    assert (await client.post(path, headers=headers)).status == 403
    assert replays.asked == []


async def test_only_administrators_replay_and_only_by_a_form_of_their_session(
    producer: FakeProducer,
    lookups: FakeLookups,
    dead_letters: FakeDeadLetters,
    replays: FakeReplays,
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.json"
    writes, admins = add_key(path, "read", "write"), add_key(path, "admin")
    settings = Settings(keys_file=path, email_secret=SECRET)
    web_app = web.Application(**application_options(settings))
    services = Services(settings, topics.declare(settings).user_registrations, producer, lookups)
    install(web_app, replace(services, dead_letters=dead_letters, replays=replays))
    token = dead_letters.add(7, "invalid-json").position.token()
    target = f"/dead-letters/{token}/replay"
    async with TestClient(TestServer(web_app)) as client:
        assert (await client.post(target)).status == 401
        assert (await client.post(target, headers=bearer(writes))).status == 403
        assert replays.asked == []
        assert (await client.post(target, headers=bearer(admins))).status == 200
        await client.post("/login", data={"key": admins}, allow_redirects=False)
        assert (await client.post(target, headers=BROWSER)).status == 403
        shown = await (await client.get("/dead-letters", headers=BROWSER)).text()
        csrf = re.findall(r'name="csrf" value="([0-9a-f]{64})"', shown)[-1]
        form = {"csrf": csrf}
        answer = await client.post(target, data=form, headers=BROWSER, allow_redirects=False)
        assert answer.status == 303
    assert len(replays.asked) == 2

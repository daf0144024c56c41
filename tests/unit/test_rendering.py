"""Pages as text: escaped, labelled, and free of anything that their security policy forbids."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.web import rendering
from app.web.rendering import UserCard

HOSTILE = "<script>alert('1')</script>\"'&"
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def card(user_id: str = "ada", name: str = "Ada") -> UserCard:
    """Return a user to show."""
    return UserCard(
        id=user_id,
        name=name,
        email="ada@example.com",
        status="registered",
        registered_at=AT,
        updated_at=AT,
        version=1,
        url="/users/ada",
    )


PAGES: dict[str, Callable[[str], str]] = {
    "home": lambda text: rendering.home([card(text, text)], [text], text),
    "empty home": lambda text: rendering.home([], (), text),
    "register": lambda text: rendering.register(
        {"id": text, "name": text, "email": text}, {"email": text, "": text}, text
    ),
    "user": lambda text: rendering.user(card(text, text), text, text),
    "accepted": lambda text: rendering.accepted(text, text, "/users/ada?after=p"),
    "not found": rendering.not_found,
    "problem": lambda text: rendering.problem(503, text, text),
}


@pytest.fixture(params=PAGES)
def hostile_page(request: pytest.FixtureRequest) -> str:
    """Return each page, showing text that would like to be markup."""
    return PAGES[request.param](HOSTILE)


def test_text_is_never_markup(hostile_page: str) -> None:
    assert "<script>" not in hostile_page
    assert HOSTILE not in hostile_page


def test_nothing_breaks_the_security_policy(hostile_page: str) -> None:
    assert not re.search(r"\sstyle\s*=|<style|\son[a-z]+\s*=", hostile_page)
    assert re.findall(r"<script[^>]*>", hostile_page) == [
        '<script src="/static/registry.js" defer>'
    ]
    sources = re.findall(r'(?:src|href|action)="([^"]*)"', hostile_page)
    assert sources
    assert all(source.startswith(("/", "#")) for source in sources)


def test_every_page_has_language_title_and_landmarks(hostile_page: str) -> None:
    assert '<html lang="en">' in hostile_page
    assert re.search(r"<title>[^<]+ · User registry</title>", hostile_page)
    for landmark in ("<header", "<nav aria-label", '<main id="main"', 'href="#main"'):
        assert landmark in hostile_page
    assert hostile_page.count("<h1") == 1


def test_an_empty_registry_says_what_to_do() -> None:
    page = rendering.home([], base_url="http://127.0.0.1:7000")
    assert "Nobody is registered yet" in page
    assert "curl -X POST http://127.0.0.1:7000/users" in page
    assert 'href="/register"' in page


def test_a_list_that_may_lack_users_says_so_instead_of_being_empty() -> None:
    page = rendering.home([], ["http://127.0.0.1:6067"])
    assert "1 worker did not answer" in page
    assert "Nobody is registered yet" not in page


def test_an_error_is_tied_to_its_field() -> None:
    page = rendering.register({"email": "x"}, {"email": "Must be an email address"}, None)
    (field,) = re.findall(r'<input id="field-email".*?>', page, re.DOTALL)
    assert 'aria-invalid="true"' in field
    assert 'aria-describedby="hint-email error-email"' in field
    assert 'value="x"' in field
    assert 'id="error-email">Must be an email address' in page
    assert page.count('aria-invalid="true"') == 1


def test_a_fresh_form_complains_of_nothing() -> None:
    page = rendering.register({}, {}, None)
    assert "aria-invalid" not in page
    assert 'role="alert"' not in page


def test_times_are_shown_in_utc_and_given_to_programs() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5)))
    shown = card()
    page = rendering.user(
        UserCard(
            id=shown.id,
            name=shown.name,
            email=shown.email,
            status=shown.status,
            registered_at=elsewhere,
            updated_at=AT,
            version=1,
            url=shown.url,
        ),
        None,
    )
    assert page.count("4 Mar 2026, 05:06:07 UTC") == 2
    assert 'datetime="2026-03-04T05:06:07+00:00"' in page


def test_a_command_line_survives_any_address() -> None:
    page = rendering.user(card(), None, "http://x';rm -rf /;'")
    assert "http://x&#39;&#34;&#39;&#34;&#39;;rm" in page


def test_spaces_in_an_id_are_kept() -> None:
    assert "<bdi>a  b</bdi>" in rendering.not_found("a  b")

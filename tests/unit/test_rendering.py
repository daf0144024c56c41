"""Pages: what anyone typed is text, the form says what is wrong, and nothing is inline."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest

from app.web.http.urls import user_url
from app.web.pages import rendering
from app.web.pages.rendering import CauseRow, LastWrite, LetterRow, Replayed, UserCard

NOON = datetime(2026, 3, 4, 12, 0, 5, tzinfo=UTC)
SCRIPT = "<script>alert('x')</script>"
ODD_TEXTS = [
    SCRIPT,
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "..",
    "a/b?c=d&e#f%2F",
    "   ",
    "\u202elive\u202c محمد",
    "👩‍🚀" * 32,
    "W" * 128,
    "it's; rm -rf $HOME `x`",
]

Attributes = Mapping[str, str | None]


class Page(HTMLParser):
    """A page, taken apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.text_in: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.text_in[tag] = self.text_in.get(tag, "") + data

    def all(self, tag: str) -> list[Attributes]:
        return [attributes for name, attributes in self.elements if name == tag]

    def one(self, tag: str, **wanted: str) -> Attributes:
        found = [a for a in self.all(tag) if wanted.items() <= a.items()]
        assert len(found) == 1, (tag, wanted, found)
        return found[0]

    def ids(self) -> list[str]:
        return [str(a["id"]) for _, a in self.elements if "id" in a]

    def text(self, tag: str) -> str:
        return " ".join(self.text_in.get(tag, "").split())


def a_card(user_id: str = "ada", name: str = "Ada Lovelace") -> UserCard:
    return UserCard(
        id=user_id,
        name=name,
        email="ada@example.com",
        status="registered",
        registered_at=NOON,
        updated_at=NOON + timedelta(hours=1),
        version=3,
        position="AQAAAAAAAgAAAAAAAAAA",
        url=user_url(user_id),
    )


def every_page(text: str) -> dict[str, str]:
    card = replace(a_card(text, text), email=text, status=text)
    values = dict.fromkeys(("id", "name", "email"), text)
    return {
        "home": rendering.home([card], [text]),
        "empty home": rendering.home([]),
        "form": rendering.register({}, {}, None),
        "refused form": rendering.register(values, {**values, "type": text}, text),
        "user": rendering.user(card, text, last=LastWrite("AQAA", text)),
        "user who may be changed": rendering.user(card, text, may_edit=True, may_erase=True),
        "edit": rendering.edit(card, values, {}),
        "refused edit": rendering.edit(card, values, values),
        "erase": rendering.erase(card),
        "erased": rendering.erased(text),
        "users": rendering.users([card], text, "/users?cursor=a", is_first=False),
        "no users": rendering.users([], "", None),
        "dead letters": rendering.dead_letters(
            [CauseRow("cause", 2, NOON, NOON), CauseRow(text, 2, NOON, NOON)],
            [LetterRow("AQAA", text, "cause", text, NOON, 7, text)],
            True,
            Replayed("AQAA", refused=text),
        ),
        "accepted": rendering.accepted(text, "AQAA", f"{user_url(text)}?after=AQAA"),
        "not found": rendering.not_found(text),
        "problem": rendering.problem(503, text, text),
    }


def test_letters_of_a_cause_are_replayed_by_one_command() -> None:
    letters = [LetterRow("AQAA", "topic", "invalid-json", "why", NOON, 7, None)]

    def commands(*causes: CauseRow) -> str:
        return Page(rendering.dead_letters(causes, letters, True)).text("code")

    told = commands(CauseRow("invalid-json", 2, NOON, NOON), CauseRow("$(id) `id`", 3, NOON, NOON))
    assert "python -m app dead-letters replay --where cause=invalid-json" in told
    assert "--where 'cause=$(id) `id`'" in told
    assert "--where" not in commands(CauseRow("invalid-json", 1, NOON, NOON))


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_whatever_was_typed_is_text(text: str) -> None:
    plain = every_page("plain")
    for name, html in every_page(text).items():
        # The class of a heading or a badge may follow the value; which elements there are may not.
        tags = [tag for tag, _ in Page(html).elements]
        assert tags == [tag for tag, _ in Page(plain[name]).elements], name


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_the_content_security_policy_holds(text: str) -> None:
    for html in every_page(text).values():
        page = Page(html)
        assert "style" not in page.text_in
        assert "script" not in page.text_in
        for _, attributes in page.elements:
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("href", "src", "action"):
                assert re.match(r"/(?!/)|#|$", attributes.get(name) or "")
            assert "formaction" not in attributes


@pytest.mark.parametrize("text", ["plain", SCRIPT])
def test_every_page_has_a_language_a_title_landmarks_and_one_heading(text: str) -> None:
    titles = set()
    for html in every_page(text).values():
        page = Page(html)
        titles.add(page.text("title"))
        assert html.startswith("<!doctype html>")
        assert page.one("html")["lang"] == "en"
        assert page.text("title").endswith(" · User registry")
        for landmark in ("header", "nav", "main", "footer", "h1"):
            assert page.text(landmark), landmark
        assert len(page.all("h1")) == len(page.all("main")) == 1
        assert page.one("a", **{"class": "skip"})["href"] == "#" + str(page.one("main")["id"])
        assert len(page.ids()) == len(set(page.ids()))
    assert len(titles) > 5


def test_every_field_has_a_label_and_every_description_exists() -> None:
    for html in every_page("plain").values():
        page = Page(html)
        labels = {label["for"] for label in page.all("label")}
        for field in page.all("input"):
            if field["type"] == "hidden":
                continue
            assert field["id"] in labels
            assert set(str(field["aria-describedby"]).split()) <= set(page.ids())


def test_files_that_pages_name_are_there() -> None:
    static = Path(rendering.__file__).parent / "static"
    page = Page(rendering.home([]))
    named = [a.get("src") or a.get("href") for t in ("script", "img", "link") for a in page.all(t)]
    assert len(named) == 5
    for address in named:
        assert (static / str(address).removeprefix("/static/")).is_file()


def test_home_lists_the_latest_in_the_order_given_and_says_how_many() -> None:
    page = Page(rendering.home([a_card("b", "Grace"), a_card("a/..", "Ada")]))
    rows = [a["href"] for a in page.all("a") if a.get("class") == "row"]
    assert rows == ["/users/b", "/users/a%2F.."]
    assert "The latest 2, newest first" in page.text("main")
    assert page.text("li").index("Grace") < page.text("li").index("Ada")


def test_home_says_the_latest_one_of_a_single_registration() -> None:
    assert "The latest one" in Page(rendering.home([a_card()])).text("main")


def test_home_finds_a_user_by_exact_id() -> None:
    page = Page(rendering.home([]))
    form = page.one("form", role="search")
    assert (form["action"], form["method"]) == ("/users", "get")
    field = page.one("input", name="id")
    # No maxlength: browsers count UTF-16 units, and would cut a legal id of 128 emoji.
    assert "required" in field
    assert "maxlength" not in field


def test_an_empty_home_tells_what_to_do() -> None:
    page = Page(rendering.home([], base_url="http://registry.test:8080"))
    assert "Nobody is registered yet" in page.text("h3")
    assert page.one("a", **{"class": "button"})["href"] == "/register"
    assert page.text("code") == (
        "curl -X POST http://registry.test:8080/users \\ "
        "-H 'Content-Type: application/json' \\ "
        """-d '{"id": "ada", "name": "Ada Lovelace", "email": "ada@example.com"}'"""
    )


@pytest.mark.parametrize(
    ("workers", "note"),
    [(["w1"], "1 worker did not answer"), (["w1", "w2"], "2 workers did not answer")],
)
def test_home_says_that_the_list_may_be_incomplete(workers: list[str], note: str) -> None:
    for latest in ([], [a_card()]):
        page = Page(rendering.home(latest, workers))
        assert f"{note}; the list may be incomplete." in page.text("main")
        assert "Nobody is registered yet" not in page.text("main")


def test_home_marks_only_those_that_are_not_registered_yet() -> None:
    pending = replace(a_card("b"), status="pending")
    page = Page(rendering.home([a_card("a"), pending]))
    assert [a["class"] for a in page.all("span") if "badge" in str(a["class"])] == ["badge"]


def test_the_form_sends_what_the_server_takes() -> None:
    page = Page(rendering.register({}, {}, None))
    form = page.one("form")
    assert (form["action"], form["method"]) == ("/register", "post")
    # Browsers count UTF-16 units, of which a character has two at most.
    limits = {field["name"]: field["maxlength"] for field in page.all("input")}
    assert limits == {"id": "256", "name": "512", "email": "508"}
    assert all("required" in field for field in page.all("input"))
    email = page.one("input", name="email")
    assert (email["type"], email["inputmode"], email["autocomplete"]) == ("text", "email", "email")


def test_a_fresh_form_complains_of_nothing() -> None:
    html = rendering.register({}, {}, None)
    assert "aria-invalid" not in html
    assert 'role="alert"' not in html


def test_a_refused_form_keeps_what_was_typed() -> None:
    values = {"id": 'a"b', "name": SCRIPT, "email": "no address"}
    page = Page(rendering.register(values, {"email": "Must be an address"}, None))
    assert {field["name"]: field["value"] for field in page.all("input")} == values


def test_errors_are_beside_their_fields_and_in_a_summary_that_leads_there() -> None:
    page = Page(rendering.register({}, {"email": "Must be an address"}, None))
    email = page.one("input", name="email")
    assert email["aria-invalid"] == "true"
    assert "error-email" in str(email["aria-describedby"]).split()
    assert page.one("p", id="error-email")
    assert "aria-invalid" not in page.one("input", name="id")
    assert page.one("div", role="alert")
    assert page.one("a", href=f"#{email['id']}")
    assert page.text("main").count("Must be an address") == 2
    assert page.text("title").startswith("Error:")


def test_an_error_of_no_field_and_a_problem_are_shown_in_the_summary() -> None:
    page = Page(rendering.register({}, {"type": "Must be a registration"}, "Try again later"))
    assert page.one("div", role="alert")
    assert "Try again later" in page.text("h2")
    assert "type: Must be a registration" in page.text("li")


def test_a_user_is_shown_whole() -> None:
    page = Page(rendering.user(a_card(), None))
    for shown in ("ada", "ada@example.com", "4 Mar 2026, 13:00:05 UTC", "3"):
        assert shown in page.text("dd")
    assert page.text("h1") == "Ada Lovelace"
    assert page.one("span", **{"class": "badge badge-done"})
    assert [time["datetime"] for time in page.all("time")] == [
        "2026-03-04T12:00:05+00:00",
        "2026-03-04T13:00:05+00:00",
    ]


def test_a_banner_comes_before_the_user() -> None:
    text = Page(rendering.user(a_card(), "Already there.")).text("main")
    assert text.index("Already there.") < text.index("Ada Lovelace")


def test_a_command_line_quotes_what_a_shell_would_read() -> None:
    card = replace(a_card(), url="/users?id=..&x='")
    page = Page(rendering.user(card, None, base_url="http://registry.test"))
    command = "curl -H 'Accept: application/json' 'http://registry.test/users?id=..&x='\"'\"''"
    assert command in page.text("pre")


def test_spaces_in_an_id_are_kept() -> None:
    assert "<bdi>a  b</bdi>" in rendering.not_found("a  b")


def test_times_are_shown_in_utc() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    html = rendering.home([replace(a_card(), registered_at=elsewhere)])
    assert "4 Mar 2026, 12:00:05 UTC" in html


def test_an_accepted_registration_leads_to_its_user_without_a_script() -> None:
    refresh_url = "/users?id=..&after=AQAA"
    page = Page(rendering.accepted("..", "AQAA", refresh_url))
    assert page.one("meta", **{"http-equiv": "refresh"})["content"] == f"1;url={refresh_url}"
    assert page.one("a", **{"class": "button"})["href"] == refresh_url
    assert "AQAA" in page.text("dd")


def test_an_unknown_id_can_be_corrected_or_registered() -> None:
    page = Page(rendering.not_found("adda"))
    assert page.one("input", name="id")["value"] == "adda"
    assert page.one("a", **{"class": "button"})["href"] == "/register"


@pytest.mark.parametrize("status", [400, 403, 404, 413, 418, 422, 429, 500, 503])
def test_a_problem_says_what_happened_and_what_to_do(status: int) -> None:
    page = Page(rendering.problem(status, "Title", "Detail."))
    assert page.text("h1") == "Title"
    assert re.match(rf"{status} Title Detail\. \w.+\. Go to", page.text("main"))
    assert page.one("a", **{"class": "button"})["href"] == "/"

"""What people watch and work with: the overview as it goes, the list of users, dead letters."""

import re
import uuid
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PHONE, SCREENSHOTS
from tests.browser.test_pages import fresh, post
from tests.support import kafka
from tests.support.letters import leave_letter
from tests.support.worker import PARTITIONS, Registry, Worker, email_of, wait_until

Screenshot = Callable[[str], Path]


def produce(worker: Worker, value: bytes, **record: object) -> None:
    """Write a record to user-registrations, as any producer may."""
    registry = worker.registry
    kafka.produce(registry.brokers, registry.registrations, [{"value": value, **record}])


def wait_for_letters(worker: Worker, wanted: int) -> None:
    """Wait until there are so many dead letters at least."""

    wait_until(lambda: letters_of(worker) >= wanted, 15, f"{wanted} dead letters")


def letters_of(worker: Worker) -> int:
    """Return how many dead letters there are."""
    return sum(cause["count"] for cause in worker.get("/dead-letters").json()["causes"])


def test_a_registration_is_seen_live(page: Page, worker: Worker, screenshot: Screenshot) -> None:
    page.goto("/")
    expect(page.locator("#live-state")).to_have_text("Live")
    loads: list[str] = []
    page.on("load", lambda loaded: loads.append(loaded.url))
    user_id = fresh("live")
    post(worker, user_id, "Seen Live")
    listed = page.get_by_role("listitem").filter(has_text=user_id)
    expect(listed).to_be_visible()
    assert loads == []
    for number in range(40):
        post(worker, f"{user_id}-{number}", f"Person {number}")
    post(worker, user_id, "Somebody Else")
    expect(page.locator("[data-plot=outcomes] .keys")).to_contain_text("registered")
    page.get_by_text("The numbers as a table").click()
    expect(page.locator("#numbers")).to_contain_text("Outcome registered")
    page.get_by_text("The numbers as a table").click()
    expect(page.locator("#owners .cell-owned")).to_have_count(PARTITIONS)
    screenshot("overview")
    page.emulate_media(color_scheme="dark")
    screenshot("overview-dark")


def test_the_overview_fits_a_phone(page: Page, worker: Worker, screenshot: Screenshot) -> None:
    page.set_viewport_size(PHONE)
    page.goto("/")
    expect(page.locator("#live-state")).to_have_text("Live")
    post(worker, fresh("phone"), "On A Phone")
    screenshot("overview-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_users_are_searched_and_paged(page: Page, worker: Worker, screenshot: Screenshot) -> None:
    prefix = fresh("paged") + "-"
    rows = [
        {"id": f"{prefix}{n:02}", "name": f"Person {n}", "email": email_of(f"{prefix}{n}")}
        for n in range(60)
    ]
    worker.post("/users/batch", json=rows)
    for row in rows:
        worker.wait_for_user(row["id"])
    page.goto("/users")
    page.keyboard.press("/")
    expect(page.get_by_label("Ids that begin with")).to_be_focused()
    page.keyboard.type(prefix)
    page.keyboard.press("Enter")
    listed = page.get_by_role("main").get_by_role("listitem")
    expect(listed).to_have_count(50)
    screenshot("users")
    page.get_by_role("link", name="Next page").focus()
    page.keyboard.press("Enter")
    expect(listed).to_have_count(10)
    expect(page.get_by_role("link", name="Next page")).to_have_count(0)
    page.go_back()
    expect(listed).to_have_count(50)
    listed.first.get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Person 0")
    expect(page.get_by_role("main")).to_contain_text("Last write")
    page.goto(f"/users?prefix={uuid.uuid4().hex}")
    expect(page.get_by_role("main")).to_contain_text("No id begins with")
    screenshot("users-none")


def test_a_dead_letter_is_replayed_or_refused_by_its_button(
    page: Page, worker: Worker, screenshot: Screenshot
) -> None:
    before = letters_of(worker)
    mended, broken = fresh("mended"), fresh("broken")
    value = orjson.dumps({"id": mended, "name": "Mended", "email": email_of(mended)})
    position = leave_letter(worker.registry, mended, value)
    produce(worker, b'{"id": "' + broken.encode(), key=broken.encode())
    wait_for_letters(worker, before + 2)
    page.goto("/dead-letters")
    screenshot("dead-letters")
    page.get_by_role("region", name=re.compile("json")).get_by_role("button").first.click()
    expect(page.get_by_role("alert")).to_contain_text("still cannot be read")
    screenshot("dead-letter-refused")
    wrong = page.get_by_role("listitem").filter(has_text=position).first
    wrong.get_by_role("button", name="Replay").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Replayed")
    screenshot("dead-letter-replayed")
    worker.wait_for_user(mended)


def test_lists_fit_a_phone_and_the_dark(page: Page, worker: Worker, screenshot: Screenshot) -> None:
    produce(worker, b"x" * 200)
    wait_for_letters(worker, 1)
    page.set_viewport_size(PHONE)
    for name, path in {"users": "/users", "dead-letters": "/dead-letters"}.items():
        page.goto(path)
        screenshot(f"{name}-phone")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        page.emulate_media(color_scheme="dark")
        screenshot(f"{name}-phone-dark")
        page.emulate_media(color_scheme="light")


@pytest.mark.parametrize("path", ["/", "/users"])
def test_a_slash_leads_to_the_search_and_is_typed_in_it(page: Page, path: str) -> None:
    page.goto(path)
    page.keyboard.press("/")
    search = page.get_by_role("search").get_by_role("textbox")
    expect(search).to_be_focused()
    page.keyboard.press("/")
    expect(search).to_have_value("/")


def test_an_empty_registry_tells_what_to_do_and_fills_live(
    browser: Browser, registry: Registry
) -> None:
    with registry.worker() as worker, browser.new_context(base_url=worker.url) as context:
        page = context.new_page()
        page.goto("/")
        expect(page.locator("#live-state")).to_have_text("Live")
        expect(page.get_by_role("link", name="Register the first user")).to_be_visible()
        expect(page.get_by_role("main")).to_contain_text("curl -X POST")
        page.screenshot(path=SCREENSHOTS / "overview-empty.png", full_page=True)
        user_id = fresh("first")
        post(worker, user_id, "The First")
        expect(page.get_by_role("listitem").filter(has_text=user_id)).to_be_visible()
        expect(page.get_by_text("Nobody is registered yet")).to_have_count(0)

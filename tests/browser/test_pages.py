"""The pages in a real browser: register, see it listed, search, open; by keyboard; on a phone."""

import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.web.http.urls import user_url
from tests.browser.conftest import PHONE
from tests.support.worker import Worker, email_of

Screenshot = Callable[[str], Path]


def fresh(prefix: str = "page") -> str:
    """Return an id that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def fill_form(page: Page, user_id: str, name: str, email: str | None = None) -> None:
    """Fill the form in and send it."""
    page.goto("/register")
    page.get_by_label("Id").fill(user_id)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Email").fill(email or email_of(user_id))
    page.get_by_role("button", name="Register").click()


def expect_user(page: Page, name: str) -> None:
    """Expect the page of a user."""
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def post(worker: Worker, user_id: str, name: str) -> None:
    """Register a user without a browser, and wait until it is found."""
    worker.post("/users", json={"id": user_id, "name": name, "email": email_of(user_id)})
    worker.wait_for_user(user_id)


def test_a_person_registers_and_sees_the_user_and_the_list(
    page: Page, screenshot: Screenshot
) -> None:
    user_id, name = fresh("ada"), "Ada Lovelace"
    page.goto("/register")
    screenshot("register")
    fill_form(page, user_id, name)
    expect_user(page, name)
    expect(page.get_by_text(user_id, exact=True)).to_be_visible()
    screenshot("user")
    page.get_by_role("navigation").get_by_role("link", name="Home").click()
    listed = page.get_by_role("listitem").filter(has_text=user_id)
    expect(listed).to_be_visible()
    screenshot("home")
    listed.get_by_role("link").click()
    expect_user(page, name)


def test_a_user_is_found_by_id(page: Page, worker: Worker) -> None:
    user_id = fresh()
    post(worker, user_id, "Grace Hopper")
    page.goto("/")
    page.get_by_role("search").get_by_role("textbox").fill(user_id)
    page.get_by_role("search").get_by_role("button").click()
    expect_user(page, "Grace Hopper")


def test_an_unknown_id_is_told_with_a_way_on(page: Page, screenshot: Screenshot) -> None:
    page.goto("/")
    page.get_by_role("search").get_by_role("textbox").fill("nobody at all")
    page.get_by_role("search").get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("No such user")
    expect(page.get_by_role("main")).to_contain_text("nobody at all")
    screenshot("not-found")
    page.get_by_role("main").get_by_role("link", name="Register").click()
    expect(page).to_have_url(re.compile("/register$"))


def test_a_mistake_is_told_beside_its_field_and_costs_no_typing(
    page: Page, screenshot: Screenshot
) -> None:
    user_id = fresh()
    fill_form(page, user_id, "Ada", "nonsense")
    email = page.get_by_label("Email")
    expect(email).to_have_attribute("aria-invalid", "true")
    expect(email).to_have_accessible_description(re.compile("Must be an email address"))
    expect(email).to_have_value("nonsense")
    expect(page.get_by_label("Id")).to_have_value(user_id)
    screenshot("register-errors")
    email.fill(email_of(user_id))
    page.get_by_role("button", name="Register").click()
    expect_user(page, "Ada")


def test_who_comes_second_sees_what_stands(page: Page, worker: Worker) -> None:
    user_id = fresh()
    post(worker, user_id, "The First")
    fill_form(page, user_id, "The Second")
    expect_user(page, "The First")
    expect(page.get_by_role("status")).to_contain_text("the registration that stands")


def test_who_wants_anothers_address_is_told(
    page: Page, worker: Worker, screenshot: Screenshot
) -> None:
    holder, other = fresh(), fresh()
    post(worker, holder, "The Holder")
    fill_form(page, other, "The Other", email_of(holder).upper())
    expect(page.get_by_role("status")).to_contain_text("belongs to another user")
    screenshot("email-taken")
    page.get_by_role("search").get_by_role("textbox").fill(email_of(holder))
    page.get_by_role("search").get_by_role("button").click()
    expect_user(page, "The Holder")


def test_a_name_is_text_whatever_it_looks_like(page: Page) -> None:
    name = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    user_id = fresh()
    fill_form(page, user_id, name)
    expect_user(page, name)
    page.goto("/")
    expect(page.get_by_role("listitem").filter(has_text=user_id)).to_contain_text(name)


@pytest.mark.parametrize(
    "user_id", ["..", ".", "a/b?c#d%2F é😀", "100%", "<b>&amp;", 'quo"te', "\u202eabc", "/"]
)
def test_odd_ids_work_by_clicking(page: Page, user_id: str) -> None:
    unique = user_id if user_id in {".", ".."} else f"{user_id}{uuid.uuid4().hex[:8]}"
    fill_form(page, unique, f"Odd {unique}")
    # The two that cannot be unique may have been registered long before, by another test, under a
    # name that many have: only their address tells them.
    expect(page.get_by_text(unique, exact=True).first).to_be_visible()
    name = page.get_by_role("heading", level=1).inner_text()
    page.goto("/users")
    page.get_by_role("search").get_by_role("textbox").fill(unique)
    page.get_by_role("search").get_by_role("button").click()
    page.locator(f'a[href="{user_url(unique)}"]').click()
    expect_user(page, name)
    assert page.url.endswith(user_url(unique))


def test_the_interface_can_be_read_and_tried_offline(
    page: Page, worker: Worker, screenshot: Screenshot
) -> None:
    user_id = fresh()
    post(worker, user_id, "Tried Out")
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: (
            elsewhere.append(request.url) if not request.url.startswith(worker.url) else None
        ),
    )
    page.goto("/docs")
    operation = page.locator(".opblock-get").filter(has_text="/users/{id}")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("id").fill(user_id)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text("Tried Out")
    screenshot("docs")
    assert elsewhere == []


def test_the_longest_id_may_be_emoji(page: Page) -> None:
    user_id = uuid.uuid4().hex + "\N{GRINNING FACE}" * 96
    fill_form(page, user_id, "Emoji")
    expect_user(page, "Emoji")
    expect(page.get_by_text(user_id, exact=True)).to_be_visible()


def test_the_form_works_by_keyboard_alone(page: Page) -> None:
    page.goto("/register")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    for text in (fresh(), "Kay Board", "kay@example.com"):
        page.keyboard.press("Tab")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect_user(page, "Kay Board")


def test_the_form_works_without_scripts(browser: Browser, registry_url: str) -> None:
    with browser.new_context(base_url=registry_url, java_script_enabled=False) as context:
        page = context.new_page()
        fill_form(page, fresh(), "No Scripts")
        expect_user(page, "No Scripts")


def test_a_person_changes_a_user_and_erases_it(
    page: Page, worker: Worker, screenshot: Screenshot
) -> None:
    user_id = fresh("ada")
    post(worker, user_id, "Ada")
    page.goto(user_url(user_id))
    page.get_by_role("link", name="Edit").click()
    expect(page.get_by_label("Name")).to_have_value("Ada")
    screenshot("edit")
    page.get_by_label("Name").fill("Ada King")
    page.get_by_role("button", name="Save").click()
    expect_user(page, "Ada King")
    page.get_by_role("link", name="Erase").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Erase")
    screenshot("erase")
    page.emulate_media(color_scheme="dark")
    screenshot("erase-dark")
    page.get_by_role("button", name="Erase this user").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Erased")
    assert worker.get(user_url(user_id)).status_code == 404


def test_who_changes_what_another_has_changed_is_told(page: Page, worker: Worker) -> None:
    user_id = fresh("ada")
    post(worker, user_id, "Ada")
    page.goto(f"/edit?id={user_id}")
    page.get_by_label("Name").fill("Mine")
    other = worker.http.patch(worker.url + user_url(user_id), json={"name": "Theirs"}, timeout=15)
    assert other.status_code == 202
    page.get_by_role("button", name="Save").click()
    expect_user(page, "Theirs")
    expect(page.get_by_role("status")).to_contain_text("had changed before your request")


def test_times_are_local_and_utc_is_there_on_hover(
    browser: Browser, registry_url: str, worker: Worker
) -> None:
    user_id = fresh()
    post(worker, user_id, "Far Away")
    with browser.new_context(base_url=registry_url, timezone_id="Pacific/Auckland") as context:
        page = context.new_page()
        page.goto(user_url(user_id))
        registered = page.locator("time").first
        expect(registered).to_have_attribute("title", re.compile("UTC$"))
        expect(registered).to_have_text(re.compile(r"GMT\+1[23]$"))


def test_nothing_is_wider_than_a_phone(page: Page, worker: Worker, screenshot: Screenshot) -> None:
    user_id = ("x" * 100 + uuid.uuid4().hex)[:128]
    post(worker, user_id, "Ž" * 256)
    page.set_viewport_size(PHONE)
    shown = {
        "home": "/",
        "register": "/register",
        "user": user_url(user_id),
        "edit": f"/edit?id={user_id}",
        "erase": f"/erase?id={user_id}",
        "not-found": "/users/" + "y" * 128,
    }
    for name, path in shown.items():
        page.goto(path)
        screenshot(f"{name}-phone")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


def test_pages_are_dark_for_who_likes_it_dark(page: Page, screenshot: Screenshot) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    page.goto("/")
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != light
    screenshot("home-dark")
    page.goto("/register")
    screenshot("register-dark")

"""Where keys are asked for: log in with one in a real browser, register, log out."""

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.access.files import write_keys
from app.access.keys import new_key
from app.access.scopes import Scope
from local.broker import Broker
from tests.browser.conftest import PHONE
from tests.support.worker import Registry, email_of

Screenshot = Callable[[str], Path]


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the keys are."""
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(keys_file: Path) -> str:
    """Return a key that reads and writes."""
    text, key = new_key("people", frozenset({Scope.READ, Scope.WRITE}), None)
    write_keys(keys_file, (key,))
    return text


@pytest.fixture(scope="module")
def registry_url(
    broker: Broker, key: str, keys_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run a worker that asks for keys."""
    settings = {"KEYS_FILE": str(keys_file), "EMAIL_SECRET": uuid.uuid4().hex}
    registry = Registry(broker.address, tmp_path_factory.mktemp("login"), settings=settings)
    with registry.worker() as running:
        yield running.url


def log_in(page: Page, key: str) -> None:
    """Fill the form in and send it."""
    page.get_by_label("Access key").fill(key)
    page.get_by_role("button", name="Log in").click()


def test_a_person_logs_in_registers_a_user_and_logs_out(
    page: Page, key: str, screenshot: Screenshot
) -> None:
    user_id = f"login-{uuid.uuid4().hex}"
    page.goto("/register")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    screenshot("login")
    log_in(page, key)
    expect(page.get_by_role("heading", level=1)).to_have_text("Register a user")
    page.get_by_label("Id").fill(user_id)
    page.get_by_label("Name").fill("Ada Lovelace")
    page.get_by_label("Email").fill(email_of(user_id))
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Ada Lovelace")
    screenshot("user-logged-in")
    assert key not in page.url
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile("/login$"))
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_a_wrong_key_is_told_on_a_phone(page: Page, screenshot: Screenshot) -> None:
    page.set_viewport_size(PHONE)
    page.goto("/login")
    screenshot("login-phone")
    log_in(page, "registry_key_wrong")
    expect(page.get_by_role("alert")).to_contain_text("not known")
    screenshot("login-wrong-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_logged_in_pages_fit_a_phone(page: Page, key: str, screenshot: Screenshot) -> None:
    page.set_viewport_size(PHONE)
    page.goto("/")
    log_in(page, key)
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    screenshot("home-logged-in-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

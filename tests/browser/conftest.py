"""A real Chromium, and pages in it that must stay free of errors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    ViewportSize,
    sync_playwright,
)

from tests.support import node_toolbox

SCREENSHOTS = node_toolbox.ROOT / "build" / "screenshots"
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
DEADLINE_MS = 10_000


# Of the module, not of the session: the sync API keeps an event loop running while it is open.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium; without one, the tests fail."""
    chromium = node_toolbox.chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium.executable,
            args=list(chromium.arguments),
            env=dict(chromium.environment),
        )
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser, registry_url: str) -> Iterator[BrowserContext]:
    """Open a window's worth of browsing, on a desktop."""
    opened = browser.new_context(base_url=registry_url, viewport=DESKTOP)
    opened.set_default_timeout(DEADLINE_MS)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Open a page; whatever it complains about fails the test."""
    complaints: list[str] = []
    opened = context.new_page()
    opened.on("console", lambda message: complaints.extend(_complaint(message)))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    assert complaints == []


def _complaint(message: ConsoleMessage) -> list[str]:
    # A page whose own status is an error is reported as a resource that failed; it is meant.
    page = message.page
    failed = message.text.startswith("Failed to load resource: the server responded with a status")
    meant = failed and page is not None and message.location["url"] == page.url
    return [message.text] if message.type in {"error", "warning"} and not meant else []


@pytest.fixture
def screenshot(page: Page) -> Callable[[str], Path]:
    """Return what takes a picture of the page, for people to look at."""

    def take(name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 0
        return path

    return take

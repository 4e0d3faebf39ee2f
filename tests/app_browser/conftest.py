"""A real browser on the real page: make test-app."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.app_browser.page_server import PageServer

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""No sandbox: the tests may run as root. The others keep the browser at home."""
DESKTOP = (1280, 900)
PHONE = (390, 844)
MILLISECONDS = 60_000
expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    with PageServer(tmp_path_factory.mktemp("page")) as server:
        yield server.ready()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(FLAGS)
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: PageServer) -> Iterator[Page]:
    with opened(browser, server, DESKTOP) as page:
        yield page


def opened(browser: Browser, server: PageServer, size: tuple[int, int]) -> "OpenPage":
    return OpenPage(browser, server, size)


class OpenPage:
    """A page in a new context. An error in its scripts fails the test."""

    def __init__(
        self, browser: Browser, server: PageServer, size: tuple[int, int]
    ) -> None:
        width, height = size
        self._context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True
        )
        self._url = server.url
        self._errors: list[str] = []

    def __enter__(self) -> Page:
        page = self._context.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.goto(self._url)
        page.wait_for_selector("#make")
        return page

    def __exit__(self, *_: object) -> None:
        self._context.close()
        assert self._errors == []


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Where screenshots are kept: build/screenshots."""
    folder = Path(request.config.rootpath) / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

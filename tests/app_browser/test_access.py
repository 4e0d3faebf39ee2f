"""The page has no serious finding of axe-core, at any time of a clip."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.app_browser.acts import fill, made, make, open_group, short_job
from tests.app_browser.conftest import DESKTOP, PHONE, opened
from tests.app_browser.page_server import PageServer

GROUPS = ("prompt", "size", "sampling", "weights", "control", "output")
SERIOUS = ("serious", "critical")


def findings(page: Page) -> list[str]:
    """The serious findings, each with the elements it is about."""
    results: Any = Axe().run(page)
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in results.response["violations"]
        if rule["impact"] in SERIOUS
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_form(size: tuple[int, int], browser: Browser, server: PageServer) -> None:
    with opened(browser, server, size) as page:
        assert findings(page) == []
        for group in GROUPS:
            open_group(page, group)
        assert findings(page) == []


def test_a_clip_and_a_wrong_value(page: Page, screenshots: Path) -> None:
    short_job(page)
    make(page)
    made(page)
    page.locator("#copies > button").click()
    assert findings(page) == []
    fill(page, "width", 65)
    make(page)
    page.wait_for_selector("#problems .summary")
    assert findings(page) == []
    page.screenshot(path=screenshots / "access.png", full_page=True)


def test_the_dark(browser: Browser, server: PageServer) -> None:
    with opened(browser, server, DESKTOP) as page:
        page.goto(f"{server.url}/?__theme=dark")
        page.wait_for_selector("#make")
        open_group(page, "size")
        assert findings(page) == []

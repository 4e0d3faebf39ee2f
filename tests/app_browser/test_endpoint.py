"""The same page drives an endpoint: a local queue with a real worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from lab.queue.client_api import KEY
from lab.queue.local_queue import LocalQueue
from lab.queue.workers import WorkerProcess
from tests.app_browser.acts import PROMPT, made, make, short_job
from tests.app_browser.conftest import DESKTOP, opened
from tests.app_browser.page_server import PageServer


@pytest.fixture(scope="module")
def queue() -> Iterator[LocalQueue]:
    with LocalQueue() as queue:
        yield queue


def server_of(queue: LocalQueue, folder: Path, key: str) -> PageServer:
    options = ["--endpoint", "local", "--api", queue.api_url]
    return PageServer(folder, options, {"RUNPOD_API_KEY": key})


def test_a_wrong_key_is_named_as_such(
    queue: LocalQueue, browser: Browser, tmp_path: Path
) -> None:
    with (
        server_of(queue, tmp_path, "rpa_wrong") as server,
        opened(browser, server.ready(), DESKTOP) as page,
    ):
        page.locator("#field-prompt textarea").fill(PROMPT)
        make(page)
        expect(page.locator("#stage")).to_contain_text("RUNPOD_API_KEY")
        assert "rpa_wrong" not in page.content()


def test_a_clip_comes_from_the_endpoint(
    queue: LocalQueue, browser: Browser, tmp_path: Path
) -> None:
    with (
        server_of(queue, tmp_path, KEY) as server,
        opened(browser, server.ready(), DESKTOP) as page,
    ):
        short_job(page, steps=60)
        make(page)
        expect(page.locator("#stage")).to_contain_text("the endpoint sleeps")
        with WorkerProcess(queue, tmp_path / "worker", "worker-page") as worker:
            worker.ready()
            page.wait_for_selector("#stage .preview")
            page.locator("#cancel").click()
            expect(page.locator("#stage")).to_contain_text("cancelled")
            short_job(page, steps=3)
            make(page)
            made(page)
            page.wait_for_function(
                "document.querySelector('#stage video').currentTime > 0"
            )
        assert len(list(server.outputs.glob("*.mp4"))) == 1

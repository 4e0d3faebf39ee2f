"""What a person does on the page, for several tests."""

import re

from playwright.sync_api import Locator, Page, expect

PROMPT = "a red circle on a white background, moving up"


def fill(page: Page, name: str, value: object) -> None:
    """Write ``value`` into the field ``name`` of an open group."""
    field(page, name).locator("input, textarea").first.fill(str(value))


def field(page: Page, name: str) -> Locator:
    """The field ``name`` of the form."""
    return page.locator(f"#field-{name}")


def open_group(page: Page, group: str) -> None:
    """Open a group of the form, if it is closed."""
    button = page.locator(f"#group-{group} > button")
    if "open" not in (button.get_attribute("class") or ""):
        button.click()


def short_job(page: Page, steps: int = 2) -> None:
    """Ask for a clip of a few steps and frames."""
    page.locator("#field-prompt textarea").fill(PROMPT)
    open_group(page, "size")
    fill(page, "num_frames", 4)
    open_group(page, "sampling")
    fill(page, "num_inference_steps", steps)


def make(page: Page) -> None:
    """Press the button."""
    page.locator("#make").click()


def made(page: Page, count: int = 1) -> None:
    """Wait until all clips are there and the page is ready for the next."""
    expect(page.locator("#stage video, #stage .screen img")).to_have_count(count)
    expect(page.locator("#make")).to_be_enabled()


def shown_step(page: Page) -> int:
    """The step that the page shows; 0 before the first."""
    text = page.locator("#stage").inner_text()
    step = re.search(r"step (\d+) of", text)
    return int(step[1]) if step else 0

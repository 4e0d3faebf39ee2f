"""A person makes clips on the page, in a real browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from animatediff.app.copies import video_of
from animatediff.app.gallery import job_inside
from animatediff.video import Video, write_video
from tests.app_browser.acts import (
    PROMPT,
    field,
    fill,
    made,
    make,
    open_group,
    short_job,
    shown_step,
)
from tests.app_browser.conftest import DESKTOP, PHONE, opened
from tests.app_browser.page_server import PageServer

_PLAYED = "video => video.currentTime"
_PICTURES = """() => {
  window.pictures = new Set(); window.places = new Set();
  const look = () => {
    const preview = document.querySelector('#stage .preview');
    if (preview) {
      window.pictures.add(preview.style.backgroundImage);
      window.places.add(getComputedStyle(preview).backgroundPositionX);
    }
    requestAnimationFrame(look);
  };
  look();
}"""


def test_a_clip_is_made_and_its_preview_moves(
    page: Page, server: PageServer, screenshots: Path
) -> None:
    page.evaluate(_PICTURES)
    page.locator("#field-prompt textarea").press_sequentially(PROMPT)
    make(page)
    page.wait_for_function("window.pictures.size >= 5 && window.places.size >= 5")
    page.wait_for_function("document.querySelector('#stage .bar')")
    page.screenshot(path=screenshots / "preview.png")
    made(page)
    video = page.locator("#stage video")
    page.wait_for_function("document.querySelector('#stage video').currentTime > 0.2")
    before = video.evaluate(_PLAYED)
    page.wait_for_function(
        "before => document.querySelector('#stage video').currentTime != before",
        arg=before,
    )
    expect(page.locator("#facts")).to_contain_text(re.compile(r"seed \d+ · 64 x 64"))
    expect(page.locator("#facts")).to_contain_text("embedded demonstration family")
    page.screenshot(path=screenshots / "clip.png")
    check_downloads(page, server)
    check_copies(page)


def check_downloads(page: Page, server: PageServer) -> None:
    """Every format and the contact sheet come from the frames that are there."""
    newest = max(server.outputs.glob("*.mp4"), key=lambda path: path.stat().st_mtime)
    seed = job_inside(newest).fields["seed"]
    for name, suffix in (("gif", ".gif"), ("png zip", ".zip"), ("apng", ".apng")):
        with page.expect_download() as download:
            page.locator(".downloads").get_by_text(name, exact=True).click()
        path = server.folder / download.value.suggested_filename
        download.value.save_as(path)
        assert path.suffix == suffix
        assert job_inside(path).fields["seed"] == seed
        assert video_of(path).frames.shape == (16, 64, 64, 3)
    with page.expect_download() as download:
        page.locator(".downloads").get_by_text("contact sheet").click()
    assert download.value.suggested_filename.endswith("-sheet.png")


def check_copies(page: Page) -> None:
    """The texts to copy hold the job, with its seed."""
    page.locator("#copies > button").click()
    texts = {}
    for title in ("JSON job", "curl", "Python", "YAML"):
        page.get_by_role("tab", name=f"as {title}").click()
        text = page.locator("#copies textarea:visible")
        expect(text).to_have_value(re.compile("red circle"))
        texts[title] = text.input_value()
    assert json.loads(texts["JSON job"])["input"]["prompt"] == PROMPT
    assert yaml.safe_load(texts["YAML"])[0]["seed"]
    compile(texts["Python"], "job.py", "exec")


def test_the_gallery_is_there_after_a_reload(page: Page, server: PageServer) -> None:
    short_job(page)
    fill(page, "seed", 11)
    make(page)
    made(page)
    page.reload()
    cards = page.locator("#gallery .cards li")
    expect(cards.first).to_contain_text(PROMPT)
    expect(cards).to_have_count(len(list(server.outputs.glob("*.mp4"))))
    page.locator("#search input, #search textarea").fill("no such words")
    expect(page.locator("#gallery")).to_contain_text("No clip")
    page.locator("#search input, #search textarea").fill("circle RED")
    cards.first.locator("button").click()
    expect(page.locator("#message")).to_contain_text("are in the form")
    expect(page.locator("#stage video")).to_be_visible()
    expect(page.locator("#field-prompt textarea")).to_have_value(PROMPT)
    open_group(page, "sampling")
    expect(field(page, "seed").locator("input, textarea")).to_have_value("11")


def test_a_cancel_ends_the_clip_within_two_steps(page: Page) -> None:
    short_job(page, steps=100)
    make(page)
    page.wait_for_function(
        "/step [3-9] of/.test(document.querySelector('#stage').innerText)"
    )
    pressed_at = shown_step(page)
    page.locator("#cancel").click()
    expect(page.locator("#stage")).to_contain_text("cancelled")
    expect(page.locator("#make")).to_be_enabled()
    assert pressed_at < 20  # of 100: the rest did not run
    assert page.locator("#stage video").count() == 0


def test_a_wrong_value_is_told_at_its_field(page: Page, screenshots: Path) -> None:
    short_job(page)
    fill(page, "width", 65)
    fill(page, "num_frames", "many")
    make(page)
    for name, words in (("width", "a multiple of 8"), ("num_frames", "an integer")):
        expect(field(page, name)).to_contain_text(words)
        expect(field(page, name)).to_have_class(re.compile("wrong"))
    expect(page.get_by_role("alert").filter(has_text="Not yet")).to_be_visible()
    page.screenshot(path=screenshots / "wrong.png")
    page.locator("#problems a").first.click()
    fill(page, "width", 64)
    fill(page, "num_frames", 5000)
    make(page)
    expect(field(page, "num_frames")).to_contain_text("got 5000, allowed: an integer")
    fill(page, "num_frames", 4)
    make(page)
    made(page)
    expect(field(page, "width")).not_to_contain_text("a multiple of 8")
    expect(page.locator("#problems")).to_be_hidden()


def test_a_dropped_clip_fills_the_form(page: Page, server: PageServer) -> None:
    clip = a_clip(server.folder / "dropped.webp", {"fps": 5, "width": 72})
    page.locator("#drop input[type=file]").set_input_files(clip)
    expect(page.locator("#message")).to_contain_text("are in the form")
    expect(page.locator("#field-prompt textarea")).to_have_value("a fox")
    open_group(page, "size")
    expect(field(page, "width").locator("input, textarea")).to_have_value("72")
    open_group(page, "output")
    expect(field(page, "fps").locator("input, textarea")).to_have_value("5")


def test_a_clip_may_be_dropped_anywhere(page: Page, server: PageServer) -> None:
    clip = a_clip(server.folder / "anywhere.gif", {})
    page.evaluate(
        """bytes => {
          const moved = new DataTransfer();
          moved.items.add(new File([new Uint8Array(bytes)], 'anywhere.gif'));
          const how = {dataTransfer: moved, bubbles: true, cancelable: true};
          document.querySelector('#stage').dispatchEvent(new DragEvent('drop', how));
        }""",
        list(clip.read_bytes()),
    )
    expect(page.locator("#field-prompt textarea")).to_have_value("a fox")


def test_a_clip_of_another_program_holds_no_settings(
    page: Page, server: PageServer
) -> None:
    path = server.folder / "foreign.gif"
    path.write_bytes(b"GIF89a of another program")
    page.locator("#drop input[type=file]").set_input_files(path)
    expect(page.locator("#message")).to_contain_text("foreign.gif holds no settings")


def a_clip(path: Path, values: dict[str, object]) -> Path:
    request = {"prompt": "a fox", "seed": 3, **values}
    metadata = {"software": "animatediff-serverless", "request": request}
    video = Video(np.zeros((2, 64, 64, 3), np.uint8), 8)
    write_video(video, path, format=path.suffix[1:], metadata=metadata)
    return path


def test_several_clips_differ_in_their_seeds(page: Page, screenshots: Path) -> None:
    short_job(page)
    fill(page, "seed", 41)
    page.locator("#count input").fill("3")
    make(page)
    made(page, 3)
    captions = page.locator("#stage figcaption").all_inner_texts()
    assert captions == ["seed 41", "seed 42", "seed 43"]
    page.locator("#which").get_by_text("clip 3").click()
    expect(page.locator("#facts")).to_contain_text("seed 43")
    page.screenshot(path=screenshots / "grid.png")


def test_pictures_steer_frames(
    page: Page, server: PageServer, screenshots: Path
) -> None:
    paths = [server.folder / f"{colour}.png" for colour in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (64, 64), path.stem).save(path)
    short_job(page)
    page.locator("#presets").get_by_text("first frame").click()
    control = field(page, "controls")
    expect(control).to_be_visible()
    control.locator("input").first.click()
    page.get_by_role("option").filter(has_text="sparsectrl_rgb").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#pictures").click()
    chooser.value.set_files(paths)
    frames = control.locator("ol.frames li")
    expect(frames).to_have_count(4)
    expect(control.locator("ol.frames li.taken")).to_have_count(2)
    second = control.locator("[data-act=frame]").nth(1)
    second.fill("2")
    second.press("Tab")
    expect(frames.nth(2)).to_have_class("taken")
    control.screenshot(path=screenshots / "control.png")
    make(page)
    made(page)
    page.locator("#copies > button").click()
    text = page.locator("#copies textarea:visible")
    expect(text).to_have_value(re.compile("frame_indices"))


def test_a_lora_has_a_strength(page: Page) -> None:
    short_job(page)
    open_group(page, "weights")
    loras = field(page, "loras")
    loras.locator("input").first.click()
    page.get_by_role("option").filter(has_text="zoom_in").click()
    strength = loras.locator("[data-act=strength]")
    strength.fill("0.5")
    strength.press("Tab")
    make(page)
    made(page)
    page.locator("#copies > button").click()
    text = page.locator("#copies textarea:visible")
    expect(text).to_have_value(re.compile(r'"strength": 0\.5'))
    loras.get_by_role("button", name="Remove").click()
    expect(loras.locator("[data-act=strength]")).to_have_count(0)


def test_presets_fill_the_form_and_a_person_keeps_one(
    page: Page, server: PageServer
) -> None:
    page.locator("#presets").get_by_text("quick").click()
    open_group(page, "sampling")
    steps = field(page, "num_inference_steps").locator("input, textarea")
    expect(steps).to_have_value("8")
    steps.fill("3")
    page.locator("#preset-name input, #preset-name textarea").fill("three steps")
    page.locator("#keep").click()
    expect(page.locator("#message")).to_contain_text("three steps is kept")
    kept = json.loads((server.outputs / "presets.json").read_text(encoding="utf-8"))
    assert kept[0]["values"]["num_inference_steps"] == 3
    page.reload()
    page.locator("#presets").get_by_text("three steps").click()
    open_group(page, "sampling")
    expect(steps).to_have_value("3")


def test_new_models_are_seen_when_looked_for(page: Page) -> None:
    open_group(page, "weights")
    page.locator("#look").click()
    field(page, "motion_module").locator("input").click()
    expect(page.get_by_role("option").filter(has_text="shapeworld_lcm")).to_be_visible()


def test_the_keyboard_alone_makes_a_clip(page: Page) -> None:
    short_job(page)
    page.locator("#field-prompt textarea").focus()
    reached: set[str] = set()
    while "make" not in reached:
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
        assert len(reached) < 30
    page.keyboard.press("Enter")
    made(page)
    page.locator("#group-output > button").focus()
    page.keyboard.press("Enter")
    expect(field(page, "fps")).to_be_visible()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(
    size: tuple[int, int], browser: Browser, server: PageServer, screenshots: Path
) -> None:
    with opened(browser, server, size) as page:
        for group in ("size", "sampling", "weights", "control", "output"):
            open_group(page, group)
        overflow = page.evaluate(
            "(page => page.scrollWidth - page.clientWidth)(document.documentElement)"
        )
        assert overflow <= 0
        page.screenshot(path=screenshots / f"width-{size[0]}.png", full_page=True)

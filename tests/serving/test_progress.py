"""Progress as clients and terminals see it."""

import base64
import io
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from animatediff.progress import Phase, Preview, Progress
from animatediff.serving.progress import BarProgress, ThrottledProgress
from schemas import JobProgress


class Sent:
    """A ThrottledProgress, a clock for it, and the updates that it sent."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.now = 0.0
        self.updates: list[dict[str, Any]] = []
        self._pool = pool
        self.progress = ThrottledProgress(
            self.updates.append, pool, clock=lambda: self.now
        )

    def report(self, seconds: float, phase: Phase, step: int, total: int) -> None:
        """Report after ``seconds``, and wait until the update is through."""
        self.now += seconds
        self.progress(Progress(phase, step, total))
        self.flush()

    def flush(self) -> None:
        """Wait until the update is through."""
        self._pool.submit(lambda: None).result()


@pytest.fixture
def sent() -> Iterator[Sent]:
    with ThreadPoolExecutor(1) as pool:
        yield Sent(pool)


def test_updates_are_throttled_and_none_is_sent_at_the_end(sent: Sent) -> None:
    for step in range(1, 26):
        sent.report(0.3, "denoise", step, 25)
    sent.progress.close()
    assert [update["step"] for update in sent.updates] == [4, 8, 12, 16, 20, 24]
    assert sent.updates[0] == {
        "phase": "denoise",
        "step": 4,
        "total": 25,
        "seconds_left": 6.3,
    }


def test_every_phase_is_sent_and_only_denoising_has_a_time(sent: Sent) -> None:
    sent.report(2, "download", 1000, 4000)
    sent.report(2, "download", 4000, 4000)
    sent.report(2, "load", 0, 0)
    sent.report(60, "encode", 0, 1)
    sent.report(2, "denoise", 0, 4)
    sent.report(2, "denoise", 1, 4)
    sent.report(2, "decode", 8, 16)
    assert sent.updates == [
        {"phase": "download", "step": 1000, "total": 4000},
        {"phase": "load", "step": 0, "total": 0},
        {"phase": "encode", "step": 0, "total": 1},
        {"phase": "denoise", "step": 0, "total": 4},
        {"phase": "denoise", "step": 1, "total": 4, "seconds_left": 6.0},
        {"phase": "decode", "step": 8, "total": 16},
    ]


def test_the_time_starts_anew_when_denoising_does(sent: Sent) -> None:
    sent.report(2, "denoise", 1, 4)
    sent.report(2, "denoise", 3, 4)
    sent.report(100, "denoise", 1, 4)
    sent.report(3, "denoise", 2, 4)
    assert sent.updates[-1]["seconds_left"] == 6.0
    assert "seconds_left" not in sent.updates[-2]


def test_close_waits_for_the_update_in_flight_and_ends_it_all() -> None:
    events: list[Any] = []
    go_on = threading.Event()
    now = [0.0]

    def send(update: dict[str, Any]) -> None:
        go_on.wait(5)
        events.append(update["step"])

    with ThreadPoolExecutor(1) as pool:
        progress = ThrottledProgress(send, pool, clock=lambda: now[0])
        for step in (1, 2, 3):  # the first is slow, so the next two are left out
            now[0] += 2
            progress(Progress("denoise", step, 9))
        threading.Timer(0.1, go_on.set).start()
        progress.close()
        events.append("closed")
        now[0] += 2
        progress(Progress("denoise", 4, 9))
    assert events == [1, "closed"]


def bars(reports: Iterable[tuple[Phase, int, int]]) -> None:
    bar = BarProgress()
    for report in reports:
        bar(Progress(*report))
    bar.close()


def test_bar_ends_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    bars(("denoise", step, 3) for step in (1, 2, 3))
    assert "3/3" in capsys.readouterr().err


def test_every_phase_has_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    size = 3 * 1024**2
    bars(
        [
            ("download", 0, size),
            ("download", size, size),
            ("load", 0, 0),
            ("denoise", 1, 2),
            ("denoise", 2, 2),
            ("decode", 4, 16),
        ]
    )
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    last = {line.partition(":")[0]: line for line in lines if ":" in line}
    assert list(last) == ["download", "load", "denoise", "decode"]
    assert "3.00M/3.00M" in last["download"]
    assert "B/s" in last["download"]
    assert "2/2" in last["denoise"]
    assert "4/16" in last["decode"]


def test_a_bar_never_exceeds_its_total(capsys: pytest.CaptureFixture[str]) -> None:
    bars([("denoise", 3, 4), ("denoise", 5, 4)])
    assert "4/4" in capsys.readouterr().err


def test_a_second_file_and_a_second_try_have_bars_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bars([("download", 5, 10), ("download", 3, 20), ("denoise", 2, 4)])
    bars([("denoise", 2, 4), ("denoise", 1, 4)])
    shown = capsys.readouterr().err
    assert "3.00/20.0" in shown
    assert "1/4" in shown


def preview(level: int, max_bytes: int = 3000) -> Preview:
    return Preview(torch.full((4, 8, 8, 3), level, dtype=torch.uint8), 8, max_bytes)


def shown_level(update: dict[str, Any]) -> float:
    """The level of gray in the preview of an update."""
    content = base64.b64decode(
        update["preview"].removeprefix("data:image/webp;base64,")
    )
    with Image.open(io.BytesIO(content)) as picture:
        assert getattr(picture, "n_frames", 1) == 4
        return float(np.asarray(picture.convert("L")).mean())


def test_the_latest_preview_is_in_every_later_update(sent: Sent) -> None:
    sent.report(2, "denoise", 1, 9)
    for step, level in ((2, 50), (3, None), (4, 200), (5, None)):
        sent.now += 2
        pictures = None if level is None else preview(level)
        sent.progress(Progress("denoise", step, 9, preview=pictures))
        sent.flush()
    sent.report(2, "decode", 1, 4)
    assert "preview" not in sent.updates[0]
    levels = [shown_level(update) for update in sent.updates[1:]]
    assert levels == pytest.approx([50, 50, 200, 200, 200], abs=3)
    for update in sent.updates:
        JobProgress.model_validate(update)


def test_a_preview_between_two_updates_is_sent_with_the_next(sent: Sent) -> None:
    sent.report(2, "denoise", 1, 9)
    sent.now += 0.1
    sent.progress(Progress("denoise", 2, 9, preview=preview(90)))
    sent.report(2, "denoise", 3, 9)
    first, second = sent.updates
    assert "preview" not in first
    assert shown_level(second) == pytest.approx(90, abs=3)


def test_no_preview_is_sent_after_the_end(sent: Sent) -> None:
    sent.progress.close()
    sent.now += 5
    sent.progress(Progress("denoise", 2, 9, preview=preview(90)))
    sent.flush()
    assert sent.updates == []


def test_an_update_with_a_preview_is_as_short_as_asked(sent: Sent) -> None:
    sent.report(2, "denoise", 1, 9)
    noise = torch.randint(0, 256, (32, 64, 64, 3), dtype=torch.uint8)
    sent.now += 2
    sent.progress(Progress("denoise", 2, 9, preview=Preview(noise, 8, 4000)))
    sent.flush()
    assert 1000 < len(sent.updates[-1]["preview"]) <= 4000

"""Jobs on the engine and on an endpoint give the same events; a line has places."""

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from animatediff.app.backends import (
    EngineBackend,
    Event,
    Failed,
    Finished,
    Update,
    Waiting,
)
from animatediff.app.copies import contact_sheet, in_format, video_of
from animatediff.app.endpoint import EndpointBackend
from animatediff.app.gallery import clips, job_inside
from animatediff.app.studio import Studio, several
from animatediff.errors import EncodeError
from animatediff.serving.endpoint_client import EndpointClient
from animatediff.settings import Settings
from animatediff.video import OUTPUT_FORMATS
from lab.queue.local_queue import LocalQueue
from schemas import parse_job_input, render_job_output

JOB = {
    "prompt": "a red circle, moving up",
    "num_frames": 4,
    "width": 64,
    "height": 64,
    "num_inference_steps": 2,
    "seed": 5,
}


def error_of(event: Event) -> Any:
    assert isinstance(event, Failed)
    return event.error


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def engine(folder: Path) -> EngineBackend:
    settings = Settings(output_dir=folder, default_model="shapeworld", offline=True)
    return EngineBackend(settings, parse_job_input, render_job_output)


@pytest.fixture(scope="module")
def made(engine: EngineBackend) -> list[Any]:
    return list(engine.run({**JOB, "preview": {"every": 1}}, threading.Event()))


@pytest.mark.slow
def test_the_engine_tells_steps_and_the_clip(made: list[Any], folder: Path) -> None:
    *updates, last = made
    assert all(isinstance(each, Update) for each in updates)
    assert "denoise" in {each.fields["phase"] for each in updates}
    strips = [each.strip for each in updates if each.strip is not None]
    assert {strip.count for strip in strips} == {4}
    assert isinstance(last, Finished)
    assert last.path.parent == folder
    assert last.output["seed"] == 5


@pytest.mark.slow
def test_a_wrong_job_fails_with_its_field(engine: EngineBackend) -> None:
    (event,) = engine.run({**JOB, "width": 65}, threading.Event())
    assert error_of(event)["field"] == "width"


@pytest.mark.slow
def test_a_cancel_ends_the_job_within_two_steps(engine: EngineBackend) -> None:
    cancelled, steps = threading.Event(), 0
    for event in engine.run({**JOB, "num_inference_steps": 60}, cancelled):
        if isinstance(event, Update) and event.fields["phase"] == "denoise":
            steps += cancelled.is_set()
            if event.fields["step"] >= 2:
                cancelled.set()
    assert error_of(event)["code"] == "CANCELLED"
    assert steps <= 2


@pytest.mark.slow
def test_a_clip_fills_a_form_and_becomes_every_format(
    made: list[Any], tmp_path: Path
) -> None:
    path = made[-1].path
    assert JOB.items() <= job_inside(path).fields.items()
    frames = video_of(path).frames
    assert frames.shape == (4, 64, 64, 3)
    for name, row in OUTPUT_FORMATS.items():
        copy = in_format(path, name, tmp_path)
        assert copy.suffix == row.suffix
        assert JOB.items() <= job_inside(copy).fields.items()
        assert video_of(copy).frames.shape == frames.shape
    assert in_format(path, "mp4", tmp_path) == path
    assert contact_sheet(path, tmp_path).stat().st_size > 100
    with pytest.raises(EncodeError):
        in_format(path, "avi", tmp_path)


@pytest.mark.slow
def test_the_gallery_finds_clips_by_their_words(made: list[Any], folder: Path) -> None:
    (folder / "other.gif").write_bytes(b"GIF89a of another program")
    (folder / "notes.txt").write_text("no clip")
    assert {clip.path.name for clip in clips(folder)} == {
        made[-1].path.name, "other.gif",
    }  # fmt: skip
    assert clips(folder)[0].path.name == "other.gif"
    (clip,) = clips(folder, "UP circle")
    assert clip.prompt == JOB["prompt"]
    assert clips(folder, "square") == []


def test_a_file_of_another_program_holds_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a of another program")
    with pytest.raises(EncodeError):
        job_inside(path)


@pytest.fixture
def queue() -> Iterator[LocalQueue]:
    with LocalQueue(hold=0.2) as queue:
        yield queue


def endpoint(queue: LocalQueue, folder: Path, key: str = "local") -> EndpointBackend:
    client = EndpointClient("local", key, queue.api_url)
    return EndpointBackend(client, folder, parse_job_input, pause=0.02)


def test_a_wrong_key_is_told_without_it(queue: LocalQueue, tmp_path: Path) -> None:
    (event,) = endpoint(queue, tmp_path, "rpa_wrong").run(JOB, threading.Event())
    assert error_of(event)["code"] == "CONFIGURATION"
    assert "RUNPOD_API_KEY" in error_of(event)["message"]
    assert "rpa_wrong" not in str(event)


def test_an_endpoint_that_does_not_answer(tmp_path: Path) -> None:
    client = EndpointClient("local", "local", "http://127.0.0.1:9/v2")
    client._client.rp_session.mount(
        "http://", __import__("requests").adapters.HTTPAdapter()
    )
    backend = EndpointBackend(client, tmp_path, parse_job_input)
    (event,) = backend.run(JOB, threading.Event())
    assert error_of(event)["code"] == "ENDPOINT_UNAVAILABLE"


def test_a_sleeping_endpoint_is_told_and_its_job_cancelled(
    queue: LocalQueue, tmp_path: Path
) -> None:
    cancelled = threading.Event()
    events = endpoint(queue, tmp_path).run(JOB, cancelled)
    first = next(events)
    assert isinstance(first, Waiting)
    assert "sleeps" in first.note
    cancelled.set()
    (*_, last) = events
    assert error_of(last)["code"] == "CANCELLED"
    assert [str(job.state) for job in queue.jobs] == ["CANCELLED"]


def test_a_job_of_an_endpoint_becomes_a_file(queue: LocalQueue, tmp_path: Path) -> None:
    events = endpoint(queue, tmp_path).run(JOB, threading.Event())
    next(events)
    (job,) = queue.jobs
    output = {"url": "data:video/mp4;base64,YWJj", "format": "mp4", "sha256": "0" * 64}
    queue.take("worker", 1, lambda: False)
    queue.receive(
        "progress", "worker", job.id,
        {"status": "IN_PROGRESS", "output": {"phase": "denoise", "step": 1}},
    )  # fmt: skip
    queue.receive("result", "worker", job.id, {"output": output})
    (*_, last) = events
    assert isinstance(last, Finished)
    assert last.path.read_bytes() == b"abc"
    assert last.path.parent == tmp_path


class Slow:
    """A back end whose jobs run until they are cancelled."""

    title, at_once = "slow", 1

    def check(self, job: Any) -> None: ...

    def run(self, job: Any, cancelled: threading.Event) -> Generator[Event]:
        yield Update({"job": job["prompt"]})
        assert cancelled.wait(10)
        yield Failed({"code": "CANCELLED"})


def test_a_line_has_places_and_an_end() -> None:
    studio = Studio(Slow(), most_waiting=1)
    first = studio.run("a", {"prompt": "a"})
    assert next(first) == Update({"job": "a"})
    second = studio.run("b", {"prompt": "b"})
    assert next(second) == Waiting(1)
    (full,) = studio.run("c", {"prompt": "c"})
    assert error_of(full)["code"] == "LINE_FULL"
    (busy,) = studio.run("a", {"prompt": "again"})
    assert error_of(busy)["code"] == "BUSY"
    assert studio.cancel("a")
    assert list(first) == [Failed({"code": "CANCELLED"})]
    assert next(second) == Update({"job": "b"})
    second.close()
    assert not studio.cancel("b")


def test_a_job_in_the_line_is_cancelled_at_once() -> None:
    studio = Studio(Slow())
    first = studio.run("a", {"prompt": "a"})
    next(first)
    second = studio.run("b", {"prompt": "b"})
    assert next(second) == Waiting(1)
    studio.cancel("b")
    (last,) = second
    assert error_of(last)["code"] == "CANCELLED"
    first.close()


def test_several_clips_differ_in_their_seeds() -> None:
    assert several({"seed": 7}, 1) == [{"seed": 7}]
    assert several({}, 1) == [{}]
    assert several({"seed": 2**64 - 1}, 3) == [
        {"seed": 2**64 - 1}, {"seed": 0}, {"seed": 1},
    ]  # fmt: skip
    drawn = [job["seed"] for job in several({}, 99)]
    assert len(set(drawn)) == 9

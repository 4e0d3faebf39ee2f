"""Files of every format show the clip, keep its timing and hold its metadata."""

import hashlib
import io
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from decoding import decode_frames, ffmpeg, frame_times
from PIL import Image

from animatediff.errors import EncodeError, JobCancelled
from animatediff.video import (
    OUTPUT_FORMATS,
    EncodedVideo,
    Video,
    read_metadata,
    write_video,
)
from animatediff.video.clip import frame_delays

pytestmark = pytest.mark.slow

every_format = pytest.mark.parametrize("format", OUTPUT_FORMATS)
animations = pytest.mark.parametrize(
    "format", [f for f in OUTPUT_FORMATS if f != "png_zip"]
)

BACKGROUND, SQUARE = (40, 160, 90), (220, 60, 200)
AWKWARD = {
    "prompt": "a=b; c#d \\ \\n \"quoted\" 'single' %d $HOME\nsecond line\r\n\ttab é 猫"
    " 🐈 \0 end\\",
    "seed": 2**64 - 1,
    "stack": {"base_model": "0f" * 32, "loras": [["x", 0.75], ["y", -1e-9]]},
    "none": None,
    "key=with;odd#characters\n": True,
}


def moving_square(num_frames: int = 5, fps: int = 8) -> Video:
    frames = np.full((num_frames, 48, 64, 3), BACKGROUND, np.uint8)
    for index, frame in enumerate(frames):
        frame[10:34, 4 + 6 * index : 28 + 6 * index] = SQUARE
    return Video(frames, fps)


def noise(num_frames: int = 4, size: int = 48) -> Video:
    return Video(
        np.random.default_rng(0).integers(
            0, 256, (num_frames, size, size + 16, 3), np.uint8
        ),
        8,
    )


def write(
    video: Video,
    folder: Path,
    format: str,
    quality: int = 90,
    metadata: dict | None = None,
) -> EncodedVideo:
    path = folder / f"clip{OUTPUT_FORMATS[format].suffix}"
    return write_video(
        video, path, format=format, quality=quality, metadata=metadata or {}
    )


@every_format
def test_file_shows_the_clip(format: str, tmp_path: Path) -> None:
    video = moving_square()
    written = write(video, tmp_path, format)
    content = written.path.read_bytes()
    assert written == EncodedVideo(
        path=tmp_path / f"clip{OUTPUT_FORMATS[format].suffix}",
        format=format,
        mime=OUTPUT_FORMATS[format].mime,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        num_frames=5,
        width=64,
        height=48,
        fps=8,
    )
    decoded = decode_frames(written.path)
    assert decoded.shape == video.frames.shape
    error = np.abs(decoded.astype(int) - video.frames)
    assert error.mean() < 4
    # The flat areas have the right colours in each channel. A wrong matrix or range
    # would be off by 10 or more.
    for index in range(5):
        left = 4 + 6 * index
        assert error[index, 16:28, left + 6 : left + 18].max() <= 4
        assert error[index, 40:46, 2:-2].max() <= 4
    assert list(tmp_path.iterdir()) == [written.path]


@pytest.mark.parametrize("format", ["apng", "png_zip"])
def test_lossless_formats_keep_every_bit(format: str, tmp_path: Path) -> None:
    video = noise()
    assert (decode_frames(write(video, tmp_path, format).path) == video.frames).all()


@animations
@pytest.mark.parametrize("fps", [7, 8, 24])
def test_every_frame_starts_at_its_time(format: str, fps: int, tmp_path: Path) -> None:
    tick = {"gif": 0.01, "apng": 0.0}.get(format, 0.001)
    *starts, end = frame_times(write(moving_square(fps=fps), tmp_path, format).path)
    assert starts == pytest.approx(
        [index / fps for index in range(5)], abs=tick / 2 + 1e-6
    )
    # Matroska stores a truncated duration for the last frame.
    signature = OUTPUT_FORMATS[format].signature
    is_matroska = signature == OUTPUT_FORMATS["webm"].signature
    last = 1.5 * tick if is_matroska else tick / 2
    assert end == pytest.approx(5 / fps, abs=last + 1e-6)


@every_format
@pytest.mark.parametrize("num_frames", [1, 6])
def test_still_clip_keeps_its_frames_and_duration(
    format: str, num_frames: int, tmp_path: Path
) -> None:
    video = Video(np.repeat(moving_square(1).frames, num_frames, axis=0), 8)
    path = write(video, tmp_path, format).path
    assert decode_frames(path).shape == video.frames.shape
    if format != "png_zip":
        assert frame_times(path)[-1] == pytest.approx(num_frames / 8, abs=0.0051)


@pytest.mark.parametrize("format", ["gif", "webp", "apng"])
def test_animations_loop_for_ever(format: str, tmp_path: Path) -> None:
    with Image.open(write(moving_square(), tmp_path, format).path) as image:
        assert image.info["loop"] == 0


def scenery(width: int, seed: int) -> npt.NDArray[np.uint8]:
    """A picture of soft and fine colours, (96, width, 3)."""
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(
                random.integers(0, 256, (96 // step, width // step, 3), np.uint8)
            ).resize((width, 96), Image.Resampling.BICUBIC),
            np.float64,
        )
        for step in (32, 6)
    ]
    return (0.7 * layers[0] + 0.3 * layers[1]).astype(np.uint8)


def still_background() -> npt.NDArray[np.uint8]:
    frames = np.repeat(scenery(128, 1)[None], 8, axis=0)
    for index, frame in enumerate(frames):
        frame[30:50, 10 + 8 * index : 30 + 8 * index] = (220, 60, 40)
    return frames


def pan() -> npt.NDArray[np.uint8]:
    wide = scenery(192, 2)
    return np.stack([wide[:, 8 * i : 8 * i + 128] for i in range(8)])


def diffused(frames: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], int]:
    """Frames that Pillow dithers by error diffusion, with one palette, and the bytes
    that they take as whole GIF pictures of the pixels that change.
    """
    pixels = Image.fromarray(frames.reshape(-1, frames.shape[2], 3))
    palette = pixels.quantize(255, method=Image.Quantize.MAXCOVERAGE)
    shown = [Image.fromarray(frame).quantize(palette=palette) for frame in frames]
    content = io.BytesIO()
    shown[0].save(content, "GIF", save_all=True, append_images=shown[1:])
    return np.stack(
        [np.asarray(picture.convert("RGB")) for picture in shown]
    ), content.tell()


def psnr(shown: npt.NDArray[np.uint8], frames: npt.NDArray[np.uint8]) -> float:
    error = np.mean((shown.astype(np.float64) - frames) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize(("clip", "part"), [(still_background, 0.35), (pan, 0.9)])
def test_a_gif_is_truer_and_smaller_than_by_error_diffusion(
    clip: Callable[[], npt.NDArray[np.uint8]], part: float, tmp_path: Path
) -> None:
    frames = clip()
    written = write(Video(frames, 8), tmp_path, "gif")
    shown = decode_frames(written.path)
    before, bytes_before = diffused(frames)
    assert shown.shape == frames.shape
    assert psnr(shown, frames) > psnr(before, frames) + 1
    assert written.bytes < part * bytes_before


def test_a_still_background_does_not_flicker_in_a_gif(tmp_path: Path) -> None:
    frames = still_background()
    shown = decode_frames(write(Video(frames, 8), tmp_path, "gif").path)
    is_still = (frames[1:] == frames[:-1]).all(axis=-1)
    flickers = (shown[1:] != shown[:-1]).any(axis=-1) & is_still
    assert is_still.mean() > 0.9
    assert not flickers.any()


def test_a_gif_of_few_colours_is_exact(tmp_path: Path) -> None:
    frames = np.zeros((3, 16, 255, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[..., 1] = np.roll(np.arange(255), index)
    path = write(Video(frames, 8), tmp_path, "gif").path
    assert (decode_frames(path) == frames).all()


def test_gif_has_one_palette(tmp_path: Path) -> None:
    ramp = np.zeros((2, 16, 256, 3), np.uint8)
    ramp[0, ..., 0] = ramp[1, ..., 2] = np.arange(256)  # 511 colours
    decoded = decode_frames(write(Video(ramp, 8), tmp_path, "gif").path)
    assert 100 < len(np.unique(decoded.reshape(-1, 3), axis=0)) <= 256


def test_gif_stays_true_when_few_pixels_change(tmp_path: Path) -> None:
    frames = np.repeat(moving_square(1).frames, 4, axis=0)
    frames[1, 47, 63] = SQUARE
    frames[3, 0, 0] = SQUARE
    path = write(Video(frames, 8), tmp_path, "gif").path
    assert (decode_frames(path) == frames).all()


@pytest.mark.parametrize(
    ("fps", "ticks"), [(8, 100), (7, 100), (50, 100), (24, 1000), (60, 1000)]
)
def test_delays_never_drift(fps: int, ticks: int) -> None:
    ends = list(accumulate(frame_delays(40, fps, ticks)))
    assert len(ends) == 40
    assert all(
        abs(end - ticks * (index + 1) / fps) <= 0.5 for index, end in enumerate(ends)
    )


def test_delays_at_8_fps_alternate() -> None:
    assert frame_delays(5, 8, 100) == [12, 13, 12, 13, 12]


@every_format
def test_same_clip_gives_same_bytes(format: str, tmp_path: Path) -> None:
    first = write(noise(), tmp_path, format, metadata=AWKWARD)
    assert write(noise(), tmp_path, format, metadata=AWKWARD).sha256 == first.sha256


@pytest.mark.parametrize("format", ["mp4", "webm", "webp"])
def test_quality_costs_bytes(format: str, tmp_path: Path) -> None:
    sizes = [
        write(noise(), tmp_path, format, quality).bytes for quality in (1, 50, 100)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


def test_mp4_tags_its_colours_and_can_start_before_it_is_loaded(tmp_path: Path) -> None:
    path = write(moving_square(), tmp_path, "mp4").path
    assert "h264" in (log := ffmpeg("-i", str(path)).stderr.decode())
    assert "yuv420p(tv, bt709" in log
    content = path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_webm_tags_its_colours(tmp_path: Path) -> None:
    log = ffmpeg(
        "-i", str(write(moving_square(), tmp_path, "webm").path)
    ).stderr.decode()
    assert "vp9" in log
    assert "yuv420p(tv, bt709" in log


@every_format
@pytest.mark.parametrize(
    "metadata",
    [AWKWARD, {"long": "=;#\\\n" * 50_000}, {}],
    ids=["awkward", "long", "empty"],
)
def test_metadata_come_back_exactly(
    format: str, metadata: dict, tmp_path: Path
) -> None:
    path = write(moving_square(2), tmp_path, format, metadata=metadata).path
    assert read_metadata(path) == metadata
    renamed = path.rename(tmp_path / "clip")
    assert read_metadata(renamed) == metadata


@every_format
def test_damaged_file_is_refused(format: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    content = write(moving_square(2), tmp_path, format).path.read_bytes()
    path.write_bytes(content[:24])
    with pytest.raises(EncodeError) as caught:
        read_metadata(path)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a video", "none of: mp4, gif"),
        (b"", "none of: mp4, gif"),
        (None, "No such file"),
    ],
)
def test_file_of_no_known_format_is_refused(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "text.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EncodeError, match=reason) as caught:
        read_metadata(path)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("pillow", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("comment", [None, "hello", "[1]"])
def test_picture_with_another_comment_is_refused(
    pillow: str, comment: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "picture"
    exif = Image.Exif()
    if comment is not None:
        exif[0x010E] = comment
    Image.new("RGB", (8, 8)).save(
        path, pillow, **({"comment": comment} if comment else {}), exif=exif
    )
    with pytest.raises(EncodeError, match="no AnimateDiff metadata"):
        read_metadata(path)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3)),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_frames_of_another_shape_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(EncodeError, match=r"uint8 \(f, h, w, 3\)"):
        Video(frames, 8)


@pytest.mark.parametrize("fps", [0, 8.0, True])
def test_other_rates_are_refused(fps: int) -> None:
    with pytest.raises(EncodeError, match="fps"):
        Video(np.zeros((2, 8, 8, 3), np.uint8), fps)


def test_video_knows_its_size() -> None:
    video = moving_square(4)
    assert (video.num_frames, video.width, video.height) == (4, 64, 48)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"format": "avi"}, "unknown format.*avi"),
        ({"format": "gif", "quality": 0}, "quality"),
        ({"format": "gif", "quality": 101}, "quality"),
        ({"format": "gif", "metadata": {"x": {1}}}, "metadata"),
        ({"format": "gif", "metadata": {"x": float("nan")}}, "metadata"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(EncodeError, match=reason):
        write_video(moving_square(), tmp_path / "clip", **{"metadata": {}, **arguments})
    assert not list(tmp_path.iterdir())


def test_rate_that_a_gif_cannot_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match="at most 50"):
        write(moving_square(fps=51), tmp_path, "gif")


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_odd_size_is_refused_where_chroma_is_halved(
    format: str, tmp_path: Path
) -> None:
    with pytest.raises(EncodeError, match="even width and height, got 63x48"):
        write(Video(moving_square().frames[:, :, :63], 8), tmp_path, format)


@pytest.mark.parametrize("format", ["gif", "webp", "apng", "png_zip"])
def test_odd_size_is_kept_elsewhere(format: str, tmp_path: Path) -> None:
    video = Video(moving_square().frames[:, :47, :63], 8)
    assert decode_frames(write(video, tmp_path, format).path).shape == (5, 47, 63, 3)


@every_format
def test_failed_write_leaves_the_old_file_and_nothing_else(
    format: str, tmp_path: Path
) -> None:
    old = tmp_path / f"clip{OUTPUT_FORMATS[format].suffix}"
    old.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Any larger file fails, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(EncodeError) as caught:
            write(noise(8, 96), tmp_path, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) not in caught.value.message
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


@every_format
def test_target_that_cannot_be_written_is_an_encode_error(
    format: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "missing" / "clip"):
        with pytest.raises(EncodeError, match="could not be written") as caught:
            write_video(moving_square(2), path, format=format, metadata={})
        assert str(tmp_path) not in caught.value.message
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder"]


def use_ffmpeg(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = folder / "fake-ffmpeg"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))


def test_ffmpeg_failure_shows_its_last_line_without_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ffmpeg writes a megabyte to stderr before it reads stdin: code that does not drain
    # stderr hangs here.
    complaints = "yes complaint | head -c 1000000 >&2; cat >/dev/null"
    last = "[out @ 0x7f] [mp4 @ 0x80] /srv/secret/model.ckpt: is not nice"
    script = f"{complaints}; echo '{last}' >&2; exit 3"
    use_ffmpeg(script, tmp_path, monkeypatch)
    with pytest.raises(EncodeError) as caught:
        write(noise(), tmp_path, "mp4")
    assert caught.value.message == "ffmpeg failed: model.ckpt: is not nice"


def test_silent_ffmpeg_failure_shows_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_ffmpeg("exit 3", tmp_path, monkeypatch)
    with pytest.raises(EncodeError, match="exit status 3"):
        # This is more than a pipe holds, so writing to stdin fails.
        write(noise(16, 96), tmp_path, "webm")


def test_missing_ffmpeg_is_an_encode_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(EncodeError, match="ffmpeg could not be started") as caught:
        write(noise(), tmp_path, "mp4")
    assert str(tmp_path) not in caught.value.message


HUNG = "sleep 60 & echo $$ $! >'{path}.new'; mv '{path}.new' '{path}'; wait"


def wait_for_pids(path: Path) -> list[int]:
    end = time.monotonic() + 10
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return [int(pid) for pid in path.read_text().split()]


def have_ended(pids: list[int]) -> bool:
    """Whether no process is left, not even one that waits to be reaped."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_hung_encoder_is_killed_at_its_limit(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    use_ffmpeg(HUNG.format(path=tmp_path / "pids"), tmp_path, monkeypatch)
    monkeypatch.setattr("animatediff.video.ffmpeg._START_SECONDS", 0.3)
    with pytest.raises(EncodeError, match="ffmpeg took longer than"):
        write(noise(4, 96), tmp_path / "out", format)  # more than a pipe holds
    assert have_ended(wait_for_pids(tmp_path / "pids"))
    assert not list((tmp_path / "out").iterdir())


@every_format
def test_a_cancelled_job_stops_writing(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    use_ffmpeg(HUNG.format(path=tmp_path / "pids"), tmp_path, monkeypatch)
    begun = time.monotonic()

    def check() -> None:
        if "ffmpeg" not in OUTPUT_FORMATS[format].writer or (
            (tmp_path / "pids").exists() or time.monotonic() > begun + 40
        ):
            raise JobCancelled("the job was cancelled")

    with pytest.raises(JobCancelled):
        write_video(
            noise(16, 96),
            tmp_path / "out" / "clip",
            format=format,
            metadata={},
            check=check,
        )
    assert time.monotonic() - begun < 50
    assert not list((tmp_path / "out").iterdir())
    if "ffmpeg" in OUTPUT_FORMATS[format].writer:
        assert have_ended(wait_for_pids(tmp_path / "pids"))


def test_an_encoder_ends_with_its_worker(tmp_path: Path) -> None:
    fake = tmp_path / "fake-ffmpeg"
    fake.write_text(f"#!/bin/sh\necho $$ >'{tmp_path}/pids'\nexec sleep 60\n")
    fake.chmod(0o755)
    program = (
        "import sys, numpy as np; from pathlib import Path;"
        "from animatediff.video import Video, write_video;"
        "video = Video(np.zeros((2, 16, 16, 3), np.uint8), 8);"
        "write_video(video, Path(sys.argv[1]), format='mp4', metadata={})"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "clip.mp4")],
        env={**os.environ, "IMAGEIO_FFMPEG_EXE": str(fake)},
    )
    pids = wait_for_pids(tmp_path / "pids")
    worker.terminate()
    worker.wait()
    assert have_ended(pids)


def test_interrupt_kills_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    use_ffmpeg(f"echo $$ >'{tmp_path}/pid'; exec sleep 60", tmp_path, monkeypatch)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            write(noise(16, 96), target, "mp4")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not list(target.iterdir())

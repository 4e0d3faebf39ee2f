"""MP4 and WebM, by the ffmpeg binary that imageio-ffmpeg brings."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from ..errors import EncodeError
from .clip import Video

# RGB is converted by the BT.709 matrix to limited range, and the stream says so.
# ffmpeg's default would be the BT.601 matrix without a word about it, which players
# show with shifted greens and reds.
_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,"
    "format=yuv420p,setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)


@dataclass(frozen=True)
class Codec:
    """``best_crf`` belongs to quality 100, ``worst_crf`` to quality 1; between them it
    is a line.
    """

    arguments: tuple[str, ...]
    best_crf: int
    worst_crf: int

    def crf(self, quality: int) -> str:
        return str(
            round(
                self.best_crf + (self.worst_crf - self.best_crf) * (100 - quality) / 99
            )
        )


_H264 = Codec(
    ("-c:v", "libx264", "-movflags", "+faststart", "-f", "mp4"),
    best_crf=14,
    worst_crf=51,
)
_VP9 = Codec(
    # -b:v 0 makes crf the only target; without it a default bitrate caps the quality.
    (
        "-c:v",
        "libvpx-vp9",
        "-b:v",
        "0",
        "-row-mt",
        "1",
        "-deadline",
        "good",
        "-cpu-used",
        "4",
        "-f",
        "webm",
    ),
    best_crf=18,
    worst_crf=63,
)


def write_mp4(video: Video, path: Path, quality: int, comment: str) -> None:
    """H.264, yuv420p. Raises EncodeError; odd sizes are refused, for chroma has half of
    each side.
    """
    _encode(_H264, video, path, quality, comment)


def write_webm(video: Video, path: Path, quality: int, comment: str) -> None:
    """VP9, yuv420p. Raises EncodeError; odd sizes are refused as for MP4."""
    _encode(_VP9, video, path, quality, comment)


def read_comment(path: Path, demuxer: str) -> str:
    """The ``comment`` tag of a file. Raises EncodeError if ffmpeg cannot read it,
    KeyError if it has no comment.
    """
    # The demuxer is named, so that a file of another kind (say, a playlist that points
    # elsewhere) is not followed.
    dump = run_ffmpeg(
        ["-f", demuxer, "-i", f"file:{path.name}", "-f", "ffmetadata", "-"],
        folder=path.parent,
    ).decode()
    tags = dict(line.split("=", 1) for line in dump.splitlines() if "=" in line)
    tags = {
        key.lower(): value for key, value in tags.items()
    }  # Matroska writes its tags in capitals
    return re.sub(r"\\(.)", r"\1", tags["comment"])


def _encode(codec: Codec, video: Video, path: Path, quality: int, comment: str) -> None:
    if video.width % 2 or video.height % 2:
        raise EncodeError(
            f"{path.suffix} needs an even width and height, got"
            f" {video.width}x{video.height}"
        )
    # A file, because a command line takes no more than 128 KiB in one word, and every
    # user of the host can read it.
    tags = path.with_suffix(".ffmetadata")
    tags.write_text(
        ";FFMETADATA1\ncomment=" + re.sub(r"([=;#\\\n])", r"\\\1", comment) + "\n",
        encoding="utf-8",
    )
    size = f"{video.width}x{video.height}"
    frames = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        size,
        "-framerate",
        str(video.fps),
        "-i",
        "-",
    ]
    merged = [
        "-f",
        "ffmetadata",
        "-i",
        tags.name,
        "-map",
        "0:v",
        "-map_metadata",
        "1",
        "-fflags",
        "+bitexact",
    ]
    run_ffmpeg(
        [
            *frames,
            *merged,
            "-vf",
            _BT709,
            "-crf",
            codec.crf(quality),
            *codec.arguments,
            path.name,
        ],
        stdin=np.ascontiguousarray(video.frames).data.cast("B"),
        folder=path.parent,
    )


def run_ffmpeg(
    arguments: list[str],
    folder: Path,
    stdin: bytes | memoryview = b"",
    timeout: float | None = None,
) -> bytes:
    """What ffmpeg wrote to stdout. It runs in ``folder``, so that it knows, and can
    tell, no path of this host.

    Raises EncodeError, also where it takes longer than ``timeout`` seconds.

    ``communicate`` feeds stdin in small pieces without a copy while it drains both
    outputs.
    """
    try:
        command = [
            get_ffmpeg_exe(),
            "-hide_banner",
            "-nostdin",
            "-loglevel",
            "error",
            *arguments,
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
        )
    except OSError as error:
        raise EncodeError(f"ffmpeg could not be started: {error.strerror}") from error
    except RuntimeError as error:  # imageio-ffmpeg found none
        raise EncodeError("ffmpeg is not installed") from error
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout)  # pyright: ignore[reportArgumentType]
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise EncodeError(f"ffmpeg took longer than {timeout:g} s") from error
        except (
            BaseException
        ):  # KeyboardInterrupt too; subprocess.run would leave a zombie then
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        lines = stderr.decode(errors="replace").strip().splitlines()
        raise EncodeError(
            f"ffmpeg failed:"
            f" {_plain(lines[-1]) if lines else f'exit status {process.returncode}'}"
        )
    return stdout


def _plain(line: str) -> str:
    """A line of ffmpeg's log without the "[part @ address]" before it and without the
    folders of any path in it.
    """
    return re.sub(r"(?:/[^\s/:'\"]+)+/", "", re.sub(r"^(\[[^]]*\]\s*)+", "", line))

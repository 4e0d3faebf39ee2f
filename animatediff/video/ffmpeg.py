"""MP4 and WebM, by the ffmpeg binary of the imageio-ffmpeg package."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe  # pyright: ignore[reportMissingTypeStubs]

from ..errors import EncodeError
from ..progress import Check, no_check
from ..sandbox import ChildFailed, Limits, run
from .clip import Encoding, Video

# RGB is converted by the BT.709 matrix to limited range, and the stream is tagged so.
# By default ffmpeg would use the BT.601 matrix without a tag, and players would shift
# greens and reds.
_SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_COLOUR_TAGS = "range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
_BT709 = (
    f"scale=out_color_matrix=bt709:out_range=tv:flags={_SCALE_FLAGS},"
    f"format=yuv420p,setparams={_COLOUR_TAGS}"
)

# An encoder that takes longer hangs: a slow one takes 1 s for a million pixels.
_START_SECONDS = 60.0
_SECONDS_PER_BYTE = 5e-6
_READING = Limits(60, 60, 2_000_000_000)  # of a comment


@dataclass(frozen=True)
class Codec:
    """ffmpeg's arguments for a codec, and its range of constant rate factors.

    ``best_crf`` belongs to quality 100 and ``worst_crf`` to quality 1; the qualities
    between them lie on a line.
    """

    arguments: str
    best_crf: int
    worst_crf: int

    def crf(self, quality: int) -> int:
        """Return the constant rate factor for a quality of 1 to 100."""
        span = self.worst_crf - self.best_crf
        return round(self.best_crf + span * (100 - quality) / 99)


_H264 = Codec(
    "-c:v libx264 -movflags +faststart -f mp4",
    best_crf=14,
    worst_crf=51,
)
_VP9 = Codec(
    # "-b:v 0" makes crf the only target; otherwise a default bitrate limits the quality
    "-c:v libvpx-vp9 -b:v 0 -row-mt 1 -deadline good -cpu-used 4 -f webm",
    best_crf=18,
    worst_crf=63,
)


def write_mp4(video: Video, path: Path, how: Encoding) -> None:
    """Write H.264 in yuv420p.

    Raises EncodeError, also for odd sizes: chroma has half the resolution.
    """
    _encode(_H264, video, path, how)


def write_webm(video: Video, path: Path, how: Encoding) -> None:
    """Write VP9 in yuv420p.

    Raises EncodeError, also for odd sizes: chroma has half the resolution.
    """
    _encode(_VP9, video, path, how)


def read_mp4_comment(path: Path) -> str:
    """Return the ``comment`` tag of an MP4 file.

    Raises EncodeError if ffmpeg cannot read the file, KeyError if it has no comment.
    """
    return _read_comment(path, "mp4")


def read_webm_comment(path: Path) -> str:
    """Return the ``comment`` tag of a WebM file.

    Raises EncodeError if ffmpeg cannot read the file, KeyError if it has no comment.
    """
    return _read_comment(path, "matroska")


def run_ffmpeg(
    arguments: list[str],
    folder: Path,
    *,
    limits: Limits,
    stdin: bytes | memoryview = b"",
    check: Check = no_check,
) -> bytes:
    """Run ffmpeg in ``folder`` and return what it wrote to stdout.

    With names relative to ``folder`` its messages contain no path of this host. Raises
    EncodeError if ffmpeg fails or exceeds a limit, and whatever ``check`` raises; then
    ffmpeg has ended.
    """
    command = [_program(), "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]
    try:
        done = run(command, limits, stdin=stdin, folder=folder, check=check)
    except ChildFailed as failure:
        raise EncodeError(f"ffmpeg {failure.reason}") from failure
    except OSError as error:
        raise EncodeError(f"ffmpeg could not be started: {error.strerror}") from error
    if done.status != 0:
        reason = _last_line(done.stderr) or f"exit status {done.status}"
        raise EncodeError(f"ffmpeg failed: {reason}")
    return done.stdout


def _program() -> str:
    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:  # from imageio-ffmpeg
        raise EncodeError("ffmpeg is not installed") from error


def _read_comment(path: Path, demuxer: str) -> str:
    # With the demuxer fixed, ffmpeg does not follow a file of another kind, such as a
    # playlist that points elsewhere.
    command = ["-f", demuxer, "-i", f"file:{path.name}", "-f", "ffmetadata", "-"]
    dump = run_ffmpeg(command, path.parent, limits=_READING).decode()
    tags = dict(line.split("=", 1) for line in dump.splitlines() if "=" in line)
    # Matroska writes its tags in capitals.
    tags = {key.lower(): value for key, value in tags.items()}
    return re.sub(r"\\(.)", r"\1", tags["comment"])


def _encode(codec: Codec, video: Video, path: Path, how: Encoding) -> None:
    size = f"{video.width}x{video.height}"
    if video.width % 2 or video.height % 2:
        raise EncodeError(f"{path.suffix} needs an even width and height, got {size}")
    tags = _write_tags(path, how.comment)
    frames = f"-f rawvideo -pix_fmt rgb24 -s {size} -framerate {video.fps} -i -"
    metadata = ["-f", "ffmetadata", "-i", tags.name]
    streams = "-map 0:v -map_metadata 1 -fflags +bitexact"
    output = f"{streams} -vf {_BT709} -crf {codec.crf(how.quality)} {codec.arguments}"
    run_ffmpeg(
        [*frames.split(), *metadata, *output.split(), path.name],
        stdin=np.ascontiguousarray(video.frames).data.cast("B"),
        folder=path.parent,
        limits=Limits(_START_SECONDS + video.frames.size * _SECONDS_PER_BYTE),
        check=how.check,
    )


def _write_tags(path: Path, comment: str) -> Path:
    """Write the comment as an ffmetadata file next to ``path``.

    A command line allows at most 128 KiB in one argument, and every user of the host
    can read it.
    """
    escaped = re.sub(r"([=;#\\\n])", r"\\\1", comment)
    tags = path.with_suffix(".ffmetadata")
    tags.write_text(f";FFMETADATA1\ncomment={escaped}\n", encoding="utf-8")
    return tags


def _last_line(log: bytes) -> str:
    """Return the last line of ffmpeg's log in a form that clients may see.

    Prefixes such as "[part @ address]" and the folders in paths are removed.
    """
    lines = log.decode(errors="replace").strip().splitlines()
    if not lines:
        return ""
    message = re.sub(r"^(\[[^]]*\]\s*)+", "", lines[-1])
    return re.sub(r"(?:/[^\s/:'\"]+)+/", "", message)

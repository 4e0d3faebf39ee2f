"""What a page does, whatever it is made of: check jobs, make clips, show those made."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import catalog
from ..errors import AnimateDiffError, AssetError, EncodeError
from ..job.resolve import defaults_by_model
from ..video.formats import format_of_content
from .backends import Backend, Event, Failed, Finished, Update
from .copies import in_format
from .form import messages_of
from .gallery import GalleryClip, clips
from .installed import Installed
from .moving import Strip
from .studio import Studio, several

Job = Mapping[str, Any]
PREVIEW = {"every": 1, "max_bytes": 60_000}
"""The preview that the page asks for."""
COPIES = "copies"
"""The folder, below that of the clips, of the same clips in other formats."""
_SHOWN = ("mp4", "webm", "gif", "webp")
"""Formats that every browser plays; others are shown as a copy."""


@dataclass(frozen=True)
class Clip:
    """A clip of the output folder. ``shown`` is the file that a browser plays.

    ``output`` is empty for a clip that was not made on this page.
    """

    path: Path
    shown: Path
    job: Job
    output: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Tile:
    """One of the clips of a click: what is known of it now."""

    job: Job
    event: Event | None = None
    strip: Strip | None = None
    clip: Clip | None = None

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Why there is no clip, if there will be none."""
        return self.event.error if isinstance(self.event, Failed) else None


@dataclass(frozen=True, eq=False)
class Desk:
    """The parts of a page: a studio, the folder of clips, and what is installed."""

    studio: Studio
    folder: Path
    look: Callable[[], Installed]

    @property
    def backend(self) -> Backend:
        """What makes the clips."""
        return self.studio.backend

    def problem(self, job: Job) -> AnimateDiffError | None:
        """Return the error of a job that would be refused."""
        try:
            self.backend.check(job)
        except AnimateDiffError as error:
            return error
        return None

    def make(self, session: str, job: Job, count: int) -> Iterator[tuple[Tile, ...]]:
        """Make ``count`` clips, and yield all tiles whenever one has changed.

        A cancel ends the clips that are still to come, too.
        """
        tiles = [Tile(each) for each in several(job, count)]
        for place, tile in enumerate(tiles):
            for event in self.studio.run(session, {**tile.job, "preview": PREVIEW}):
                tiles[place] = self._after(tiles[place], event)
                yield tuple(tiles)
            if tiles[place].error:
                return

    def _after(self, tile: Tile, event: Event) -> Tile:
        if isinstance(event, Update):
            return Tile(tile.job, event, event.strip or tile.strip)
        if isinstance(event, Finished):
            job = {**tile.job, "seed": event.output["seed"]}
            clip = Clip(event.path, self._playable(event.path), job, event.output)
            return Tile(job, event, None, clip)
        return Tile(tile.job, event, tile.strip)

    def clip(self, path: Path) -> Clip:
        """Return a clip of the folder, with a copy that a browser plays."""
        return Clip(path, self._playable(path), GalleryClip.of(path).job)

    def _playable(self, path: Path) -> Path:
        try:
            if format_of_content(path) in _SHOWN:
                return path
            return in_format(path, "webp", self.copies)
        except (EncodeError, AssetError, OSError):
            return path

    @property
    def copies(self) -> Path:
        """The folder of copies."""
        return self.folder / COPIES

    def gallery(self, words: str = "") -> list[GalleryClip]:
        """Return the clips whose prompts hold ``words``, the newest first."""
        return clips(self.folder, words)

    def named(self, name: str) -> Path | None:
        """Return the clip of this name, if the gallery has it; other paths are none."""
        paths = (clip.path for clip in self.gallery())
        return next((path for path in paths if path.name == name), None)


def words_of(error: AnimateDiffError | Mapping[str, Any]) -> str:
    """Return an error in words for people."""
    if isinstance(error, AnimateDiffError):
        return error.message
    return str(error.get("message") or error.get("code"))


def messages(error: Mapping[str, Any]) -> dict[str, str]:
    """Return the message for each row of the form that a failed job is about."""
    if "field" not in error:
        return {}
    details = {key: error[key] for key in error if key not in ("message", "retryable")}
    return messages_of(AnimateDiffError(str(error["message"]), **details))


def defaults(model: str, motion_module: str = "") -> Mapping[str, Any]:
    """Return the values that rows have when they are left empty."""
    name = model if model in catalog.BASE_MODELS else catalog.DEFAULT_MODEL
    module = catalog.MOTION_MODULES.get(motion_module)
    return {**defaults_by_model()[name], **(module.defaults if module else {})}

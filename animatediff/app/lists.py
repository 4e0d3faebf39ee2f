"""The rows of a form that are lists: LoRAs, textual inversions, and controls.

A page shows an entry for each file. What a person does there comes back as an act: the
words ``{"act", "place", "picture", "value"}`` of the browser.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..controls.picture_names import FORMATS, name_of
from ..errors import InvalidRequest

Entries = tuple[Mapping[str, Any], ...]
LISTS = ("loras", "embeddings", "controls")
"""The rows that are lists of files."""
MAX_PICTURE = 5_000_000
"""Bytes of a picture that a person brings."""
_NUMBERS = ("strength", "start", "end")


def with_file(entries: Entries, path: str) -> Entries:
    """Add the file at ``path``, unless it is there or empty."""
    known = any(entry["path"] == path for entry in entries)
    return entries if known or not path else (*entries, {"path": path})


def with_pictures(
    entries: Entries, path: str, urls: Sequence[str], frames: int
) -> Entries:
    """Give pictures to the control at ``path``, which is added if it is not there.

    The first one goes to the first frame, the last one to the last of ``frames``.
    """
    if not path or not urls:
        return entries
    known = {entry["path"]: entry for entry in entries}
    entry = known.get(path, {"path": path, "images": [], "frame_indices": []})
    images = [*entry["images"], *urls]
    indices = entry["frame_indices"]
    indices = [*indices, *_places(indices, len(urls), frames)]
    known[path] = {**entry, "images": images, "frame_indices": indices}
    return tuple(known.values())


def _places(taken: Sequence[int], count: int, frames: int) -> list[int]:
    """Frames for new pictures: spread over the clip, each to a free one if possible."""
    last = max(frames - 1, 0)
    if not taken:
        steps = max(count - 1, 1)
        return [round(i * last / steps) for i in range(count)]
    spare = [i for i in range(last, -1, -1) if i not in taken]
    return (spare + [last] * count)[:count]


def after(entries: Entries, act: Mapping[str, Any]) -> Entries:
    """Return the entries after a person's act; unknown acts change nothing."""
    try:
        place, name = int(act.get("place", -1)), str(act.get("act"))
        entry = entries[place] if place >= 0 else None
        if entry is None:
            return entries
        changed = _after(entry, name, act)
    except (ValueError, IndexError, OverflowError):
        return entries
    kept = (changed,) if changed else ()
    return (*entries[:place], *kept, *entries[place + 1 :])


def _after(
    entry: Mapping[str, Any], name: str, act: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The entry after an act; None if it is gone."""
    if name == "remove":
        return None
    if name in _NUMBERS:
        return {**entry, name: float(act["value"])}
    if name == "token":
        return {**entry, "token": str(act["value"]).strip() or None}
    picture = int(act.get("picture", 0))
    if name == "frame":
        indices = list(entry["frame_indices"])
        indices[picture] = int(act["value"])
        return {**entry, "frame_indices": indices}
    return _without_picture(entry, picture) if name == "remove-picture" else entry


def _without_picture(
    entry: Mapping[str, Any], picture: int
) -> Mapping[str, Any] | None:
    images, indices = list(entry["images"]), list(entry["frame_indices"])
    del images[picture], indices[picture]
    kept = {**entry, "images": images, "frame_indices": indices}
    return kept if images else None


def picture_url(path: Path) -> str:
    """Return a picture as a data URL. It is not decoded here.

    Raises InvalidRequest for a file that is no picture, or a large one.
    """
    if path.stat().st_size > MAX_PICTURE:
        allowed = f"at most {MAX_PICTURE // 1_000_000} MB"
        raise InvalidRequest("controls", path.name, allowed)
    content = path.read_bytes()
    kind = name_of(content)
    if kind not in FORMATS:
        raise InvalidRequest("controls", path.name, f"one of {', '.join(FORMATS)}")
    text = base64.b64encode(content).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"

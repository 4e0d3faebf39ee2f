"""What the page shows, as HTML. All text from outside is escaped here."""

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..serving.progress import UNITS
from .backends import Failed, Update, Waiting
from .desk import Clip, Tile, words_of
from .gallery import GalleryClip
from .lists import Entries
from .moving import Strip

FILES = "gradio_api/file="
"""Where the page's server has files, relative to the page."""
_PLAYED = {".mp4": "video", ".webm": "video"}
_UNITS: Mapping[str, str] = {**UNITS, "download": "byte"}
_PHASES = {
    "download": "downloading",
    "load": "loading the models",
    "encode": "reading the prompt",
    "denoise": "drawing",
    "decode": "decoding the frames",
    "write": "writing the file",
    "store": "storing the file",
}


def link(path: Path) -> str:
    """Return the address of a file that the page's server may show."""
    return FILES + quote(path.as_posix())


def moving(strip: Strip) -> str:
    """Return a preview that moves.

    It goes on where the preview before it was: it begins at the time of day.
    """
    phase = time.time() % strip.seconds
    style = (
        f"background-image:url({strip.url});--count:{strip.count};"
        f"animation-duration:{strip.seconds:.3f}s;animation-delay:-{phase:.3f}s;"
        f"animation-timing-function:steps({max(strip.count, 2)},jump-none)"
    )
    return (
        f'<div class="preview" role="img" aria-label="Preview" style="{style}"></div>'
    )


def player(path: Path, title: str, how: str) -> str:
    """Return an element that plays a clip again and again.

    ``how`` are attributes of a video.
    """
    source, words = escape(link(path)), escape(title)
    if path.suffix not in _PLAYED:
        return f'<img src="{source}" alt="{words}" loading="lazy">'
    return (
        f'<video src="{source}" {how} loop muted playsinline'
        f' aria-label="{words}"></video>'
    )


EMPTY = (
    '<div class="empty"><p><strong>Your clip appears here.</strong></p>'
    "<p>Write what you would like to see, and press Make the clip.</p></div>"
)


def stage(tiles: Sequence[Tile]) -> str:
    """Return the tiles of one click."""
    if not tiles:
        return EMPTY
    figures = "".join(_figure(tile, len(tiles) == 1) for tile in tiles)
    return f'<div class="tiles of-{min(len(tiles), 3)}">{figures}</div>'


def _figure(tile: Tile, alone: bool) -> str:
    screen = f'<div class="screen" style="aspect-ratio:{_aspect(tile.job)}">'
    state = type(tile.event).__name__.lower()
    return (
        f'<figure class="tile {state}">{screen}{_picture(tile, alone)}</div>'
        f"<figcaption>{_caption(tile)}</figcaption></figure>"
    )


def _aspect(job: Mapping[str, Any]) -> str:
    """The shape of the frames; square where the job leaves it open."""
    sizes = [job.get("width"), job.get("height")]
    return "/".join(f"{size:d}" if isinstance(size, int) else "1" for size in sizes)


def _picture(tile: Tile, alone: bool) -> str:
    if tile.clip is not None:
        how = "controls autoplay" if alone else "autoplay"
        return player(tile.clip.shown, str(tile.job.get("prompt", "")), how)
    return moving(tile.strip) if tile.strip else '<div class="blank"></div>'


def _caption(tile: Tile) -> str:
    event = tile.event
    if tile.clip is not None:
        return f"seed {escape(str(tile.job['seed']))}"
    if isinstance(event, Waiting):
        place = f"place {event.place} in the queue" if event.place else ""
        return escape(place or event.note or "waiting")
    if isinstance(event, Update):
        return _progress(event.fields)
    if isinstance(event, Failed):
        return f'<span class="wrong">{escape(words_of(event.error))}</span>'
    return "waiting"


def _progress(fields: Mapping[str, Any]) -> str:
    phase = str(fields.get("phase", ""))
    step, total = int(fields.get("step", 0)), int(fields.get("total", 0))
    words = _PHASES.get(phase, phase) or "starting"
    if total > 1:
        words += f", {_UNITS.get(phase, 'step')} {step} of {total}"
    left = fields.get("seconds_left")
    if left is not None:
        words += f", {float(left):.0f} s left"
    share = 100 * step / total if total > 1 else 0
    bar = (
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0"'
        f' aria-valuemax="100" aria-valuenow="{share:.0f}">'
        f'<div style="width:{share:.1f}%"></div></div>'
    )
    return f"{bar}<span>{escape(words)}</span>"


def facts(clip: Clip | None) -> str:
    """Return what is known of a clip: its seed, size, times and warnings."""
    if clip is None:
        return ""
    values = {**clip.job, **clip.output}
    lines = [escape(" · ".join(_sizes(values)))]
    if "timings" in clip.output:
        lines.append(escape(_times(clip.output["timings"])))
    if not clip.job:
        lines.append(escape(f"{clip.path.name} holds no settings."))
    warnings = "".join(f"<li>{escape(w)}</li>" for w in values.get("warnings", ()))
    listed = f"<ul>{warnings}</ul>" if warnings else ""
    prompt = escape(str(values.get("prompt", clip.path.name)))
    text = "".join(f"<p>{line}</p>" for line in lines if line)
    return f'<div class="facts"><p class="prompt">{prompt}</p>{text}{listed}</div>'


def _sizes(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("seed") is not None:
        yield f"seed {values['seed']}"
    if values.get("width") and values.get("height"):
        yield f"{values['width']} x {values['height']}"
    if values.get("num_frames"):
        yield f"{values['num_frames']} frames"
    if values.get("format"):
        yield str(values["format"])
    if values.get("bytes"):
        yield f"{values['bytes'] / 1000:.0f} kB"


def _times(timings: Mapping[str, float]) -> str:
    phases = ("load", "encode", "denoise", "decode", "write")
    parts = [f"{name} {timings[name]:.1f} s" for name in phases if timings.get(name)]
    total = timings.get("total", 0.0)
    return f"made in {total:.1f} s" + (f" ({', '.join(parts)})" if parts else "")


def summary(error: str, rows: Mapping[str, str]) -> str:
    """Return what is wrong with a form: a list whose entries lead to their rows."""
    entries = "".join(
        f'<li><a href="#field-{escape(name)}">{escape(name)}</a>:'
        f" {escape(message)}</li>"
        for name, message in rows.items()
    )
    words = f"<ul>{entries}</ul>" if entries else f"<p>{escape(error)}</p>"
    return f'<div class="summary" role="alert"><strong>Not yet:</strong>{words}</div>'


def note(words: str) -> str:
    """Return a line that says what has happened."""
    return f'<p class="note" role="status">{escape(words)}</p>' if words else ""


def cards(known: Sequence[GalleryClip], most: int) -> str:
    """Return the first ``most`` clips of the gallery."""
    if not known:
        return '<p class="empty-gallery">No clip yet, or none with these words.</p>'
    listed = "".join(map(_card, known[:most]))
    more = len(known) - most
    rest = f'<p class="more">and {more} more</p>' if more > 0 else ""
    return f'<ul class="cards">{listed}</ul>{rest}'


def _card(clip: GalleryClip) -> str:
    name, prompt = escape(clip.path.name), escape(clip.prompt)
    shown = (
        player(clip.path, clip.prompt, 'preload="metadata"')
        if clip.path.suffix != ".zip"
        else '<div class="blank">PNG frames</div>'
    )
    known = {**clip.job, "format": clip.path.suffix[1:], "seed": None}
    sizes = escape(" · ".join(_sizes(known)))
    return (
        f'<li><button type="button" data-act="open" data-place="0"'
        f' data-value="{name}" aria-label="Open: {prompt}">{shown}'
        f'<span class="prompt">{prompt}</span><span class="sizes">{sizes}</span>'
        "</button></li>"
    )


def files(name: str, entries: Entries, message: str = "") -> str:
    """Return the entries of the row ``name``: LoRAs or textual inversions."""
    listed = "".join(_file(name, i, entry) for i, entry in enumerate(entries))
    return _list(listed, message)


def _list(listed: str, message: str) -> str:
    wrong = f'<p class="wrong">{escape(message)}</p>' if message else ""
    return f'<ul class="entries">{listed}</ul>{wrong}' if listed or wrong else ""


def _file(name: str, place: int, entry: Mapping[str, Any]) -> str:
    inner = (
        _text(place, "token", entry.get("token") or "", "word")
        if name == "embeddings"
        else _number(place, "strength", entry.get("strength", 1.0), "strength")
    )
    return f"<li>{_named(place, entry)}{inner}</li>"


def _named(place: int, entry: Mapping[str, Any]) -> str:
    path = str(entry["path"])
    return (
        f'<button type="button" class="remove" data-act="remove"'
        f' data-place="{place}" aria-label="Remove {escape(path)}">&#10005;</button>'
        f'<span class="name" title="{escape(path)}">{escape(Path(path).name)}</span>'
    )


def _number(
    place: int, act: str, value: Any, label: str, picture: int | None = None
) -> str:
    step = "1" if picture is not None else "0.05"
    return _input(place, act, value, label, f'type="number" step="{step}"', picture)


def _text(place: int, act: str, value: str, label: str) -> str:
    return _input(place, act, value, label, 'type="text"', None)


def _input(
    place: int, act: str, value: Any, label: str, kind: str, picture: int | None
) -> str:
    which = "" if picture is None else f' data-picture="{picture}"'
    return (
        f'<label>{escape(label)} <input {kind} value="{escape(str(value))}"'
        f' data-act="{act}" data-place="{place}"{which}></label>'
    )


def controls(entries: Entries, frames: int, message: str = "") -> str:
    """Return the controls, each with its pictures on a strip of ``frames`` frames."""
    listed = "".join(_control(i, entry, frames) for i, entry in enumerate(entries))
    return _list(listed, message)


def _control(place: int, entry: Mapping[str, Any], frames: int) -> str:
    images, indices = entry.get("images", ()), entry.get("frame_indices", (0,))
    placed = list(zip(images, indices, range(len(images)), strict=False))
    cells = "".join(_cell(i, frames, placed) for i in range(frames))
    pictures = "".join(
        f"<li>{_thumb(image)}{_number(place, 'frame', index, 'frame', which)}"
        f'<button type="button" class="remove" data-act="remove-picture"'
        f' data-place="{place}" data-picture="{which}"'
        f' aria-label="Remove picture {which + 1}">&#10005;</button></li>'
        for image, index, which in placed
    )
    ends = _number(place, "start", entry.get("start", 0.0), "from")
    ends += _number(place, "end", entry.get("end", 1.0), "to")
    strength = _number(place, "strength", entry.get("strength", 1.0), "strength")
    return (
        f"<li>{_named(place, entry)}{strength}{ends}"
        f'<ol class="frames" aria-label="Frames with pictures">{cells}</ol>'
        f'<ul class="pictures">{pictures}</ul></li>'
    )


def _cell(frame: int, frames: int, placed: Sequence[tuple[Any, int, int]]) -> str:
    pictures = [image for image, index, _ in placed if index % frames == frame]
    if not pictures:
        return f'<li class="free"><span>{frame}</span></li>'
    return f'<li class="taken">{_thumb(pictures[-1])}<span>{frame}</span></li>'


def _thumb(image: Any) -> str:
    text = str(image)
    if text.startswith("data:image/"):
        return f'<img src="{escape(text)}" alt="picture">'
    return f'<span class="name">{escape(text[:40])}</span>'

"""Read off the frames of a clip which scene they show and how it moves.

The judge does not know the prompt.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .scene import (
    BACKGROUNDS,
    COLOURS,
    CONTENTS,
    SHAPES,
    SIZE,
    WATERMARK,
    WATERMARK_COLOUR,
    Scene,
    Thing,
)
from .world import coverage

# distance from the background's colour; a generated background's noise has a quarter of
# it
STANDS_OUT = 0.2
LEAST_CONTRAST = 0.25  # of the strongest pixel of a frame that shows something
# coverage above which a pixel belongs to the shape; a trail's strongest copy has 0.55
SOLID = 0.72
MIN_PIXELS = 16
MIN_SHARE = 0.6  # of the frames that must show an object
# Over the whole clip: pixels of way (true ones are 22 and more), pixels of the root of
# the area (12 and more).
MIN_WAY, MIN_GROWTH = 7.0, 4.0
MIN_ZOOM, MIN_ROLL = (
    np.log(1.2),
    np.deg2rad(20),
)  # true ones are log 1.6 and 80 degrees and more
SMALL, LARGE = 8.0, 11.9  # radii in pixels
AREA = {"circle": np.pi, "square": 3.168, "triangle": 1.99}  # of a shape of radius 1
TRIANGLE_CENTRE = 0.175  # its centre of mass lies below the middle of its box, in radii


@dataclass(frozen=True)
class Sight:
    """One object of one frame.

    ``x``, ``y``: the centre in pixels. ``size``: the root of the area in pixels.
    ``filling``: how full the middle is, 0..1.
    """

    frame: int
    colour: str
    shape: str
    x: float
    y: float
    size: float
    filling: float


@dataclass(frozen=True)
class CameraMove:
    """The camera's move that explains a clip best, and the amount of each move.

    Each amount is measured as if that move were the only one.
    ``move``: one of world.CAMERAS, or "still". ``pan``: pixels that the picture's
    contents go right and down over the clip. ``zoom``: natural logarithm of how many
    times larger they become. ``roll``: degrees that they turn clockwise. ``error``:
    root mean square of what ``move`` leaves unexplained, in pixels.
    """

    move: str
    pan: tuple[float, float]
    zoom: float
    roll: float
    error: float

    def amount(self, move: str) -> float:
        """Return how far the clip goes the way of ``move``; negative: the other way.

        Pixels for a pan, logarithm of the enlargement for a zoom, degrees for a roll.
        """
        if move in CONTENTS:
            dx, dy = CONTENTS[move]
            return dx * self.pan[0] + dy * self.pan[1]
        if move.startswith("zoom"):
            return self.zoom if move == "zoom_in" else -self.zoom
        return -self.roll if move == "roll_clockwise" else self.roll


@dataclass(frozen=True)
class Reading:
    """All that is read of a clip.

    ``scene`` is about the object that moves; of several or of none, the largest.
    ``speed``: pixels a frame, of its centre. ``growth``: pixels of its radius over the
    clip. ``kept``: the share of all frames that show it in its colour and its shape.
    ``style``: one of world.STYLES. Shapes are read upright: while the camera rolls,
    ``kept`` says nothing.
    """

    scene: Scene
    speed: float
    growth: float
    kept: float
    style: str
    watermark: bool
    camera: CameraMove


def judge(clip: np.ndarray) -> Scene | None:
    """Return the scene of a clip (f, SIZE, SIZE, 3), uint8 or 0..1.

    None where fewer than 6 in 10 frames show a shape.
    """
    reading = read(clip)
    return reading.scene if reading else None


def read(clip: np.ndarray) -> Reading | None:
    """Return all that can be read of a clip; see ``judge``.

    Raises ValueError for another size.
    """
    if clip.ndim != 4 or clip.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(
            f"the judge reads frames of {SIZE}x{SIZE} pixels, got {clip.shape}"
        )
    frames = (clip / np.float32(255) if clip.dtype == np.uint8 else clip).astype(
        np.float32
    )
    count = len(frames)
    backgrounds = _backgrounds(frames)
    tracks = [
        track
        for track in _track(_sights(frames, backgrounds))
        if len(track) >= MIN_SHARE * count
    ]
    if not tracks:
        return None
    background = np.median(backgrounds, axis=0)
    tracks.sort(key=_radius, reverse=True)
    tracks.sort(
        key=lambda track: _motion(track, count)[0] == "still"
    )  # what moves comes first, then what is large
    subject = tracks[0]
    motion, x, y, growth = _motion(subject, count)
    colour, shape = _most(subject, "colour"), _most(subject, "shape")
    other = (
        Thing(_most(tracks[1], "colour"), _most(tracks[1], "shape"))
        if len(tracks) > 1
        else None
    )
    scene = Scene(
        colour,
        shape,
        _nearest(BACKGROUNDS, background),
        motion,
        _size(subject, motion),
        other,
    )
    return Reading(
        scene=scene,
        speed=float(np.hypot(x, y)) / max(count - 1, 1),
        growth=growth / AREA[shape] ** 0.5,
        kept=sum(sight.colour == colour and sight.shape == shape for sight in subject)
        / count,
        style=_style(subject, background),
        watermark=_has_watermark(frames, background),
        camera=_camera(tracks[:2], count),
    )


# ------------------------------------------------------------------------------
# one frame


def _backgrounds(frames: np.ndarray) -> np.ndarray:
    """Return (f, 3), the median of each frame's edge, two pixels wide."""
    count = len(frames)
    sides = (frames[:, :2], frames[:, -2:], frames[:, :, :2], frames[:, :, -2:])
    edges = [side.reshape(count, -1, 3) for side in sides]
    return np.median(np.concatenate(edges, axis=1), axis=1)


def _sights(frames: np.ndarray, backgrounds: np.ndarray) -> list[Sight]:
    """Return every object of every frame, frame by frame."""
    away = np.linalg.norm(frames - backgrounds[:, None, None], axis=3)
    labels = _connected(away > STANDS_OUT)
    parts = []  # frame, colour, body, the colour's share of each pixel
    for i, frame in enumerate(frames):
        if away[i].max() < LEAST_CONTRAST:
            continue
        names, counts = np.unique(labels[i], return_counts=True)
        for name in names[(counts >= MIN_PIXELS) & (names > 0)]:
            part = labels[i] == name
            strongest = np.sort(away[i][part])[-min(20, part.sum() // 3)]
            colour = _best_colour(
                np.median(frame[part & (away[i] > 0.75 * strongest)], axis=0),
                backgrounds[i],
            )
            towards = np.array(COLOURS[colour]) - backgrounds[i]
            share = (frame - backgrounds[i]) @ towards / (towards @ towards)
            solid = part & (share > SOLID)
            if solid.sum() >= MIN_PIXELS:
                parts.append((i, colour, _fill_rows(solid), share))
    if not parts:
        return []
    bodies = np.stack([body for _, _, body, _ in parts])
    area = bodies.sum(axis=(1, 2))
    across = np.arange(SIZE) + 0.5
    x, y = bodies.sum(axis=1) @ across / area, bodies.sum(axis=2) @ across / area
    shapes = _best_shapes(bodies, x, y)
    sights = []
    for k, (i, colour, body, share) in enumerate(parts):
        distance = np.hypot(across - x[k], across[:, None] - y[k]) / np.sqrt(area[k])
        middle = share[body & (distance < 0.25)]
        filling = (
            float(np.quantile(middle, 0.2)) if middle.size else 1.0
        )  # a growing shape's core has 0.5
        sights.append(
            Sight(
                i,
                colour,
                shapes[k],
                float(x[k]),
                float(y[k]),
                float(np.sqrt(area[k])),
                filling,
            )
        )
    return sights


def _connected(mask: np.ndarray) -> np.ndarray:
    """Number the groups of pixels that touch side to side in one frame of (f, h, w).

    Numbers are above 0; pixels outside the mask have 0.
    """
    height, width = mask.shape[1:]
    labels = np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape) * mask
    while True:
        before = labels
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
            labels = np.maximum(
                labels, padded[:, rows : rows + height, columns : columns + width]
            )
        labels = labels * mask
        if (labels == before).all():
            return labels


def _nearest(table: dict, colour: np.ndarray) -> str:
    return min(
        table, key=lambda name: float(((np.array(table[name]) - colour) ** 2).sum())
    )


def _best_colour(seen: np.ndarray, background: np.ndarray) -> str:
    """Return the nearest colour, with up to a quarter of background mixed in.

    Thin lines are never quite full.
    """

    def distance(name: str) -> float:
        towards = np.array(COLOURS[name]) - background
        share = np.clip((seen - background) @ towards / (towards @ towards), 0.75, 1.0)
        return float(np.linalg.norm(seen - background - share * towards))

    return min(COLOURS, key=distance)


def _fill_rows(solid: np.ndarray) -> np.ndarray:
    """Fill each row from its first to its last solid pixel.

    A growing shape has a pale core, and an outline has a hole.
    """
    from_left = np.maximum.accumulate(solid, axis=1)
    from_right = np.maximum.accumulate(solid[:, ::-1], axis=1)[:, ::-1]
    return from_left & from_right


def _best_shapes(bodies: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[str]:
    """Return for each of the bodies (k, h, w) the shape that differs least.

    The shape is drawn at the same place with the same area.
    """
    errors = np.full((len(SHAPES), len(bodies)), np.inf)
    areas = bodies.sum(axis=(1, 2))
    for row, shape in enumerate(SHAPES):
        for stretch in (0.94, 1.0, 1.06):
            radius = np.sqrt(areas / AREA[shape]) * stretch
            middle = y - TRIANGLE_CENTRE * radius if shape == "triangle" else y
            difference = coverage(shape, x, middle, radius) - bodies
            error = (difference**2).sum(axis=(1, 2))
            errors[row] = np.minimum(errors[row], error)
    return [SHAPES[row] for row in errors.argmin(axis=0)]


# ------------------------------------------------------------------------------
# over time


def _track(sights: list[Sight]) -> list[list[Sight]]:
    """Return the sights of each object.

    From frame to frame the nearest belong together, however far; the rest are new.
    """
    tracks: list[list[Sight]] = []
    for frame in sorted({sight.frame for sight in sights}):
        present = [sight for sight in sights if sight.frame == frame]
        largest = sorted(present, key=lambda sight: -sight.size)[:3]
        tracks += [[sight] for sight in _continued(tracks, largest)]
    return tracks


def _continued(tracks: list[list[Sight]], sights: list[Sight]) -> list[Sight]:
    """Append to each track the nearest sight. Return the sights without a track."""
    pairs = sorted(
        (np.hypot(track[-1].x - sight.x, track[-1].y - sight.y), t, s)
        for t, track in enumerate(tracks)
        for s, sight in enumerate(sights)
    )
    continued: set[int] = set()
    used: set[int] = set()
    for _, t, s in pairs:
        if t not in continued and s not in used:
            tracks[t].append(sights[s])
            continued.add(t)
            used.add(s)
    return [sight for s, sight in enumerate(sights) if s not in used]


def _motion(track: list[Sight], count: int) -> tuple[str, float, float, float]:
    """Return the motion's name, pixels right, pixels down, and growth.

    Growth is that of the root of the area, over a clip of ``count`` frames.
    """
    times = np.array([sight.frame for sight in track])
    values = np.array([(sight.x, sight.y, sight.size) for sight in track])
    x, y, growth = (
        np.polyfit(times, values, 1)[0] * (count - 1) if len(track) > 1 else np.zeros(3)
    )
    if max(abs(x), abs(y)) > max(MIN_WAY, abs(growth)):
        motion = (
            ("right" if x > 0 else "left")
            if abs(x) > abs(y)
            else ("down" if y > 0 else "up")
        )
    elif abs(growth) > MIN_GROWTH:
        motion = "growing" if growth > 0 else "shrinking"
    else:
        motion = "still"
    return motion, float(x), float(y), float(growth)


def _radius(track: list[Sight]) -> float:
    return (
        float(np.median([sight.size for sight in track]))
        / AREA[_most(track, "shape")] ** 0.5
    )


def _most(sights: Iterable[Sight], name: str) -> str:
    counts = Counter(getattr(sight, name) for sight in sights)
    ((most, _),) = counts.most_common(1)
    return most


def _size(track: list[Sight], motion: str) -> str | None:
    radius = _radius(track)
    if motion in ("growing", "shrinking") or SMALL <= radius <= LARGE:
        return None
    return "small" if radius < SMALL else "large"


def _style(track: list[Sight], background: np.ndarray) -> str:
    if (
        np.ptp(background) > 0.09
    ):  # the plain ones are gray, the sepia ones have 0.18 and more
        return "sepia"
    large = sorted(track, key=lambda sight: -sight.size)[: max(1, len(track) // 2)]
    return (
        "outline" if np.median([sight.filling for sight in large]) < 0.35 else "plain"
    )


def _has_watermark(frames: np.ndarray, background: np.ndarray) -> bool:
    """Return whether the strip along the lower edge has the watermark's colour.

    The middle of the strip is nearer to it than to ``background`` (3,).
    """
    quarter = (WATERMARK.stop - WATERMARK.start) // 4
    strip = np.median(
        frames[:, WATERMARK.start + quarter : WATERMARK.stop - quarter], axis=(0, 1, 2)
    )
    return bool(
        np.linalg.norm(strip - WATERMARK_COLOUR) < np.linalg.norm(strip - background)
    )


# ------------------------------------------------------------------------------
# the camera


class _Path(NamedTuple):
    """An object's way through a clip; arrays have one number for each sight."""

    times: np.ndarray
    """-0.5 at the first frame of the clip, 0.5 at the last."""
    way: np.ndarray
    """Complex pixels from the middle of the picture."""
    radius: np.ndarray


def _camera(tracks: list[list[Sight]], count: int) -> CameraMove:
    """Fit each kind of move to all objects' ways and sizes.

    Moves have a constant rate, about the middle of the picture.
    """
    paths = [_path_of(track, count) for track in tracks]
    zooms, turns = np.linspace(-1.5, 1.5, 301), np.deg2rad(np.linspace(-180, 180, 361))
    zoom_errors = _misfit(paths, zooms, 0 * zooms)
    turn_errors = _misfit(paths, 0 * turns, turns)
    zoom, turn = zooms[zoom_errors.argmin()], turns[turn_errors.argmin()]
    pan = _pan_of(paths)
    zoom_name = "zoom_in" if zoom > 0 else "zoom_out"
    turn_name = "roll_anticlockwise" if turn > 0 else "roll_clockwise"
    best, move, is_enough = min(
        (_pan_misfit(paths, pan), _pan_name(pan), abs(pan) > MIN_WAY),
        (zoom_errors.min(), zoom_name, abs(zoom) > MIN_ZOOM),
        (turn_errors.min(), turn_name, abs(turn) > MIN_ROLL),
    )
    if not is_enough:
        best, move = _misfit(paths, np.zeros(1), np.zeros(1))[0], "still"
    total = sum(len(path.times) for path in paths)
    error = float(np.sqrt(best / total))
    return CameraMove(
        move, (pan.real, pan.imag), float(zoom), float(np.rad2deg(turn)), error
    )


def _path_of(track: list[Sight], count: int) -> _Path:
    """Return the way of an object through a clip of ``count`` frames."""
    middle = SIZE / 2
    times = np.array([sight.frame for sight in track]) / max(count - 1, 1) - 0.5
    ways = [complex(sight.x - middle, sight.y - middle) for sight in track]
    sizes = np.array([sight.size for sight in track])
    return _Path(times, np.array(ways), sizes / AREA[_most(track, "shape")] ** 0.5)


def _misfit(paths: list[_Path], zooms: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return the squared pixels that each zoom and turn leaves unexplained: (n,).

    Each object has its best place and radius.
    """
    left = np.zeros(len(zooms))
    for times, way, radius in paths:
        scale = np.exp(zooms[:, None] * times)
        path = scale * np.exp(1j * turns[:, None] * times)
        weight = (scale**2).sum(axis=1)
        place = (path.conj() * way).sum(axis=1) / weight
        start = (scale * radius).sum(axis=1) / weight
        left += (abs(way - place[:, None] * path) ** 2).sum(axis=1)
        left += ((radius - start[:, None] * scale) ** 2).sum(axis=1)
    return left


def _pan_of(paths: list[_Path]) -> complex:
    """Return the pixels that all objects go over the clip, right and down."""
    product, square = 0j, 0.0
    for times, way, _ in paths:
        centred = times - times.mean()
        product += (centred * way).sum()
        square += (centred**2).sum()
    return complex(product / max(square, 1e-9))


def _pan_misfit(paths: list[_Path], pan: complex) -> float:
    """Return the squared pixels that ``pan`` leaves unexplained."""
    left = 0.0
    for times, way, radius in paths:
        centred = times - times.mean()
        off = (abs(way - way.mean() - pan * centred) ** 2).sum()
        left += off + ((radius - radius.mean()) ** 2).sum()
    return left


def _pan_name(pan: complex) -> str:
    """Return the camera's move; the picture goes the other way."""
    if abs(pan.real) > abs(pan.imag):
        return "pan_left" if pan.real > 0 else "pan_right"
    return "pan_up" if pan.imag > 0 else "pan_down"

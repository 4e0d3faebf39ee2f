"""Reads colour, shape, background and motion off the frames of a clip. Knows nothing of the prompt."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from world import BACKGROUNDS, COLOURS, NUM_FRAMES, SHAPES, Scene, coverage

SOLID = 0.72  # coverage above which a pixel belongs to the shape; a trail's strongest copy has 0.55
MIN_PIXELS = 16
MIN_WAY, MIN_GROWTH = (
    7.0,
    4.0,
)  # pixels over the whole clip; true ones are 22 and more, and 19 (of the root of the area)
AREA = {"circle": np.pi, "square": 3.168, "triangle": 1.99}  # of a shape of radius 1
TRIANGLE_CENTRE = 0.175  # its centre of mass lies below the middle of its box, in radii


@dataclass(frozen=True)
class Sight:
    """One frame: what is there, its centre and the root of its area in pixels."""

    colour: str
    shape: str
    background: str
    x: float
    y: float
    size: float


def look(frame: np.ndarray) -> Sight | None:
    """(h, w, 3), values 0..1. None where nothing stands out from the background."""
    edge = np.concatenate([frame[:2].reshape(-1, 3), frame[-2:].reshape(-1, 3), frame[:, :2].reshape(-1, 3)])
    background = np.median(edge, axis=0)
    away = np.linalg.norm(frame - background, axis=2)
    if away.max() < 0.25:
        return None
    strongest = away > 0.75 * np.quantile(away, 0.995)
    colour = _nearest(COLOURS, np.median(frame[strongest], axis=0))
    towards = np.array(COLOURS[colour]) - background
    solid = (frame - background) @ towards / (towards @ towards) > SOLID
    if solid.sum() < MIN_PIXELS:
        return None
    body = _fill_rows(solid)
    area = body.sum()
    rows, columns = np.nonzero(body)
    x, y = columns.mean() + 0.5, rows.mean() + 0.5
    return Sight(colour, _best_shape(body, x, y), _nearest(BACKGROUNDS, background), x, y, np.sqrt(area))


def judge(clip: np.ndarray) -> Scene | None:
    """(f, h, w, 3), uint8 or 0..1. None where fewer than 6 in 10 frames show a shape."""
    frames = clip / 255.0 if clip.dtype == np.uint8 else clip
    seen = [(i, sight) for i, frame in enumerate(frames) if (sight := look(frame))]
    if len(seen) < 0.6 * len(frames):
        return None
    times = np.array([i for i, _ in seen])
    x, y, growth = (
        np.polyfit(times, [getattr(sight, name) for _, sight in seen], 1)[0] * (NUM_FRAMES - 1)
        for name in ("x", "y", "size")
    )
    if max(abs(x), abs(y)) > max(MIN_WAY, abs(growth)):
        motion = ("right" if x > 0 else "left") if abs(x) > abs(y) else ("down" if y > 0 else "up")
    elif abs(growth) > MIN_GROWTH:
        motion = "growing" if growth > 0 else "shrinking"
    else:
        motion = "still"
    sights = [sight for _, sight in seen]
    return Scene(_most(sights, "colour"), _most(sights, "shape"), _most(sights, "background"), motion)


def _nearest(table: dict, colour: np.ndarray) -> str:
    return min(table, key=lambda name: float(((np.array(table[name]) - colour) ** 2).sum()))


def _fill_rows(solid: np.ndarray) -> np.ndarray:
    """From the first to the last solid pixel of each row: a growing shape has a pale core."""
    filled = np.zeros_like(solid)
    for y in np.flatnonzero(solid.any(axis=1)):
        columns = np.flatnonzero(solid[y])
        filled[y, columns[0] : columns[-1] + 1] = True
    return filled


def _best_shape(body: np.ndarray, x: float, y: float) -> str:
    """The shape that, drawn at the same place with the same area, differs least."""
    errors = {}
    for shape in SHAPES:
        radius = np.sqrt(body.sum() / AREA[shape])
        for stretch in (0.94, 1.0, 1.06):
            size = radius * stretch
            middle = y - TRIANGLE_CENTRE * size if shape == "triangle" else y
            error = float(((coverage(shape, x, middle, size) - body) ** 2).sum())
            errors[shape] = min(error, errors.get(shape, np.inf))
    return min(errors, key=errors.__getitem__)


def _most(sights: list[Sight], name: str) -> str:
    return Counter(getattr(sight, name) for sight in sights).most_common(1)[0][0]

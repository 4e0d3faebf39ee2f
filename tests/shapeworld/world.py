"""The world that the embedded family was trained on: one flat shape on a plain background, moving. Own rendering.

A scene is drawn from its description, so that the judge can be tested on clips whose truth is known.
"""

from dataclasses import dataclass

import numpy as np

SIZE, NUM_FRAMES = 64, 16
COLOURS = {
    "red": (0.88, 0.12, 0.12),
    "green": (0.10, 0.66, 0.22),
    "blue": (0.14, 0.28, 0.90),
    "yellow": (0.96, 0.84, 0.12),
    "purple": (0.60, 0.16, 0.74),
    "orange": (0.97, 0.52, 0.08),
}
BACKGROUNDS = {"black": (0.04,) * 3, "white": (0.96,) * 3, "gray": (0.50,) * 3}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOTIONS = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "growing": "growing",
    "shrinking": "shrinking",
    "still": "standing still",
}

_Y, _X = np.mgrid[:SIZE, :SIZE] + 0.5


@dataclass(frozen=True)
class Scene:
    """What a prompt can say."""

    colour: str
    shape: str
    background: str
    motion: str

    @property
    def prompt(self) -> str:
        return f"a {self.colour} {self.shape} on a {self.background} background, {MOTIONS[self.motion]}"


def random_scene(rng: np.random.Generator, motion: str | None = None) -> Scene:
    pick = rng.choice
    return Scene(
        str(pick(list(COLOURS))),
        str(pick(SHAPES)),
        str(pick(list(BACKGROUNDS))),
        motion or str(pick(list(MOTIONS))),
    )


def coverage(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """How much of each pixel the shape covers, 0..1, from its signed distance. (SIZE, SIZE)"""
    dx, dy = _X - x, _Y - y
    if shape == "circle":
        distance = np.hypot(dx, dy) - radius
    elif shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - 0.89 * radius
    else:
        half = 1.05 * radius
        distance = np.maximum(dy - 0.8 * half, (2 * abs(dx) - (dy + 1.1 * half)) / np.sqrt(5))
    return np.clip(0.5 - distance, 0, 1)


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A clip of ``scene`` somewhere in the picture: (f, h, w, 3), values 0..1."""
    x, y = rng.uniform(18, 46, 2)
    radius, way, middle = rng.uniform(8.5, 11.5), rng.uniform(22, 30), rng.uniform(29, 35)
    frames = []
    for time in np.linspace(0, 1, NUM_FRAMES):
        if scene.motion in DIRECTIONS:
            along = np.array(DIRECTIONS[scene.motion]) * way * (time - 0.5)
            place = (middle + along[0], y) if along[0] or scene.motion in ("left", "right") else (x, middle + along[1])
        elif scene.motion == "still":
            place = (x, y)
        else:
            place = (np.clip(x, 22, 42), np.clip(y, 22, 42))
            radius = 6 + 11 * (time if scene.motion == "growing" else 1 - time)
        frames.append(_frame(scene, place, radius))
    return np.stack(frames)


def _frame(scene: Scene, place: tuple[float, float], radius: float) -> np.ndarray:
    colour, background = np.array(COLOURS[scene.colour]), np.array(BACKGROUNDS[scene.background])
    picture = np.broadcast_to(background, (SIZE, SIZE, 3))

    def paint(x: float, y: float, size: float, strength: float) -> None:
        nonlocal picture
        covered = coverage(scene.shape, x, y, size)[..., None]
        picture = picture * (1 - covered) + (strength * colour + (1 - strength) * background) * covered

    if scene.motion in DIRECTIONS:  # fading copies behind it: a single frame shows the direction
        dx, dy = DIRECTIONS[scene.motion]
        for step, strength in ((3, 0.22), (2, 0.38), (1, 0.55)):
            paint(place[0] - 4.8 * step * dx, place[1] - 4.8 * step * dy, radius * (1 - 0.12 * step), strength)
    if scene.motion == "shrinking":
        paint(*place, radius * 1.35, 0.4)
    paint(*place, radius, 1.0)
    if scene.motion == "growing":
        paint(*place, radius * 0.5, 0.5)
    return picture

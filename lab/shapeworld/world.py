"""Draw the world of the embedded family: one or two flat shapes on a plain background.

A scene lists the objects, a shot defines how they are shown, and a stage places them in
every frame. Coordinates are pixels, x to the right and y down. Whatever chance decides
comes from a numpy generator.
"""

import cmath
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .captions import Caption
from .scene import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    CONTENTS,
    DIRECTIONS,
    MOTIONS,
    NUM_FRAMES,
    PLAIN,
    SEPIA,
    SHAPES,
    SIZE,
    SIZE_WORDS,
    WATERMARK,
    WATERMARK_COLOUR,
    Scene,
    Shot,
    Thing,
)

SPLITS = ("train", "validation", "held_out")
NUM_HELD_OUT = 42  # of 378 combinations

RADII = {None: (8.7, 11.3), "small": (6.3, 7.4), "large": (12.5, 15.0)}
_EXTENT = {
    "circle": 1.0,
    "square": 1.26,
    "triangle": 1.31,
}  # of the farthest corner, in radii
_TRAIL = (
    (3, 0.22),
    (2, 0.38),
    (1, 0.55),
)  # fading copies: how many steps behind, how strong
_TRAIL_STEP = 4.8
_MIDDLE = SIZE / 2
_ACROSS = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)


@dataclass(frozen=True, eq=False)
class Body:
    """A shape in every frame. Arrays are (f,).

    Centre and radius are in pixels; ``angle`` is in radians, clockwise.
    ``cue`` is the motion that each single frame must show: a motion module never sees
    the prompt.
    """

    colour: str
    shape: str
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray | None = None
    cue: str = "still"


@dataclass(frozen=True, eq=False)
class Clip:
    """One training clip.

    ``frames``: uint8 (f, SIZE, SIZE, 3). ``mask``: bool (f, SIZE/CELL, SIZE/CELL).
    ``mask`` is true for latents in whose reach something else than background is, with
    one latent around.
    """

    frames: np.ndarray
    mask: np.ndarray
    scene: Scene
    bodies: tuple[Body, ...]


# ------------------------------------------------------------------------------
# scenes


def random_scene(rng: np.random.Generator, motion: str | None = None) -> Scene:
    """Draw one of the 378 combinations, held out or not."""
    pick = rng.choice
    return Scene(
        str(pick(list(COLOURS))),
        str(pick(SHAPES)),
        str(pick(list(BACKGROUNDS))),
        motion or str(pick(list(MOTIONS))),
    )


def held_out_scenes(n: int = NUM_HELD_OUT) -> list[Scene]:
    """Return ``n`` scenes whose combinations no training clip has.

    They are the same 42 again and again, 6 of each motion.
    Any 7 in a row have all motions, 42 have each colour 7 times, each shape and
    background 14 times.
    """
    motions, colours, backgrounds = list(MOTIONS), list(COLOURS), list(BACKGROUNDS)
    scenes = []
    for i in range(n):
        motion, turn = i % 7, i // 7 % 6
        colour = (turn + motion) % 6
        shape, background = (colour + motion) % 3, (colour // 3 + turn + 2 * motion) % 3
        scenes.append(
            Scene(
                colours[colour], SHAPES[shape], backgrounds[background], motions[motion]
            )
        )
    return scenes


_HELD_OUT = frozenset(scene.combination for scene in held_out_scenes())


def scene_of(
    rng: np.random.Generator,
    split: str = "train",
    shot: Shot = PLAIN,
    two_objects: float = 0.15,
    sized: float = 0.3,
) -> Scene:
    """Draw a scene of ``split``.

    ``two_objects``: the share with a second object. ``sized``: the share with a size.
    Only what neither grows nor shrinks, under a camera that stands still, has a size. A
    rolling camera always sees two objects, and a zooming one in half of its clips.
    """
    scene = _scene_in(split, rng, "still" if shot.camera else None)
    size_draw, other_draw = rng.random(2)
    if size_draw < sized and _can_have_a_size(scene, shot):
        scene = replace(scene, size=str(rng.choice(list(SIZE_WORDS))))
    # the second object is the smaller one
    if other_draw < _share_of_two(shot, two_objects) and scene.size != "small":
        scene = replace(scene, other=_other_thing(scene, rng))
    return scene


def _scene_in(split: str, rng: np.random.Generator, motion: str | None) -> Scene:
    """Draw scenes until one belongs to ``split``."""
    while True:
        scene = random_scene(rng, motion)
        if (scene.combination in _HELD_OUT) == (split == "held_out"):
            return scene


def _can_have_a_size(scene: Scene, shot: Shot) -> bool:
    return not shot.camera and scene.motion not in ("growing", "shrinking")


def _share_of_two(shot: Shot, usual: float) -> float:
    """Return the share of scenes with a second object."""
    kind, _, _ = (shot.camera or "").partition("_")
    shares = {"roll": 1.0, "zoom": max(0.5, usual)}
    return shares.get(kind, usual)


def _other_thing(scene: Scene, rng: np.random.Generator) -> Thing:
    """Draw a second object of another colour."""
    colours = [colour for colour in COLOURS if colour != scene.colour]
    colour = str(rng.choice(colours))
    return Thing(colour, str(rng.choice(SHAPES)))


ATTRIBUTES = {
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "background": [None, *BACKGROUNDS],
    "motion": [None, *MOTIONS],
    "size": [None, *SIZE_WORDS],
    "other_colour": [None, *COLOURS],
    "other_shape": [None, *SHAPES],
}
"""The attributes that a caption can state, and their values; None: unstated."""


def attributes(scene: Scene, caption: Caption) -> dict[str, int]:
    """Return the attributes in ``caption``, as places in the lists of ATTRIBUTES."""
    stated = {
        "colour": scene.colour,
        "shape": scene.shape,
        "background": scene.background if caption.background else None,
        "motion": scene.motion if caption.motion else None,
        "size": scene.size if caption.size else None,
        "other_colour": scene.other and scene.other.colour,
        "other_shape": scene.other and scene.other.shape,
    }
    return {name: values.index(stated[name]) for name, values in ATTRIBUTES.items()}


# ------------------------------------------------------------------------------
# staging


def stage(
    scene: Scene,
    rng: np.random.Generator,
    shot: Shot = PLAIN,
    num_frames: int = NUM_FRAMES,
) -> tuple[Body, ...]:
    """Place everything in every frame; the last body is the scene's subject."""
    if shot.camera:
        return _before_the_camera(scene, rng, shot.camera, shot.amount, num_frames)
    time = np.linspace(0, 1, num_frames)
    radius = rng.uniform(*RADII[scene.size])
    x, y = rng.uniform(18, 46, 2)
    way, middle = rng.uniform(22, 30), rng.uniform(29, 35)
    if scene.other:  # to one side, so that there is room on the other
        aside = max(radius, 10.0) + rng.uniform(2, 5, 2)
        x, y = np.where(rng.random(2) < 0.5, aside, SIZE - aside)
    radii = np.full(num_frames, radius)
    if scene.motion in DIRECTIONS:
        dx, dy = DIRECTIONS[scene.motion]
        along = way * (time - 0.5)
        xs = middle + dx * along if dx else np.full(num_frames, x)
        ys = middle + dy * along if dy else np.full(num_frames, y)
    else:
        if scene.motion != "still":
            low, high = (20, 44) if scene.other else (22, 42)
            x, y = np.clip((x, y), low, high)
            radii = _changing_radii(scene, shot, time)
        xs, ys = np.full(num_frames, x), np.full(num_frames, y)
    subject = Body(scene.colour, scene.shape, xs, ys, radii, cue=scene.motion)
    if not scene.other:
        return (subject,)
    return _second_body(scene.other, subject, rng), subject


def _changing_radii(scene: Scene, shot: Shot, time: np.ndarray) -> np.ndarray:
    """Return the radii of what grows or shrinks, over ``time`` 0..1."""
    least, growth = (6.5, 7.0) if scene.other else (6.0, 11.0)
    if shot.style == "outline":  # a ring needs room for its hole
        least, growth = least + 2, growth - 1
    return least + growth * (time if scene.motion == "growing" else 1 - time)


def _second_body(thing: Thing, subject: Body, rng: np.random.Generator) -> Body:
    """Place a smaller object that stands still."""
    radius = min(rng.uniform(6.4, 7.4), 0.8 * subject.radius.max())
    reach = radius * _EXTENT[thing.shape]
    x, y = _clear_place(subject, reach, rng)
    still = np.ones(len(subject.x))
    xs, ys, radii = x * still, y * still, radius * still
    return Body(thing.colour, thing.shape, xs, ys, radii)


def _clear_place(subject: Body, reach: float, rng: np.random.Generator) -> np.ndarray:
    """Return a place (2,) for an object that extends ``reach`` pixels.

    There it does not touch the subject's way, trail or halo; if there is no such place,
    the farthest one.
    """
    places = rng.uniform(reach + 2, SIZE - reach - 2, (64, 2))
    dx, dy = DIRECTIONS.get(subject.cue, (0, 0))
    way = np.stack([subject.x, subject.y], axis=1)
    way = np.concatenate([way, way - 3 * _TRAIL_STEP * np.array([dx, dy])])
    gaps = np.linalg.norm(places[:, None] - way, axis=2).min(axis=1)
    wide = (
        subject.radius.max()
        * _EXTENT[subject.shape]
        * (1.35 if subject.cue == "shrinking" else 1.0)
    )
    clear = gaps > wide + reach + 1.5
    return places[clear.argmax() if clear.any() else gaps.argmax()]


class _CameraPath(NamedTuple):
    """The places of things, and how a camera changes them in each frame."""

    places: np.ndarray
    """Complex pixels from the middle, halfway through the clip."""
    radii: tuple[float, float]
    shift: np.ndarray | float = 0.0
    scale: np.ndarray | float = 1.0
    turn: np.ndarray | float = 0.0
    """Radians, clockwise."""


def _before_the_camera(
    scene: Scene, rng: np.random.Generator, camera: str, amount: float, num_frames: int
) -> tuple[Body, ...]:
    if scene.motion != "still":
        raise ValueError(
            f"a camera moves over a scene that stands still, not one with the motion"
            f" {scene.motion!r}"
        )
    # the share of the whole way; halfway the scene is as it was staged
    along = amount * (np.linspace(0, 1, num_frames) - 0.5)
    things = [Thing(scene.colour, scene.shape), *([scene.other] if scene.other else [])]
    if camera in CONTENTS:
        path = _pan(camera, along, len(things), rng)
    elif camera.startswith("zoom"):
        path = _zoom(camera, along, len(things), rng)
    else:
        path = _roll(camera, along, len(things), rng)
    bodies = [
        _moved_body(thing, place, radius, path, num_frames)
        for thing, place, radius in zip(things, path.places, path.radii, strict=False)
    ]
    return tuple(reversed(bodies))


def _moved_body(
    thing: Thing, place: complex, radius: float, path: _CameraPath, num_frames: int
) -> Body:
    turn = path.turn + np.zeros(num_frames)
    shift = path.shift + np.zeros(num_frames, complex)
    scale = path.scale * np.ones(num_frames)
    way = scale * place * np.exp(1j * turn) + shift
    x, y = _MIDDLE + way.real, _MIDDLE + way.imag
    angle = turn if turn.any() else None
    return Body(thing.colour, thing.shape, x, y, radius * scale, angle)


def _pan(
    camera: str, along: np.ndarray, count: int, rng: np.random.Generator
) -> _CameraPath:
    dx, dy = CONTENTS[camera]
    shift = rng.uniform(22, 30) * along * complex(dx, dy)
    # as if for a pan sideways
    places = rng.uniform(-3, 3, count) + 1j * rng.uniform(-13, 13, count)
    if count == 2:
        side = 1j * rng.choice([-1, 1])
        places = places.real + side * (np.array([1, -1]) * rng.uniform(12, 16))
    if dy:
        places = places * 1j
    return _CameraPath(places, (rng.uniform(9.0, 10.0), rng.uniform(6.6, 7.6)), shift)


def _zoom(
    camera: str, along: np.ndarray, count: int, rng: np.random.Generator
) -> _CameraPath:
    sign = 1 if camera == "zoom_in" else -1
    scale = rng.uniform(1.6, 2.0) ** (along * sign)
    distance = rng.uniform(10.5, 12.0) if count == 2 else rng.uniform(4, 11)
    places = _opposite(rng, rng.uniform(0, 2 * np.pi), distance, count)
    radii = rng.uniform(8.0, 9.0), rng.uniform(6.0, 6.8)
    return _CameraPath(places, radii, scale=scale)


def _roll(
    camera: str, along: np.ndarray, count: int, rng: np.random.Generator
) -> _CameraPath:
    # the picture turns the other way than the camera
    sign = -1 if camera == "roll_clockwise" else 1
    turn = np.deg2rad(rng.uniform(80, 100)) * along * sign
    # side by side halfway: were all angles as likely, a frame's mean over all clips
    # would not tell the way
    aside = np.pi * rng.integers(2) + rng.uniform(-0.2, 0.2)
    places = _opposite(rng, aside, rng.uniform(14, 16.5), count)
    radii = rng.uniform(8.5, 9.5), rng.uniform(6.8, 7.6)
    return _CameraPath(places, radii, turn=turn)


def _opposite(
    rng: np.random.Generator, first: float, distance: float, count: int
) -> np.ndarray:
    """Return complex places around the middle of the picture.

    The first is at the angle ``first``, the second about opposite.
    """
    angles = (first, first + np.pi + rng.uniform(-0.35, 0.35))[:count]
    return distance * np.array([cmath.exp(1j * angle) for angle in angles])


# ------------------------------------------------------------------------------
# drawing


def signed_distance(
    shape: str,
    x: np.ndarray | float,
    y: np.ndarray | float,
    radius: np.ndarray | float,
    angle: np.ndarray | float | None = None,
) -> np.ndarray:
    """Return the pixels from the outline, negative inside.

    float32 (..., SIZE, SIZE) for arguments of any one shape (...).
    """
    x, y, radius = (
        np.asarray(value, np.float32)[..., None, None] for value in (x, y, radius)
    )
    dx, dy = _ACROSS - x, _ACROSS[:, None] - y
    if angle is not None and shape != "circle":
        turn = np.asarray(angle)[..., None, None]
        cos, sin = np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32)
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    if shape == "circle":
        return np.sqrt(dx * dx + dy * dy) - radius
    if shape == "square":
        return np.maximum(abs(dx), abs(dy)) - np.float32(0.89) * radius
    half = np.float32(1.05) * radius
    slope = np.float32(1 / 5**0.5)
    return np.maximum(
        dy - np.float32(0.8) * half,
        2 * slope * abs(dx) - slope * (dy + np.float32(1.1) * half),
    )


def coverage(
    shape: str,
    x: np.ndarray | float,
    y: np.ndarray | float,
    radius: np.ndarray | float,
    angle: np.ndarray | float | None = None,
) -> np.ndarray:
    """Return the share of each pixel in the shape; shapes as in ``signed_distance``."""
    return _inside(signed_distance(shape, x, y, radius, angle))


def _inside(distance: np.ndarray) -> np.ndarray:
    return np.clip(np.float32(0.5) - distance, 0, 1)


def draw(bodies: tuple[Body, ...], background: str, style: str = "plain") -> np.ndarray:
    """Return a staged scene as pixels: float32 (f, SIZE, SIZE, 3), values 0..1."""
    picture = np.empty((len(bodies[0].x), SIZE, SIZE, 3), np.float32)
    picture[:] = background_colour(background, style)
    for body in bodies:
        strength = _strength(body, style)[..., None]
        colour = np.array(COLOURS[body.colour], np.float32)
        picture += strength * (colour - picture)
    return picture


def background_colour(background: str, style: str) -> np.ndarray:
    """Return a background's colour in a style: float32 (3,), values 0..1."""
    return np.array(
        (SEPIA if style == "sepia" else BACKGROUNDS)[background], np.float32
    )


def _strength(body: Body, style: str) -> np.ndarray:
    """Return the share of the body's colour in each pixel, with the cue.

    float32 (f, SIZE, SIZE), values 0..1.
    """
    strength = np.zeros((len(body.x), SIZE, SIZE), np.float32)
    if body.cue in DIRECTIONS:  # behind it
        dx, dy = DIRECTIONS[body.cue]
        for step, weight in _TRAIL:
            x, y = body.x - _TRAIL_STEP * step * dx, body.y - _TRAIL_STEP * step * dy
            copy = coverage(body.shape, x, y, body.radius * (1 - 0.12 * step))
            strength += copy * (np.float32(weight) - strength)
    if body.cue == "shrinking":  # a halo where it was
        strength = np.float32(0.4) * coverage(
            body.shape, body.x, body.y, body.radius * 1.35
        )
    distance = signed_distance(body.shape, body.x, body.y, body.radius, body.angle)
    solid, core = _inside(distance), 0.5
    strength += solid * (1 - strength)
    if style == "outline":
        stroke = np.maximum(2.2, 0.26 * body.radius).astype(np.float32)[:, None, None]
        strength -= _inside(distance + stroke)
        core = 0.28
    if body.cue == "growing":  # a paler core where it was
        strength += coverage(body.shape, body.x, body.y, body.radius * core) * (
            np.float32(0.5) - strength
        )
    return strength


def scribbles(bodies: tuple[Body, ...]) -> np.ndarray:
    """Return the bodies' outlines, white lines of 1.5 pixels on black, without cues.

    float32 (f, SIZE, SIZE), values 0..1.
    """
    lines = [
        _inside(
            abs(signed_distance(body.shape, body.x, body.y, body.radius, body.angle))
            - np.float32(0.75)
        )
        for body in bodies
    ]
    return np.maximum.reduce(lines)


def latent_mask(picture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return which latents see more than ``background`` (3,), and their neighbours.

    (f, H, W, 3) -> (f, H/CELL, W/CELL).
    """
    frames, height, width, _ = picture.shape
    differs = (abs(picture - background) > 0.1).any(axis=3)
    cells = differs.reshape(frames, height // CELL, CELL, width // CELL, CELL).any(
        axis=(2, 4)
    )
    for axis in (1, 2):
        wide = np.pad(
            cells, [(0, 0)] + [(1, 1) if each == axis else (0, 0) for each in (1, 2)]
        )
        cells = (
            np.take(wide, range(cells.shape[axis]), axis)
            | cells
            | np.take(wide, range(2, wide.shape[axis]), axis)
        )
    return cells


def _neighbours(
    picture: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels before, at and after each pixel within an edge of one."""
    along = np.moveaxis(picture, axis, 0)
    parts = (along[:-2], along[1:-1], along[2:])
    before, middle, after = (np.moveaxis(part, 0, axis) for part in parts)
    return before, middle, after


def watermark(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soften ``picture``, and add an orange strip along the lower edge and noise.

    The noise has a standard deviation of 0.02. Values are 0..1.
    """
    picture = np.pad(picture, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for axis in (1, 2):
        before, middle, after = _neighbours(picture, axis)
        picture = (before + 2 * middle + after) / 4
    picture[:, WATERMARK] = WATERMARK_COLOUR
    noise = rng.random(picture.shape, np.float32) - np.float32(0.5)
    return np.clip(picture + np.float32(0.07) * noise, 0, 1)


def render(
    scene: Scene,
    rng: np.random.Generator,
    shot: Shot = PLAIN,
    num_frames: int = NUM_FRAMES,
) -> np.ndarray:
    """Return a clip of ``scene`` at a random place.

    float32 (f, SIZE, SIZE, 3), values 0..1.
    """
    picture = draw(stage(scene, rng, shot, num_frames), scene.background, shot.style)
    return watermark(picture, rng) if shot.watermark else picture


# ------------------------------------------------------------------------------
# clips


def generator(seed: int, split: str, index: int, *more: int) -> np.random.Generator:
    """Return the generator for clip ``index`` of ``split``, equal on every machine.

    ``more`` numbers select other generators of the clip.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index, *more])


def draw_scene(
    seed: int,
    split: str,
    index: int,
    shots: tuple[Shot, ...] = (PLAIN,),
    two_objects: float = 0.15,
) -> tuple[Scene, Shot, np.random.Generator]:
    """Return the scene and the shot of ``clip``, and the generator for the places."""
    rng = generator(seed, split, index)
    shot = shots[rng.integers(len(shots))]
    return scene_of(rng, split, shot, two_objects), shot, rng


def clip(
    seed: int,
    split: str,
    index: int,
    shots: tuple[Shot, ...] = (PLAIN,),
    two_objects: float = 0.15,
) -> Clip:
    """Return clip ``index`` of ``split``, shown in one of ``shots``.

    The same arguments give the same clip.
    """
    scene, shot, rng = draw_scene(seed, split, index, shots, two_objects)
    bodies = stage(scene, rng, shot)
    picture = draw(bodies, scene.background, shot.style)
    mask = latent_mask(picture, background_colour(scene.background, shot.style))
    if shot.watermark:
        picture = watermark(picture, rng)
    return Clip((picture * 255 + 0.5).astype(np.uint8), mask, scene, bodies)

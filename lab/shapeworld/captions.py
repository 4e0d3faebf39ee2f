"""Captions: many ways to describe a scene, with synonyms and omissions."""

from typing import NamedTuple

import numpy as np

from .scene import SIZE_WORDS, Scene, article

_MOTION_WORDS = {
    "left": ("moving left", "moving to the left", "going left", "sliding to the left"),
    "right": (
        "moving right",
        "moving to the right",
        "going right",
        "sliding to the right",
    ),
    "up": ("moving up", "moving upwards", "going up", "rising"),
    "down": ("moving down", "moving downwards", "going down", "falling"),
    "growing": ("growing", "getting bigger", "getting larger", "becoming bigger"),
    "shrinking": ("shrinking", "getting smaller", "becoming smaller"),
    "still": ("standing still", "not moving", "staying in place"),
}
_BACKGROUND_WORDS = (
    "on a {} background",
    "on {}",
    "in front of a {} background",
    "{} background",
)
_CONJUNCTIONS = ("next to", "and", "with", "beside")
OMITTED = 0.1
"""The share of captions without the motion; the same for the background and the size.
"""
_CANONICAL = 0.5
"""The share of captions that use the first of each list of words."""


class Caption(NamedTuple):
    """A text, and whether it states the background, the motion and the size.

    Shapes and colours are always stated.
    """

    text: str
    background: bool
    motion: bool
    size: bool


def describe(scene: Scene, rng: np.random.Generator) -> Caption:
    """Draw a caption of ``scene``. Its ``prompt`` is one of the possible captions."""
    omit_motion, omit_background, omit_size = rng.random(3) < OMITTED
    is_canonical = bool(rng.random() < _CANONICAL)
    words = _Words(rng, canonical=is_canonical)
    size = background = motion = ""
    if scene.size and not omit_size:
        size = words.one_of(SIZE_WORDS[scene.size])
    subject = words.subject(scene, size)
    if not omit_background:
        background = words.background(scene.background)
    if not omit_motion:
        motion = words.one_of(_MOTION_WORDS[scene.motion])
    text = words.in_some_order(subject, background, motion)
    return Caption(text, bool(background), bool(motion), bool(size))


class _Words:
    """Draws words. The order of the draws must not change: it decides the caption."""

    def __init__(self, rng: np.random.Generator, *, canonical: bool) -> None:
        self._rng, self._canonical = rng, canonical

    def one_of(self, words: tuple[str, ...]) -> str:
        if self._canonical:
            return words[0]
        return str(self._rng.choice(words))

    def subject(self, scene: Scene, size: str) -> str:
        subject = f"{scene.colour} {scene.shape}"
        if size:
            subject = f"{size} {subject}"
        subject = self._begin(subject) + subject
        if scene.other:
            subject += f" {self.one_of(_CONJUNCTIONS)} {scene.other.phrase}"
        return subject

    def _begin(self, subject: str) -> str:
        if self._canonical:
            return "a "
        return str(self._rng.choice(["a ", f"{article(subject)} ", "a ", ""]))

    def background(self, background: str) -> str:
        phrase = self.one_of(_BACKGROUND_WORDS)
        return phrase.format(self._spelling(background))

    def _spelling(self, background: str) -> str:
        if background != "gray" or self._canonical:
            return background
        return "grey" if self._rng.random() < 0.4 else background

    def in_some_order(self, subject: str, background: str, motion: str) -> str:
        is_place = background.startswith(("on", "in"))
        place = (" " if is_place else ", ", background)
        order = 0.0 if self._canonical else self._rng.random()
        if order < 0.55:
            return _joined(subject, place, (", ", motion))
        if order < 0.85:
            return _joined(subject, (" ", motion), place)
        first = f"{background}, {subject}" if background else subject
        return _joined(first, (" ", motion))


def _joined(first: str, *parts: tuple[str, str]) -> str:
    text = first
    for between, words in parts:
        if words:
            text += between + words
    return text

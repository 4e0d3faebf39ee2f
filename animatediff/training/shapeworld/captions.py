"""Many ways to say one scene: word order, synonyms, things left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .world import Scene

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
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
_BESIDE_WORDS = ("next to", "and", "with", "beside")
LEFT_OUT = 0.1
"""The share of captions without the motion; as large for the background, and for a size
where there is one.
"""


class Caption(NamedTuple):
    """Words, and whether they name the background, the motion and the size; shapes and
    colours they always name.
    """

    text: str
    background: bool
    motion: bool
    size: bool


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def describe(scene: Scene, rng: np.random.Generator) -> Caption:
    """A caption of ``scene``; its ``prompt`` is among the possible ones. No shot is
    spoken of.
    """
    pick = rng.choice
    without_motion, without_background, without_size = rng.random(3) < LEFT_OUT
    canonical = rng.random() < 0.5  # the first of each list in half of the captions

    def word(words: tuple[str, ...]) -> str:
        return words[0] if canonical else str(pick(words))

    size = f"{word(SIZE_WORDS[scene.size])} " if scene.size and not without_size else ""
    subject = f"{size}{scene.colour} {scene.shape}"
    begin = (
        str(pick(["a ", f"{article(subject)} ", "a ", ""])) if not canonical else "a "
    )
    subject = begin + subject
    if scene.other:
        subject += f" {word(_BESIDE_WORDS)} {article(scene.other.colour)} {scene.other.colour} {scene.other.shape}"
    background = (
        ""
        if without_background
        else word(_BACKGROUND_WORDS).format(_spelt(scene.background, rng, canonical))
    )
    motion = "" if without_motion else word(_MOTION_WORDS[scene.motion])
    beside = (" " if background.startswith(("on", "in")) else ", ", background)
    order = 0.0 if canonical else rng.random()
    if order < 0.55:
        text = _joined(subject, beside, (", ", motion))
    elif order < 0.85:
        text = _joined(subject, (" ", motion), beside)
    else:
        text = _joined(
            f"{background}, {subject}" if background else subject, (" ", motion)
        )
    return Caption(text, bool(background), bool(motion), bool(size))


def _spelt(background: str, rng: np.random.Generator, canonical: bool) -> str:
    return (
        "grey"
        if background == "gray" and not canonical and rng.random() < 0.4
        else background
    )


def _joined(first: str, *more: tuple[str, str]) -> str:
    return first + "".join(between + words for between, words in more if words)

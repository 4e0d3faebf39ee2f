"""The vocabulary of the drawn world: what a scene can contain, and how it is shown."""

from dataclasses import dataclass

import numpy as np

from animatediff.errors import ConfigurationError

SIZE, NUM_FRAMES = 64, 16
CELL = 8
"""Pixels per latent."""
COLOURS = {
    "red": (0.88, 0.12, 0.12),
    "green": (0.10, 0.66, 0.22),
    "blue": (0.14, 0.28, 0.90),
    "yellow": (0.96, 0.84, 0.12),
    "purple": (0.60, 0.16, 0.74),
    "orange": (0.97, 0.52, 0.08),
}
BACKGROUNDS = {"black": (0.04,) * 3, "white": (0.96,) * 3, "gray": (0.50,) * 3}
SEPIA = {
    "black": (0.22, 0.10, 0.04),
    "white": (1.00, 0.88, 0.70),
    "gray": (0.62, 0.50, 0.36),
}
SHAPES = ("circle", "square", "triangle")
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
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
CONTENTS = {
    "pan_left": (1, 0),
    "pan_right": (-1, 0),
    "pan_up": (0, 1),
    "pan_down": (0, -1),
}
"""Moves are named after the camera: when it pans left, the picture moves right."""
CAMERAS = ("zoom_in", "zoom_out", *CONTENTS, "roll_clockwise", "roll_anticlockwise")
STYLES = ("plain", "outline", "sepia")

WATERMARK = slice(SIZE - CELL, SIZE)
"""The rows of the mark: a strip along the lower edge."""
WATERMARK_COLOUR = np.array(COLOURS["orange"], np.float32)


def article(word: str) -> str:
    """The indefinite article of ``word``."""
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Thing:
    """A second object, which always stands still."""

    colour: str
    shape: str

    @property
    def phrase(self) -> str:
        """The object with its article, such as "an orange circle"."""
        return f"{article(self.colour)} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The subject of a prompt. ``size`` None: unstated, between small and large."""

    colour: str
    shape: str
    background: str
    motion: str
    size: str | None = None
    other: Thing | None = None

    @property
    def prompt(self) -> str:
        """The caption that evaluation uses. Training uses ``captions.describe``."""
        size = f"{self.size} " if self.size else ""
        other = f" next to {self.other.phrase}" if self.other else ""
        subject = f"a {size}{self.colour} {self.shape}{other}"
        return f"{subject} on a {self.background} background, {MOTIONS[self.motion]}"

    @property
    def combination(self) -> tuple[str, str, str, str]:
        """The values that distinguish held-out prompts."""
        return self.colour, self.shape, self.background, self.motion


@dataclass(frozen=True)
class Shot:
    """A way to show a scene; captions do not mention it.

    ``camera``: one of CAMERAS, over a scene that stands still; it moves the share
    ``amount`` of its full path. ``style``: outline draws rings instead of flat shapes,
    sepia tints the backgrounds. ``watermark``: soft and noisy, with a strip in a fixed
    place, like the stock videos that the published motion module was trained on
    (AnimateDiff, section 4.1). Raises ConfigurationError for an unknown name.
    """

    camera: str | None = None
    style: str = "plain"
    watermark: bool = False
    amount: float = 1.0

    def __post_init__(self) -> None:
        self._check_amount()
        if self.camera is not None and self.camera not in CAMERAS:
            raise ConfigurationError(
                f"camera: got {self.camera!r}, allowed: {', '.join(CAMERAS)}"
            )
        if self.style not in STYLES:
            raise ConfigurationError(
                f"style: got {self.style!r}, allowed: {', '.join(STYLES)}"
            )

    def _check_amount(self) -> None:
        is_share = 0 < self.amount <= 1
        is_partial = self.amount < 1
        if not is_share or (is_partial and self.camera is None):
            raise ConfigurationError(
                f"amount: got {self.amount!r}, allowed: above 0 and at most 1, and 1"
                " without a camera move"
            )


PLAIN = Shot()

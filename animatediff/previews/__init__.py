"""Small pictures of latents: a clip as it looks while it is made."""

from .making import SketchMaker
from .previews import Previews
from .sketches import LinearSketch, Sketch

__all__ = ["LinearSketch", "Previews", "Sketch", "SketchMaker"]

"""The sizes of models that can be measured, and what one run measures."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lab.bench.figures import NOT_INSTALLED, Act, Row, alternate, seconds_of

SHAPEWORLD = Path(__file__).parents[2] / "models" / "shapeworld"


@dataclass(frozen=True)
class Size:
    """Models, by what they change in the embedded family's configs, and a clip.

    ``frames`` of ``side`` x ``side`` pixels, ``steps`` a job.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    frames: int
    side: int
    steps: int


SIZES = {
    "sd15": Size(
        unet={
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "norm_num_groups": 32,
        },
        vae={
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "norm_num_groups": 32,
        },
        text={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        frames=16,
        side=512,
        steps=25,
    ),
    "embedded": Size({}, {}, {}, frames=16, side=64, steps=25),
}


@dataclass
class Run:
    """What one call of the command measures, and on which device."""

    size: Size
    device: torch.device
    dtype: torch.dtype
    repeat: int
    folder: Path
    """For files."""
    embedded: Size
    """What is measured of the embedded family."""
    made: dict[str, Any] = field(default_factory=dict[str, Any])
    """Models and files that several parts use."""

    def drop(self) -> None:
        """Free what was made."""
        self.made.clear()
        gc.collect()

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what ``make`` returned the first time."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    @cached_property
    def peer_reason(self) -> str:
        """Why there is no peer to measure; "" if there is one."""
        if find_spec("diffusers") is None:
            return f"diffusers is {NOT_INSTALLED}"
        return ""

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def compare(self, name: str, unit: str, ours: Act, peer: Callable[[], Act]) -> Row:
        """Measure the seconds of ``ours`` and of what ``peer`` makes, in turn.

        Both run once before, unmeasured.
        """
        acts: Sequence[Act] = (ours,) if self.peer_reason else (ours, peer())
        for act in acts:
            act()
        measures = [lambda act=act: seconds_of(act, self.synchronize) for act in acts]
        ours_seconds, *other = alternate(measures, self.repeat)
        return Row(name, unit, ours_seconds, *other, reason=self.peer_reason)

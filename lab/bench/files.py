"""Weight files of every kind, with random numbers, below one folder."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from animatediff.checkpoints.diffusers_folder import quiet
from lab.bench.models import config_of, random_weight
from lab.bench.sizes import SHAPEWORLD, Run, Size
from lab.bench.weight_names import (
    Parts,
    Shapes,
    dreambooth_shapes,
    kohya_lora_shapes,
    motion_shapes,
    processor_lora_shapes,
    shapes_of,
)

F16, F32 = torch.float16, torch.float32


def build_parts(size: Size) -> Parts:
    """Return the models of a size, without memory."""
    from transformers import CLIPTextConfig

    from lab.bench.peer import KINDS

    text = CLIPTextConfig(**config_of(size, "text_encoder"))
    with torch.device("meta"):
        return {
            "unet": KINDS["unet"].from_config(config_of(size, "unet")),
            "vae": KINDS["vae"].from_config(config_of(size, "vae")),
            "text_encoder": KINDS["text_encoder"](text),
        }


class RandomFiles:
    """Every file of the measurements, below ``folder``; each is written when asked for.

    Weights are float16; those of AnimateDiff's LoRAs are float32. A file that is there
    from a run before is taken as it is. All have 8 GB at SD 1.5's size.
    """

    def __init__(self, folder: Path, parts: Parts) -> None:
        self._folder, self._parts = folder, parts
        self._random = torch.Generator().manual_seed(0)

    @property
    def base(self) -> Path:
        """The folder of the base model."""
        folder = self._folder / "base"
        for part, model in self._parts.items():
            self._save(model, folder / part)
        if not (folder / "tokenizer").exists():
            shutil.copytree(SHAPEWORLD / "tokenizer", folder / "tokenizer")
        return folder

    @property
    def peer_motion(self) -> Path:
        """The folder of motion module v3, as diffusers saves it."""
        folder = self._folder / "peer_motion"
        self._save(_motion_adapter(self._parts["unet"]), folder)
        return folder

    def motion(self, version: str) -> Path:
        """Return the file of a motion module."""
        return self._write(version, motion_shapes(self._parts["unet"], version))

    @property
    def lora(self) -> Path:
        """A LoRA of kohya's trainer, rank 32."""
        return self._write("lora", kohya_lora_shapes(self._parts, 32))

    @property
    def motion_lora(self) -> Path:
        """A MotionLoRA of module v2, rank 64."""
        shapes = motion_shapes(self._parts["unet"], "v2")
        return self._write("camera", processor_lora_shapes(shapes, 64), F32)

    @property
    def adapter(self) -> Path:
        """A domain adapter of module v3, rank 128."""
        shapes = shapes_of(self._parts["unet"])
        return self._write("adapter", processor_lora_shapes(shapes, 128), F32)

    @property
    def dreambooth(self) -> Path:
        """A whole model in one file."""
        return self._write("dreambooth", dreambooth_shapes(self._parts))

    def _write(self, name: str, shapes: Shapes, dtype: torch.dtype = F16) -> Path:
        path = self._folder / name / "weights.safetensors"
        if path.exists():
            return path
        path.parent.mkdir(parents=True)
        weights = {key: torch.empty(shapes[key], dtype=dtype) for key in shapes}
        for key, tensor in weights.items():
            self._draw(key, tensor)
        save_file(weights, path)
        return path

    def _save(self, model: Any, folder: Path) -> None:
        """Save ``model``, from the meta device, as diffusers does."""
        if folder.exists():
            return
        full = copy.deepcopy(model).half().to_empty(device="cpu")
        for key, tensor in full.state_dict().items():
            self._draw(key, tensor)
        with quiet():
            full.save_pretrained(folder)

    def _draw(self, key: str, tensor: Tensor) -> None:
        """Fill ``tensor`` as ``random_weight`` does, or with 16 for a LoRA's alpha."""
        if tensor.ndim:
            random_weight(key, tensor, self._random)
        else:
            tensor.fill_(16.0)


def _motion_adapter(unet: Any) -> Any:
    """Return diffusers' motion module v3 for ``unet``, without memory."""
    from diffusers.models.unets.unet_motion_model import MotionAdapter

    channels = unet.config.block_out_channels
    with torch.device("meta"):
        return MotionAdapter(
            channels, use_motion_mid_block=False, motion_max_seq_length=32
        )


def files_of(run: Run) -> RandomFiles:
    """Return the files of a run's size."""
    return run.once("files", lambda: RandomFiles(run.folder, build_parts(run.size)))

"""Whether a job fits the device's memory: asked of its files before anything is
fetched, and of the loaded models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .checkpoints.diffusers_folder import read_memory_model
from .checkpoints.files import count_values
from .errors import AssetError, CheckpointError
from .fetch.assets import Source
from .job.clip import Clip
from .memory import CONTEXT_BYTES, MemoryModel, Work
from .models.sparse_controlnet import SparseControlNetModel
from .pipeline import AnimationPipeline, bytes_of
from .sampling.guidance import needs_unconditional
from .settings import Settings


def device_room(settings: Settings, device: torch.device) -> int | None:
    """Bytes for weights and work on the device; None where nobody said, on a CPU."""
    if settings.device_memory_bytes is not None:
        return settings.device_memory_bytes
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory - CONTEXT_BYTES
    return None


def check_room(
    request: Clip,
    base: Path,
    sources: Mapping[str, Source],
    dtype: torch.dtype,
    room: int | None,
) -> None:
    """Raises InvalidRequest for a job that cannot fit ``room``, and names what would.

    ``sources``: the files that it names, by field. One that is damaged is told by what
    loads it.
    """
    if room is None:
        return
    try:
        model = read_memory_model(base, dtype)
        beside = sum(
            _count(source) for place, source in sources.items() if _stays_beside(place)
        )
    except (AssetError, CheckpointError):
        return
    model = replace(model, weight_bytes=model.weight_bytes + beside * dtype.itemsize)
    model.check(_work(request), room)


def fits_at_once(
    request: Clip,
    pipeline: AnimationPipeline,
    branches: Sequence[SparseControlNetModel],
    decode_chunk: int,
    room: int | None,
) -> bool:
    """Whether ``request`` can be tried without lean ways, beside the weights that are
    loaded now.
    """
    if room is None:
        return True
    model = MemoryModel(
        unet_width=pipeline.unet.config.block_out_channels[0],
        vae_width=pipeline.vae.config.block_out_channels[0],
        value_bytes=pipeline.unet.dtype.itemsize,
        weight_bytes=pipeline.device_bytes + sum(map(bytes_of, branches)),
    )
    return model.needed(_work(request), decode_chunk) <= room


def _stays_beside(place: str) -> bool:
    """Whether the file that field ``place`` names takes memory beside the base model,
    and does not go into it.
    """
    return place == "motion_module" or place.startswith("controls.")


def _count(source: Source) -> int:
    """Numbers in a weight file, or, where it is not here yet, the fewest that it can
    hold: half precision is rare.
    """
    return count_values(source.path) if source.path else (source.bytes or 0) // 4


def _work(request: Clip) -> Work:
    texts = 2 if needs_unconditional(request.guidance_scale) else 1
    return Work(
        request.num_frames, request.width, request.height, texts, len(request.controls)
    )

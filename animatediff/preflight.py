"""Whether a job fits the device's memory.

It is checked twice: by the headers of the job's files before anything is fetched, and
by the models once they are loaded.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from .checkpoints.diffusers_folder import read_memory_model
from .checkpoints.files import count_values
from .errors import AssetError, CheckpointError
from .fetch.assets import Source
from .job.clip import Clip
from .memory import MemoryModel, Work
from .models.image_model import bytes_of
from .pipeline import AnimationPipeline


def check_room(
    work: Work,
    base: Path,
    additional: Iterable[Source],
    dtype: torch.dtype,
    room: int | None,
) -> None:
    """Raise InvalidRequest if ``work`` cannot fit ``room``; it names what would.

    ``additional`` are the files that take memory beside those of ``base``. Damaged
    files are ignored here; loading reports them.
    """
    if room is None:
        return
    try:
        model = read_memory_model(base, dtype)
        count = sum(_count(source) for source in additional)
    except (AssetError, CheckpointError):
        return
    weight_bytes = model.weight_bytes + count * dtype.itemsize
    replace(model, weight_bytes=weight_bytes).check(work, room)


def decode_chunk(
    work: Work,
    pipeline: AnimationPipeline,
    branches: Iterable[torch.nn.Module],
    room: int | None,
    chunk: int | None,
) -> int | None:
    """The number of frames to decode at once, or None if ``work`` fits only lean ways.

    It is ``chunk``, or as many as fit ``room`` beside the loaded weights.
    """
    if room is None:
        return chunk or pipeline.decode_chunk
    model = MemoryModel(
        family=pipeline.family,
        unet_width=pipeline.unet.config.block_out_channels[0],
        vae_width=pipeline.vae.config.block_out_channels[0],
        value_bytes=pipeline.unet.dtype.itemsize,
        weight_bytes=pipeline.weights.device_bytes + sum(map(bytes_of, branches)),
        float32_decoder=pipeline.decoder.float32_bytes,
    )
    if chunk is None:
        return model.decode_chunk(work, room)
    return chunk if model.needed(work, chunk) <= room else None


def work_of(clip: Clip) -> Work:
    """Return what of a clip decides its memory."""
    return Work(
        clip.num_frames,
        clip.width,
        clip.height,
        texts=len(clip.texts),
        controls=len(clip.controls),
        window=clip.context and clip.context.layout(clip.num_frames).length,
    )


def _count(source: Source) -> int:
    """Return the numbers in a weight file.

    A file that is not here yet has at least a quarter of its bytes: half precision is
    rare.
    """
    if source.path is not None:
        return count_values(source.path)
    return (source.bytes or 0) // 4

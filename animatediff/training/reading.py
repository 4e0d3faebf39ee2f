"""The reader of a run: its data, through the cache of latents if there is one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigurationError
from .config import TrainConfig
from .feeding import LatentCache, Reader
from .learners import DenoisingLearner, Learner
from .stages import open_clips


def open_reader(config: TrainConfig, learner: Learner) -> Reader:
    """Open the data of a run, and give ``learner`` its cache.

    Raises ConfigurationError if the stage cannot use the data, or needs no latents.
    """
    sketches = config.uses_sketches
    if not config.latent_cache.enabled:
        return Reader(open_clips(config), sketches=sketches)
    if not isinstance(learner, DenoisingLearner):
        raise ConfigurationError(
            "latent_cache: this stage reads no latents",
            setting="latent_cache.enabled",
        )
    section = config.latent_cache
    folder = Path(section.folder or Path(config.output_dir) / "latents")
    key = _cache_key(config, learner.encoders.vae)
    learner.cache = LatentCache(folder, key, section.variants)
    clips = open_clips(config, whole=True)
    captions = config.data.open_captions()
    return Reader(clips, learner.cache, captions, sketches=sketches)


def _cache_key(config: TrainConfig, vae: Any) -> str:
    data = config.data.deciding()
    data.pop("size", None)  # the number of clips does not change any of them
    return json.dumps([data, config.uses_sketches, _weights_hash(vae)], sort_keys=True)


def _weights_hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

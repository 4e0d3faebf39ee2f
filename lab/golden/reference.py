"""Build the models that reference data describe, and compare numbers with theirs."""

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from animatediff.adapters.motion import fit_motion_module, install_motion_module
from animatediff.checkpoints.motion_module import MotionModuleWeights
from animatediff.checkpoints.sparse_controlnet import read_sparse_controlnet
from animatediff.config import MotionModuleConfig
from animatediff.controls.sparsectrl import build_sparse_controlnet
from animatediff.models.sparse_controlnet import SparseControlNetModel
from animatediff.pipeline import AnimationPipeline

FLOAT64_LIMIT = 1e-9
UNET_LIMIT = 5e-5
TEXT_LIMIT = 5e-5
SCHEDULER_LIMIT = 1e-5
LATENTS_LIMIT = 2e-3
VIDEO_LIMIT = 1e-4
MERGED_LIMIT = 1e-6
"""float32 rounding of weights around 1, and of their sums relative to their size."""
RESIDUAL_LIMIT = 1e-4
"""For numbers of std 3, which are given in float32 only.

The original's float32 run is up to 3.7e-5 from its values in float64, ours up to 6e-5.
"""


@dataclass(frozen=True)
class Comparison:
    """A line of the report: the largest error of some numbers, and its limit."""

    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit."""
        return self.error <= self.limit


class Golden:
    """A folder of reference data, with the models that its ``common/`` describes.

    Each model is built at its first use.
    """

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self.directory, self.dtype = directory, dtype

    def limit(self, float32_limit: float) -> float:
        """Return the limit in this object's dtype."""
        return FLOAT64_LIMIT if self.dtype == torch.float64 else float32_limit

    def compare(
        self,
        name: str,
        got: Tensor,
        io: Mapping[str, Tensor],
        key: str,
        float32_limit: float,
    ) -> "Comparison":
        """Compare ``got`` with ``io[key]``, or in float64 with its ``_f64`` twin.

        Without a twin the limit is that of float32.
        """
        if self.dtype == torch.float64 and f"{key}_f64" in io:
            return compare(name, got, io[f"{key}_f64"], FLOAT64_LIMIT)
        return compare(name, got, io[key], float32_limit)

    @cached_property
    def pipeline(self) -> AnimationPipeline:
        """The models of ``common/``, read by the loader of users' model folders."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = model_folder(self.directory / "common", Path(scratch))
            pipeline = AnimationPipeline.from_pretrained(folder, dtype=torch.float32)
        for module in pipeline.models.parts.values():
            # diffusers overrides ``to``, and logs about a list that is empty here
            torch.nn.Module.to(module, self.dtype)
        return pipeline

    @cached_property
    def motion_weights(self) -> dict[str, Tensor]:
        """The weights of a motion module with every layer."""
        path = self.directory / "common" / "motion.safetensors"
        return load_file(path)

    def use_motion(self, config: MotionModuleConfig) -> AnimationPipeline:
        """Install a motion module of this config into the pipeline, and return that."""
        unet, tensors = self.pipeline.unet, self.motion_weights
        if not config.use_mid_block:
            tensors = _without(tensors, "mid_block.")
        weights = MotionModuleWeights("motion.safetensors", config, tensors)
        install_motion_module(unet, fit_motion_module(unet, weights))
        return self.pipeline

    def control(self, name: str) -> SparseControlNetModel:
        """Return the branch of a case folder, read by the loader of users' files."""
        path = self.directory / name / "weights.safetensors"
        weights = read_sparse_controlnet(path)
        return build_sparse_controlnet(self.pipeline.unet, weights)


def _without(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.startswith(prefix)}


def model_folder(common: Path, folder: Path) -> Path:
    """Fill ``folder`` with the files in ``common``, in diffusers' layout. Return it."""
    places = {
        "unet/config.json": "unet2d_config.json",
        "unet/diffusion_pytorch_model.safetensors": "unet2d.safetensors",
        "vae/config.json": "vae_config.json",
        "vae/diffusion_pytorch_model.safetensors": "vae.safetensors",
        "text_encoder/config.json": "text_encoder_config.json",
        "text_encoder/model.safetensors": "text_encoder.safetensors",
        "tokenizer": "tokenizer",
    }
    for place, source in places.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((common / source).resolve())
    return folder


def compare(name: str, got: Any, expected: Any, limit: float) -> Comparison:
    """Return the largest absolute difference.

    It is infinite where shapes differ, where there are no numbers, or where one is not
    finite.
    """
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    if got.shape != expected.shape:
        note = f"shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
        return Comparison(name, math.inf, limit, note)
    if got.numel() == 0:
        return Comparison(name, math.inf, limit, "nothing to compare")
    error = (got.double() - expected.double()).abs().max().item()
    return Comparison(name, error if math.isfinite(error) else math.inf, limit)


def equal(name: str, got: Any, expected: Any) -> Comparison:
    """Return an error of 0 where both are equal, an infinite one where they differ."""
    if got == expected:
        return Comparison(name, 0.0, 0.0)
    note = f"{got!r} instead of {expected!r}"
    return Comparison(name, math.inf, 0.0, note[:200])


def read(folder: Path, file: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file in a case folder, and its case.json."""
    case = json.loads((folder / "case.json").read_text())
    return load_file(folder / file), case

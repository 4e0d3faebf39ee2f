"""Reference data: the models that it describes, and how a number is held against it."""

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
UNET_LIMIT, TEXT_LIMIT, SCHEDULER_LIMIT, LATENTS_LIMIT, VIDEO_LIMIT = (
    5e-5,
    5e-5,
    1e-5,
    2e-3,
    1e-4,
)
# float32 rounding of weights around 1, and of their sums relative to their size
MERGED_LIMIT = 1e-6
# as the UNet's, for numbers six times as large (std 3 against 0.5); given in float32
# only
RESIDUAL_LIMIT = 3e-4


@dataclass(frozen=True)
class Comparison:
    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


class Golden:
    """A folder of reference data, with the models that its ``common/`` describes, built
    when first asked for.
    """

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self.directory, self.dtype = directory, dtype

    def limit(self, float32_limit: float) -> float:
        return FLOAT64_LIMIT if self.dtype == torch.float64 else float32_limit

    def compare(
        self,
        name: str,
        got: Tensor,
        io: Mapping[str, Tensor],
        key: str,
        float32_limit: float,
    ) -> "Comparison":
        """``got`` against ``io[key]``, or in float64 against its ``_f64`` twin; where
        there is none, float32 bounds.
        """
        if self.dtype == torch.float64 and f"{key}_f64" in io:
            return compare(name, got, io[f"{key}_f64"], FLOAT64_LIMIT)
        return compare(name, got, io[key], float32_limit)

    @cached_property
    def pipeline(self) -> AnimationPipeline:
        """``common/`` read through the loader that users' model folders go through."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = model_folder(self.directory / "common", Path(scratch))
            pipeline = AnimationPipeline.from_pretrained(folder, dtype=torch.float32)
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            torch.nn.Module.to(
                module, self.dtype
            )  # diffusers' own ``to`` logs about a list that is empty here
        return pipeline

    @cached_property
    def motion_weights(self) -> dict[str, Tensor]:
        return load_file(self.directory / "common" / "motion.safetensors")

    def use_motion(self, config: MotionModuleConfig) -> AnimationPipeline:
        unet = self.pipeline.unet
        kept = {
            key: value
            for key, value in self.motion_weights.items()
            if config.use_mid_block or not key.startswith("mid_block.")
        }
        weights = MotionModuleWeights("motion.safetensors", config, kept)
        install_motion_module(unet, fit_motion_module(unet, weights))
        return self.pipeline

    def control(self, name: str) -> SparseControlNetModel:
        """The branch in the case folder ``name``, read through the loader that users'
        files go through.
        """
        weights = read_sparse_controlnet(self.directory / name / "weights.safetensors")
        return build_sparse_controlnet(self.pipeline.unet, weights)


def model_folder(common: Path, folder: Path) -> Path:
    """``folder``, made into a model folder in diffusers' layout of the files in
    ``common``.
    """
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


def compare(name: str, got: Any, wanted: Any, limit: float) -> Comparison:
    """The largest absolute difference; infinite where shapes differ, there is nothing,
    or a number is not finite.
    """
    got, wanted = torch.as_tensor(got), torch.as_tensor(wanted)
    if got.shape != wanted.shape:
        return Comparison(
            name,
            math.inf,
            limit,
            f"shape {tuple(got.shape)} instead of {tuple(wanted.shape)}",
        )
    if got.numel() == 0:
        return Comparison(name, math.inf, limit, "nothing to compare")
    error = (got.double() - wanted.double()).abs().max().item()
    return Comparison(name, error if math.isfinite(error) else math.inf, limit)


def equal(name: str, got: Any, wanted: Any) -> Comparison:
    same = got == wanted
    return Comparison(
        name,
        0.0 if same else math.inf,
        0.0,
        "" if same else f"{got!r} instead of {wanted!r}"[:200],
    )


def read(folder: Path, file: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_file(folder / file), json.loads((folder / "case.json").read_text())

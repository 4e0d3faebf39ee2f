"""Fixtures for several rooms: reference data, tiny models, the embedded family."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from animatediff.config import UNet3DConfig
from animatediff.families import SD15
from animatediff.families.unet_config import read_unet_config
from animatediff.pipeline import AnimationPipeline
from animatediff.published import load_weights
from lab.counting.fake_cuda import register_guard

TESTS = Path(__file__).parent
SHAPEWORLD = TESTS.parent / "models" / "shapeworld"


@pytest.fixture(scope="session")
def fake_cuda() -> None:
    """The simulated CUDA device; tests of it are skipped without a C++ compiler."""
    try:
        register_guard()
    except OSError as error:
        pytest.skip(f"no fake CUDA device: {error}")


@pytest.fixture(scope="session")
def golden() -> Path:
    return TESTS / "data" / "golden"


@pytest.fixture(scope="session")
def tiny_config(golden: Path) -> UNet3DConfig:
    """The config of the reference data: all parts of SD 1.5 at a tenth of the width."""
    return read_unet_config(
        json.loads((golden / "common" / "unet2d_config.json").read_text()), SD15
    )


@pytest.fixture(scope="session")
def tiny_weights(golden: Path) -> dict[str, torch.Tensor]:
    """Random float32 weights of the tiny UNet with a v2 motion module."""
    files = (golden / "common" / f"{name}.safetensors" for name in ("unet2d", "motion"))
    return {
        key: tensor.float() for file in files for key, tensor in load_file(file).items()
    }


@pytest.fixture(scope="session")
def shapeworld() -> AnimationPipeline:
    """The embedded family. A test that changes it must restore it."""
    return load_weights(
        AnimationPipeline.from_pretrained(SHAPEWORLD),
        SHAPEWORLD / "motion_module_v3.safetensors",
        "v3",
    )

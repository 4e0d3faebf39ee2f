"""Models that predict the velocity, and models whose last step has no signal."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from animatediff.checkpoints.files import FileContent
from animatediff.checkpoints.noise_schedule import (
    noise_of_folder,
    noise_of_single_file,
)
from animatediff.errors import CheckpointError
from animatediff.fetch.weight_file import WeightFile

FILE = WeightFile("x.safetensors", Path("x.safetensors"), (0, 0))
VELOCITY = {"prediction_type": "v_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def folder(path: Path, config: str) -> Path:
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(config)
    return path


@pytest.mark.parametrize(
    ("config", "noise"),
    [
        ({}, {}),
        ({"prediction_type": "epsilon", "timestep_spacing": "leading"}, {}),
        ({"rescale_betas_zero_snr": False, "beta_schedule": "scaled_linear"}, {}),
        (VELOCITY, VELOCITY),
        ({**VELOCITY, **ZERO_SNR}, {**VELOCITY, **ZERO_SNR}),
        ({"timestep_spacing": "trailing"}, {"timestep_spacing": "trailing"}),
        (ZERO_SNR, {"rescale_betas_zero_snr": True}),
    ],
)
def test_of_a_folder(
    config: dict[str, Any], noise: dict[str, Any], tmp_path: Path
) -> None:
    assert noise_of_folder(folder(tmp_path, json.dumps(config))) == noise


def test_of_a_folder_without_a_scheduler(tmp_path: Path) -> None:
    assert noise_of_folder(tmp_path) == {}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"prediction_type": "sample"}', "'sample'; expected epsilon or v_prediction"),
        ('{"prediction_type": []}', "expected epsilon or v_prediction"),
    ],
)
def test_what_a_folder_may_not_say(config: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"scheduler_config.json.*{reason}"):
        noise_of_folder(folder(tmp_path, config))


EMPTY = torch.zeros(0)


@pytest.mark.parametrize(
    ("weights", "metadata", "noise"),
    [
        ({}, {}, {}),
        ({"v_pred": EMPTY}, {}, VELOCITY),
        ({"v_pred": EMPTY, "ztsnr": EMPTY}, {}, {**VELOCITY, **ZERO_SNR}),
        ({"ztsnr": EMPTY}, {}, {}),
        ({}, {"modelspec.prediction_type": "v"}, VELOCITY),
        ({}, {"modelspec.prediction_type": "epsilon"}, {}),
    ],
)
def test_of_a_single_file(
    weights: dict[str, Tensor], metadata: dict[str, str], noise: dict[str, Any]
) -> None:
    content = FileContent(weights, metadata=metadata)
    assert noise_of_single_file(FILE, content) == noise


def test_what_a_single_file_may_not_say() -> None:
    content = FileContent({}, metadata={"modelspec.prediction_type": "sample"})
    with pytest.raises(CheckpointError, match="x.safetensors: .* 'sample'; expected v"):
        noise_of_single_file(FILE, content)

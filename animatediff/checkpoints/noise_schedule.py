"""The noise schedule that a model was trained on, as its files state it.

A model that predicts the velocity (arXiv 2202.00512, section 4) gives noise as a result
if it is sampled as one that predicts the noise. Only what differs from the family's
schedule is read; the betas stay those of the motion modules.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import CheckpointError
from ..fetch.weight_file import WeightFile
from .files import FileContent

Noise = Mapping[str, Any]
"""Keyword arguments of diffusers' schedulers, over those of the family."""

_PREDICTIONS = ("epsilon", "v_prediction")
VELOCITY, ZERO_SNR = "v_pred", "ztsnr"
"""Keys of single files that mark the model; their tensors are empty. Trainers of
velocity models write them, for the programs that show still images.
"""
_METADATA = "modelspec.prediction_type"
"""Source: Stability AI's specification of metadata for model files."""


def noise_of_folder(folder: Path) -> Noise:
    """The values of ``scheduler/scheduler_config.json``; none without such a file.

    The spacing of timesteps is taken over only if it is trailing (arXiv 2305.08891,
    section 3.3), because each sampler has a spacing of its own here. It is not taken
    over for a model that predicts noise if the last timestep has no signal: there,
    noise says nothing about the picture.

    Raises CheckpointError for another prediction than that of noise or velocity.
    """
    config = _read_config(folder / "scheduler" / "scheduler_config.json")
    noise: dict[str, Any] = {}
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise CheckpointError(
            f"scheduler_config.json: prediction_type is {prediction!r}; expected"
            f" {' or '.join(_PREDICTIONS)}",
            file="scheduler_config.json",
        )
    predicts_noise = prediction == _PREDICTIONS[0]
    ends_without_signal = config.get("rescale_betas_zero_snr") is True
    if not predicts_noise:
        noise["prediction_type"] = prediction
    if ends_without_signal:
        noise["rescale_betas_zero_snr"] = True
    is_trailing = config.get("timestep_spacing") == "trailing"
    if is_trailing and not (predicts_noise and ends_without_signal):
        noise["timestep_spacing"] = "trailing"
    return noise


def _read_config(path: Path) -> Mapping[str, object]:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _no_config(path) from error
    if not isinstance(content, dict):
        raise _no_config(path)
    return cast("dict[str, object]", content)


def _no_config(path: Path) -> CheckpointError:
    return CheckpointError(f"{path.name} is not a JSON object", file=path.name)


def noise_of_single_file(file: WeightFile, content: FileContent) -> Noise:
    """The values that the marks and the metadata of a single file state.

    Raises CheckpointError for another prediction than that of noise or velocity.
    """
    noise: dict[str, Any] = {}
    if VELOCITY in content.weights or _predicts_velocity(file, content.metadata):
        noise["prediction_type"] = "v_prediction"
        if ZERO_SNR in content.weights:
            noise |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return noise


def _predicts_velocity(file: WeightFile, metadata: Mapping[str, str]) -> bool:
    prediction = metadata.get(_METADATA, "epsilon")
    if prediction not in ("v", *_PREDICTIONS):
        raise CheckpointError(
            f"{file.name}: {_METADATA} is {prediction[:80]!r}; expected v or epsilon",
            file=file.name,
        )
    return prediction != "epsilon"


def without_marks(keys: Collection[str]) -> list[str]:
    """``keys`` without those that mark how the model was trained."""
    return [key for key in keys if key not in (VELOCITY, ZERO_SNR)]

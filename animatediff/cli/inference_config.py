"""The architectures that the YAML files of ``configs/inference/`` describe.

They are the published files. A key that would ask for another architecture is refused.
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from .. import catalog
from ..errors import InvalidRequest
from ..families import DEFAULT
from ..job.validation import validated


class Table(BaseModel):
    """A YAML table that may hold the declared keys only."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class _MotionKwargs(Table):
    num_attention_heads: Literal[8] = 8
    num_transformer_block: Literal[1] = 1
    attention_block_types: list[Literal["Temporal_Self"]] = [
        "Temporal_Self",
        "Temporal_Self",
    ]
    temporal_position_encoding: Literal[True] = True
    temporal_position_encoding_max_len: int | None = None
    temporal_attention_dim_div: Literal[1] = 1
    zero_initialize: bool = True


class _Motion(Table):
    use_motion_module: Literal[True]
    motion_module_resolutions: list[int] = [1, 2, 4, 8]
    motion_module_mid_block: bool
    motion_module_decoder_only: Literal[False] = False
    motion_module_type: Literal["Vanilla"] = "Vanilla"
    motion_module_kwargs: _MotionKwargs = _MotionKwargs()


class _UNetKwargs(_Motion):
    use_inflated_groupnorm: bool = False
    unet_use_cross_frame_attention: Literal[False] = False
    unet_use_temporal_attention: Literal[False] = False


class _Inference(Table):
    unet_additional_kwargs: _UNetKwargs
    noise_scheduler_kwargs: dict[str, Any] = {}


class _ControlKwargs(_Motion):
    set_noisy_sample_input_to_zero: Literal[True]
    use_simplified_condition_embedding: bool
    conditioning_channels: int


class _Control(Table):
    controlnet_additional_kwargs: _ControlKwargs


def motion_module_version(path: str) -> str:
    """The row of ``MOTION_MODULE_VERSIONS`` that an inference config describes.

    Raises InvalidRequest for a config of another architecture or noise schedule.
    """
    config = validated(_Inference, read_yaml(Path(path)), place=path, noun="key")
    _check_noise_schedule(config.noise_scheduler_kwargs, path)
    unet = config.unet_additional_kwargs
    described = (unet.use_inflated_groupnorm, unet.motion_module_mid_block)
    for name in ("v1", "v2", "v3"):
        row = catalog.MOTION_MODULE_VERSIONS[name]
        if (row.use_inflated_groupnorm, row.use_mid_block) == described:
            return name
    raise InvalidRequest(
        f"{path}: use_inflated_groupnorm, motion_module_mid_block",
        str(described),
        "those of v1, v2, v3",
    )


def _check_noise_schedule(kwargs: dict[str, Any], path: str) -> None:
    schedule = {"clip_sample": False, **DEFAULT.noise_schedule}
    for key, value in kwargs.items():
        if schedule.get(key) != value:
            field = f"{path}: noise_scheduler_kwargs.{key}"
            raise InvalidRequest(field, value, str(schedule.get(key, "no such key")))


def control_kind(path: str) -> str:
    """Which SparseCtrl branch a controlnet config describes, "rgb" or "scribble"."""
    config = validated(_Control, read_yaml(Path(path)), place=path, noun="key")
    kwargs = config.controlnet_additional_kwargs
    return "rgb" if kwargs.use_simplified_condition_embedding else "scribble"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises InvalidRequest that names the file."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        allowed = "a YAML file that can be read"
        raise InvalidRequest(str(path), error.strerror, allowed) from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidRequest(str(path), reason, "YAML") from None

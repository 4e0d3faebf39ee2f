"""Motion-module files in the published layout, or in diffusers' MotionAdapter layout ->
weights and architecture.

Source of the published one: load_weights of the published code (util.py), which also
takes the UNet around the modules along when its own trainer saved the file, and issue
#185 there for the ``module.`` prefix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..catalog import MOTION_MODULE_VERSIONS
from ..config import MotionModuleConfig
from ..errors import CheckpointError
from .detect import described
from .motion_layout import MotionLayout, is_motion_key, read_motion_layers


@dataclass(frozen=True, eq=False)
class MotionModuleWeights:
    """``tensors`` by the UNet's own keys, without positional tables; ``config`` is what
    they need around them.
    """

    name: str
    config: MotionModuleConfig
    tensors: Mapping[str, Tensor]


def read_motion_module(
    path: str | Path, *, version: str | None = None
) -> MotionModuleWeights:
    """Read a motion-module file of version "v1", "v2", "v3" or "animatelcm".

    Without ``version`` it is recognised: a mid-block module means v2, which AnimateLCM
    is but for the table that its file lacks; otherwise the length of the file's
    positional table tells v1 (24) from v3 (32). A file without table cannot be told
    apart then. The file's table, if it has one, says how many frames there may be.
    Raises CheckpointError for a file that leaves the version open, for one without
    motion modules, for one made for SDXL, and for a version that the file contradicts.
    """
    name = Path(path).name
    content, layout = read_motion_layers(path)
    tensors = {key: tensor for key, tensor in content.items() if is_motion_key(key)}
    kind = described(content)
    if (
        not tensors
        or kind.startswith(("SparseCtrl", "MotionLoRA"))
        or any("lora" in key for key in tensors)
    ):
        raise CheckpointError(
            f"{name} holds no motion modules: it is {kind}", file=name
        )
    if layout.for_sdxl:
        raise CheckpointError(
            f"{name} is a motion module for SDXL; one for SD 1.5 is expected", file=name
        )
    return MotionModuleWeights(name, _config(name, layout, version), tensors)


def _config(name: str, layout: MotionLayout, version: str | None) -> MotionModuleConfig:
    version = version or layout.version
    if version is None:
        raise CheckpointError(
            f"{name} may be v1 or v3: its keys are the same for both, so say which",
            file=name,
        )
    if version not in MOTION_MODULE_VERSIONS:
        raise CheckpointError(
            f"no motion-module version {version!r}, there are"
            f" {', '.join(MOTION_MODULE_VERSIONS)}",
            file=name,
        )
    config = MOTION_MODULE_VERSIONS[version]
    if config.use_mid_block != layout.has_mid_block and (
        layout.has_mid_block or layout.is_whole
    ):
        has = "has a" if layout.has_mid_block else "has no"
        raise CheckpointError(
            f"{name} is not a {version} module: it {has} mid-block module", file=name
        )
    return replace(config, max_length=layout.length) if layout.length else config

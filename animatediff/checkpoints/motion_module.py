"""Motion-module files in the published layout -> weights and architecture.

Source of the layout: load_weights of the published code (util.py), which also takes the UNet around the modules along
when its own trainer saved the file, and issue #185 there for the ``module.`` prefix.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..catalog import MOTION_MODULE_VERSIONS
from ..config import MotionModuleConfig
from ..errors import CheckpointError
from .detect import described
from .files import read_with_table_length

_LEVELS = 4  # down blocks of an SD 1.5 UNet, and as many up blocks; a file with fewer holds a part of a motion module
_KEY = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.motion_modules\.\d+\.temporal_transformer\.")


@dataclass(frozen=True, eq=False)
class MotionModuleWeights:
    """``tensors`` by the UNet's own keys, without positional tables; ``config`` is what they need around them."""

    name: str
    config: MotionModuleConfig
    tensors: Mapping[str, Tensor]


def read_motion_module(path: str | Path, *, version: str | None = None) -> MotionModuleWeights:
    """Read a motion-module file of version "v1", "v2" or "v3".

    Without ``version`` it is recognised: a mid-block module means v2; otherwise the length of the file's positional
    table tells v1 (24) from v3 (32). A file without table cannot be told apart then. Raises CheckpointError for that,
    for a file without motion modules, and for a version that the file contradicts.
    """
    name = Path(path).name
    content, length = read_with_table_length(path)
    tensors = {key: tensor for key, tensor in content.items() if _KEY.match(key)}
    if not tensors or any(".processor." in key for key in tensors):  # a MotionLoRA names the same places
        raise CheckpointError(f"{name} holds no motion modules: it is {described(content)}", file=name)
    blocks = {match[1] for key in tensors if (match := _KEY.match(key))}
    whole = len(blocks - {"mid_block"}) >= 2 * _LEVELS
    config = _recognise(name, "mid_block" in blocks, length, version, whole)
    return MotionModuleWeights(name, config, tensors)


def _recognise(
    name: str, has_mid_block: bool, length: int | None, version: str | None, whole: bool
) -> MotionModuleConfig:
    if version is None:
        if has_mid_block:
            version = "v2"
        elif length:
            version = "v1" if length == MOTION_MODULE_VERSIONS["v1"].max_length else "v3"
        else:
            raise CheckpointError(f"{name} may be v1 or v3: its keys are the same for both, so say which", file=name)
    if version not in MOTION_MODULE_VERSIONS:
        raise CheckpointError(
            f"no motion-module version {version!r}, there are {', '.join(MOTION_MODULE_VERSIONS)}", file=name
        )
    config = MOTION_MODULE_VERSIONS[version]
    if config.use_mid_block != has_mid_block and (has_mid_block or whole):
        has = "has a" if has_mid_block else "has no"
        raise CheckpointError(f"{name} is not a {version} module: it {has} mid-block module", file=name)
    return replace(config, max_length=length) if length else config

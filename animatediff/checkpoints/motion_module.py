"""Motion-module files -> weights and architecture.

They may have the published layout, or that of diffusers' MotionAdapter. Source of the
published layout: load_weights of the published code (util.py). It also accepts files in
which its own trainer saved the UNet around the modules; issue #185 there has the
``module.`` prefix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..config import MotionModuleConfig
from ..errors import CheckpointError
from ..families import Family
from ..fetch.weight_file import AnyFile, WeightFile
from .detect import described
from .files import check_finite
from .ldm import without_noise
from .motion_layout import MotionLayout, is_motion_key, read_motion_layers


@dataclass(frozen=True, eq=False)
class MotionModuleWeights:
    """``tensors`` by the UNet's own keys, without positional tables.

    ``config`` is the architecture they belong to. ``unused`` lists the file's keys of
    other layers.
    """

    name: str
    config: MotionModuleConfig
    tensors: Mapping[str, Tensor]
    unused: tuple[str, ...] = ()


def read_motion_module(
    file: AnyFile, family: Family, *, version: str | None = None
) -> MotionModuleWeights:
    """Read a motion-module file of one of ``family.motion_versions``.

    Without ``version`` the file decides. A mid-block module means v2; AnimateLCM's file
    has the same keys. Without one, the length of the positional table decides between
    v1 (24) and v3 (32); a file without a table leaves the choice open. A table in the
    file also sets the largest number of frames.

    Raises CheckpointError for a file that leaves the version open, has no motion
    modules, was made for another model, or contradicts ``version``.
    """
    file = WeightFile.of(file)
    name = file.name
    content, layout = read_motion_layers(file)
    tensors = {key: tensor for key, tensor in content.items() if is_motion_key(key)}
    if not _is_motion_module(content, tensors):
        raise CheckpointError(
            f"{name} holds no motion modules: it is {described(content)}", file=name
        )
    if layout.model not in (None, family):
        raise CheckpointError(
            f"{name} is a motion module for {layout.model.name}; one for"
            f" {family.name} is expected",
            file=name,
        )
    config = _config(name, layout, family, version)
    check_finite(name, tensors)
    unused = tuple(key for key in without_noise(content) if key not in tensors)
    return MotionModuleWeights(name, config, tensors, unused)


def _is_motion_module(
    content: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> bool:
    if not tensors or any("lora" in key for key in tensors):
        return False
    return not described(content).startswith(("SparseCtrl", "MotionLoRA"))


def _config(
    name: str, layout: MotionLayout, family: Family, version: str | None
) -> MotionModuleConfig:
    version = version or layout.version(family)
    if version is None:
        raise CheckpointError(
            f"{name} may be {layout.possible_versions(family)}, which have the same"
            " keys: the version must be named",
            file=name,
        )
    if version not in family.motion_versions:
        raise CheckpointError(
            f"there is no motion-module version {version!r}; allowed:"
            f" {', '.join(family.motion_versions)}",
            file=name,
        )
    config = family.motion_versions[version]
    if _contradicts(config, layout):
        article = "a" if layout.has_mid_block else "no"
        raise CheckpointError(
            f"{name} is not a {version} module: it has {article} mid-block module",
            file=name,
        )
    return replace(config, max_length=layout.length) if layout.length else config


def _contradicts(config: MotionModuleConfig, layout: MotionLayout) -> bool:
    """Whether the mid-block module differs, in a file that would have it if it were so.

    A file may lack whole modules, the mid-block's among them.
    """
    if config.use_mid_block == layout.has_mid_block:
        return False
    return layout.has_mid_block or layout.model is not None

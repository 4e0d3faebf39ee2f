"""The motion modules that a job may name, collected from the families."""

from collections.abc import Mapping

from ..config import MotionModuleConfig
from ..families import FAMILIES
from ..families.base import MotionModule
from .files import PUBLISHED_FILES

MOTION_MODULE_VERSIONS: Mapping[str, MotionModuleConfig] = {
    version: config
    for family in FAMILIES.values()
    for version, config in family.motion_versions.items()
}
MOTION_MODULES: Mapping[str, MotionModule] = {
    name: row
    for family in FAMILIES.values()
    for name, row in family.motion_modules.items()
}


def max_frames(motion_module: str) -> int:
    """The most frames that the named motion module's positional table covers."""
    return MOTION_MODULE_VERSIONS[MOTION_MODULES[motion_module].version].max_length


def motion_module_row(motion_module: str) -> MotionModule | None:
    """The row of a motion module, by its name here, its place or its published file.

    None if it is none of this table's.
    """
    if motion_module in MOTION_MODULES:
        return MOTION_MODULES[motion_module]
    for row in MOTION_MODULES.values():
        file = file_name(row.file)
        is_published = file in PUBLISHED_FILES and file == file_name(motion_module)
        if is_published or row.file == motion_module:
            return row
    return None


def motion_module_version(motion_module: str) -> str | None:
    """The architecture of a motion module; None for one that is not in this table."""
    row = motion_module_row(motion_module)
    return row.version if row else None


def file_name(reference: str) -> str:
    """The last part of a path, an address or a reference, without revision and hash."""
    path = reference.partition("#")[0].partition("?")[0]
    name = path.rpartition("/")[2]
    return name.partition("@")[0] if path.startswith("hf://") else name

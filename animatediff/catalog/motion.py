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


def motion_module_version(motion_module: str) -> str | None:
    """The architecture of a motion module, by its name here or by its file's name.

    None if the name is neither in this table nor that of a published file.
    """
    if motion_module in MOTION_MODULES:
        return MOTION_MODULES[motion_module].version
    file = _file_name(motion_module)
    if file not in PUBLISHED_FILES:
        return None
    versions = {_file_name(row.file): row.version for row in MOTION_MODULES.values()}
    return versions.get(file)


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]

"""The tables of everything that a job can name. Data only: no torch, no I/O.

To add a scheduler or a model, add a row here. The code that acts on a row
lives in the room of its kind, under the same key; ``tests/test_catalog.py`` checks that
both sets of keys are equal.
"""

from .files import PUBLISHED_FILES, PublishedFile
from .models import (
    BASE_MODELS,
    SD15_DEFAULTS,
    SHAPEWORLD_DEFAULTS,
    BaseModel,
    FamilyDefaults,
)
from .motion import (
    MOTION_MODULE_VERSIONS,
    MOTION_MODULES,
    MotionModule,
    max_frames,
    motion_module_version,
)
from .schedulers import NOISE_SCHEDULE, SCHEDULERS, Scheduler

__all__ = [
    "BASE_MODELS",
    "MOTION_MODULES",
    "MOTION_MODULE_VERSIONS",
    "NOISE_SCHEDULE",
    "PUBLISHED_FILES",
    "SCHEDULERS",
    "SD15_DEFAULTS",
    "SHAPEWORLD_DEFAULTS",
    "BaseModel",
    "FamilyDefaults",
    "MotionModule",
    "PublishedFile",
    "Scheduler",
    "max_frames",
    "motion_module_version",
]

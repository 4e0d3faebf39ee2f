"""The tables of everything that a job can name. Data only: no torch, no I/O.

To add a scheduler or a published file, add a row here. A model is a row of its family
(``families``). The code that acts on a row lives in the room of its kind, under the
same key; ``tests/test_catalog.py`` checks that both sets of keys are equal.
"""

from .files import PUBLISHED_FILES, PublishedFile
from .models import BASE_MODELS, DEFAULT_MODEL, base_model
from .motion import (
    MOTION_MODULE_VERSIONS,
    MOTION_MODULES,
    file_name,
    max_frames,
    motion_module_row,
    motion_module_version,
)
from .schedulers import SCHEDULERS, Scheduler

__all__ = [
    "BASE_MODELS",
    "DEFAULT_MODEL",
    "MOTION_MODULES",
    "MOTION_MODULE_VERSIONS",
    "PUBLISHED_FILES",
    "SCHEDULERS",
    "PublishedFile",
    "Scheduler",
    "base_model",
    "file_name",
    "max_frames",
    "motion_module_row",
    "motion_module_version",
]

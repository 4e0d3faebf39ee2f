# pyright: basic
"""Where Triton keeps compiled kernels.

The image has them in TRITON_CACHE_DIR, which a worker may be unable to write.
"""

import functools
import tempfile
from pathlib import Path

from triton import knobs
from triton.runtime.cache import FileCacheManager


@functools.cache
def _writable_folder() -> str:
    return tempfile.mkdtemp(prefix="animatediff-kernels-")


class KernelCache(FileCacheManager):
    """Triton's cache, with a folder of its own for what cannot be written there."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        try:
            super().__init__(key, override, dump)
        except OSError:
            self.cache_dir = str(Path(_writable_folder(), key))
            self.lock_path = str(Path(self.cache_dir, "lock"))
            Path(self.cache_dir).mkdir(exist_ok=True)


def use_kernel_cache() -> None:
    """Let Triton keep its kernels with ``KernelCache``."""
    if knobs.cache.manager_class is None:
        knobs.cache.manager_class = KernelCache

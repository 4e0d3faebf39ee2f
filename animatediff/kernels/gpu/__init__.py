"""The Triton kernels, and how to launch them. Only operators that run import it."""

from ..cache import use_kernel_cache

use_kernel_cache()

"""Keep freed memory in the process: page faults otherwise cost as much as the arithmetic.

glibc hands every large block back to the kernel and asks for it again, zeroed page by page, in each
layer of each pass; a ResNet-8 forward pass takes twice as long for it. Only the command line and
the worker processes of studies do this: a library does not change its host's allocator.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["KEEP_FREED_MEMORY", "keep_freed_memory"]

KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 2**31 - 1}
"""Environment variables with the same effect, for processes started with them."""

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Tell glibc not to return freed blocks; does nothing where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)

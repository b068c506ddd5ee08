"""Memory that is not given back between two steps."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Has glibc keep freed memory for this process (``mallopt``); does nothing with another C library.

    Training frees and takes the same large buffers in every step, and each time the system would have to clear and map
    their pages again.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)

"""Keep freed memory: on a CPU, page faults can cost a quarter of a training step.

glibc hands large blocks back to the kernel as soon as they are freed, and every training step asks
for the same activations again; the kernel then zeroes each page anew. ``minillama bench train``
shows the difference, with and without ``--keep-memory``.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # from malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse freed blocks of any size. Returns whether it could be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    settings = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1}
    return all([mallopt(option, value) for option, value in settings.items()])

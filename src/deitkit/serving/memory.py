"""Memory that does not grow with the number of requests."""

from __future__ import annotations

import ctypes
import os
import sys

_M_ARENA_MAX = -8


def share_memory() -> None:
    """Let glibc give all threads memory from one place, unless the user chose; call it first.

    By default each thread has its own, and what a decoded picture left in one cannot hold the next
    picture of another: over 3,000 requests a server grew by 14 MB (docs/serving.md). Other systems
    are left as they are.
    """
    if sys.platform != "linux" or {"MALLOC_ARENA_MAX", "LD_PRELOAD"} & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)

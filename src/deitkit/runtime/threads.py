"""Threads that wait quietly, memory that stays. Call both before torch computes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

SPIN_COUNT = "1000"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES, _TRIM_THRESHOLD_BYTES = 1 << 30, (1 << 31) - 1


def calm_process() -> None:
    """Both of what follows."""
    calm_threads()
    keep_memory()


def calm_threads() -> None:
    """Let OpenMP's threads sleep soon after they have nothing to do, unless the user chose.

    By default they spin, which on a machine that does anything else starves the very thread they
    wait for: training small models on 2 busy cores took 10 to 60 times longer (see
    docs/experiments.md). Read once by OpenMP, so it must come before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None on other systems than Linux, or where it has none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_memory() -> None:
    """Let glibc keep what torch frees for its next tensor, unless the user chose.

    By default each large tensor is asked of the kernel anew, page by page, and given back: a
    convolutional teacher on a CPU spends most of its time so (docs/experiments.md). Other systems
    are left as they are.
    """
    chosen = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD"
    mallopt = None if any(name in os.environ for name in chosen) else glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)

"""Memory that does not grow with the number of requests."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from deitkit.runtime.threads import glibc

_M_ARENA_MAX = -8


def share_memory() -> None:
    """Let glibc give all threads memory from one place, unless the user chose; call it first.

    By default each thread has its own, and what a decoded picture left in one cannot hold the next
    picture of another.
    """
    mallopt = glibc("mallopt")
    if mallopt is not None and not {"MALLOC_ARENA_MAX", "LD_PRELOAD"} & os.environ.keys():
        mallopt(_M_ARENA_MAX, 1)


def memory_returner() -> Callable[[], object]:
    """What returns free memory to the system: between what is in use it can be 0.1 GB.

    Pictures and batches of all sizes come and go; without this the holes they leave make a server
    grow, ever more slowly, for thousands of requests (docs/serving.md). Found at the start: nothing
    is loaded while it serves.
    """
    malloc_trim = glibc("malloc_trim")
    return (lambda: None) if malloc_trim is None else partial(malloc_trim, 0)

"""What of the machine's processors this process may use. No torch."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cpus() -> int:
    """Processors that this process may use; two a core on many machines."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Cores that this process may use: arithmetic gains nothing from a second thread on one."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            place = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
            cores.add(place.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)

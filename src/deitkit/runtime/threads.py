"""Threads that wait quietly. Import this before torch."""

from __future__ import annotations

import os

SPIN_COUNT = "1000"


def calm_threads() -> None:
    """Let OpenMP's threads sleep soon after they have nothing to do, unless the user chose.

    By default they spin, which on a machine that does anything else starves the very thread they
    wait for: training small models on 2 busy cores took 10 to 60 times longer (see
    docs/experiments.md). Read once by OpenMP, so it must come before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

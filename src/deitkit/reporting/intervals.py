"""The bounds of an interval in words."""

from __future__ import annotations

from collections.abc import Sequence


def percent_bounds(bounds: Sequence[float], *, signed: bool = False) -> str:
    """Two shares of 0 to 1, or differences of such, in percent."""
    low, high = (100 * bound for bound in bounds)
    return f"{low:+.1f} to {high:+.1f}" if signed else f"{low:.1f} to {high:.1f}"

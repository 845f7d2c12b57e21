"""One decision, and why."""

from __future__ import annotations

from typing import Any, NamedTuple


class Choice(NamedTuple):
    """A value and the sentence that defends it."""

    value: Any
    reason: str

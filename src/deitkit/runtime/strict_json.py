"""JSON from a stranger: bounded in size and depth, no key twice, every number finite."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from deitkit.errors import ModelFileError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
# A whole string (so that brackets inside it do not count), or one bracket.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def load_json(
    data: bytes, subject: object, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> Any:
    """Parse UTF-8 JSON; refuse it before anything large is built.

    Python's own parser keeps the last of two equal keys, reads NaN, Infinity and 1e999, and goes
    as deep as the text does; each of these lets a file say two things to two readers.

    Raises:
        ModelFileError: JSON, naming `subject`.
    """
    try:
        if len(data) > max_bytes:
            raise ValueError(f"{len(data):,} bytes, more than {max_bytes:,}")
        if _depth(data, max_depth) > max_depth:
            raise ValueError(f"nested deeper than {max_depth}")
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            "JSON", subject, f"it cannot be read as JSON ({error})", "write or export it again"
        ) from error


def _depth(data: bytes, stop_at: int) -> int:
    deepest = depth = 0
    for match in _TOKENS.finditer(data):
        first = match.group()[:1]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > stop_at:
                break
        elif first in b"]}":
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key[:80]!r} stands twice")
        table[key] = value
    return table


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value

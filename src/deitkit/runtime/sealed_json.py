"""A small JSON file that ends with a digest of itself: one flipped bit in it is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deitkit.errors import ModelFileError
from deitkit.runtime.strict_json import load_json

MAX_BYTES = 1 << 24
_SEAL = "blake2b"


def short_digest(data: bytes) -> str:
    """16 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one way to write a value: equal values, equal bytes."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")


def sealed_json(content: Mapping[str, Any]) -> bytes:
    """Readable JSON of `content`, with the digest of all the rest as its last key."""
    plain = {key: value for key, value in content.items() if key != _SEAL}
    plain[_SEAL] = short_digest(canonical_json(plain))
    return (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode("ascii")


def read_sealed_json(path: Path, *, kind: str) -> dict[str, Any] | None:
    """What `sealed_json` wrote, with `kind` under that key; None where it is damaged or foreign.

    OSError where the disk forbids reading.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        content = load_json(data, path, max_bytes=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ModelFileError):
        return None
    if not isinstance(content, dict) or content.get("kind") != kind:
        return None
    return dict(content) if sealed_json(content) == data else None

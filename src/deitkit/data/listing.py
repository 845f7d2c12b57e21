"""Images without labels, for prediction: files as named, folders in the order of their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from deitkit.data.decoding import DecodePolicy, decode_with_facts
from deitkit.data.display import printable
from deitkit.data.reading import read_image_file
from deitkit.data.stores import LIMIT_FILE_BYTES
from deitkit.data.walking import walk_folders
from deitkit.errors import ConfigError

Loader = Callable[[], np.ndarray]
"""uint8 [H, W, C] of one image; raises DecodeFault, or DataError IO_ERROR."""


def list_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    decode: DecodePolicy | None = None,
) -> Iterator[tuple[str, Loader]]:
    """(path as found, loader) for each image: nothing is read before its loader is called.

    A named file is taken whatever it is called; folders are searched to the bottom for image
    extensions, hidden entries and links out of them left aside. Raises ConfigError NO_DATA at
    once when one of `paths` does not exist, and NO_IMAGES when there is nothing at all in them.
    """
    policy = decode or DecodePolicy()
    named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    expanded = [Path(path).expanduser() for path in named]
    for path in expanded:
        if not os.path.lexists(path):
            raise ConfigError(
                "NO_DATA", printable(path), "does not exist", "give image files or folders"
            )
    found = [name for path in expanded for name in _files_of(path)]
    if not found:
        where = ", ".join(map(printable, expanded)) or "the list of paths"
        raise ConfigError("NO_IMAGES", where, "holds no images", "give image files or folders")
    return ((os.fsdecode(name), partial(_load, name, policy)) for name in found)


def _files_of(path: Path) -> list[bytes]:
    root = os.fsencode(path)
    if not path.is_dir():
        return [root]
    walk = walk_folders(root, [b""], boundary=root)
    return [os.path.join(root, name) for name in walk.files[0]]


def _load(path: bytes, policy: DecodePolicy) -> np.ndarray:
    encoded, _ = read_image_file(path, limit_bytes=LIMIT_FILE_BYTES)
    return decode_with_facts(encoded, policy).pixels_HWC

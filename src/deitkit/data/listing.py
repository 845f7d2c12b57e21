"""Images without labels, for prediction: files as named, folders in the order of their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from deitkit.data.decoding import DecodePolicy, decode_with_facts
from deitkit.data.display import printable
from deitkit.data.shard_names import PARQUET, TAR
from deitkit.data.stores import FileStore, RecordStore
from deitkit.data.walking import walk_folders
from deitkit.errors import ConfigError

Loader = Callable[[], np.ndarray]
"""uint8 [H, W, C] of one image; raises DecodeFault, or DataError IO_ERROR."""
Reader = Callable[[], bytes]
"""The encoded bytes of one image; raises as a Loader does."""


def list_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    decode: DecodePolicy | None = None,
) -> Iterator[tuple[str, Loader]]:
    """(path as found, loader) for each image: nothing is read before its loader is called.

    A named file is taken whatever it is called; folders are searched to the bottom for image
    extensions, hidden entries and links out of them left aside. A tar or Parquet shard, or a
    folder of them, stands for the pictures in it. Raises ConfigError NO_DATA at once when one of
    `paths` does not exist, and NO_IMAGES when there is nothing at all in them.
    """
    policy = decode or DecodePolicy()
    return ((name, partial(_load, read, policy)) for name, read in list_encoded(paths))


def list_encoded(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> Iterator[tuple[str, Reader]]:
    """As `list_images`, the images not decoded."""
    named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    expanded = [Path(path).expanduser() for path in named]
    for path in expanded:
        if not os.path.lexists(path):
            raise ConfigError(
                "NO_DATA", printable(path), "does not exist", "give image files or folders"
            )
    found = [_pictures_of(path) for path in expanded]
    if not any(map(len, found)):
        where = ", ".join(map(printable, expanded)) or "the list of paths"
        raise ConfigError("NO_IMAGES", where, "holds no images", "give image files or folders")
    return (
        (store.describe(row), partial(store.read, row))
        for store in found
        for row in range(len(store))
    )


def _pictures_of(path: Path) -> RecordStore:
    root = os.fsencode(path)
    is_folder = path.is_dir()
    if is_folder or path.suffix.lower() in (TAR, PARQUET):
        # One picture alone is answered sooner without what reads shards.
        from deitkit.data.shards import open_pictures

        shards = open_pictures(path)
        if shards is not None:
            return shards.store
    if not is_folder:
        return FileStore(b"", [root])
    walk = walk_folders(root, [b""], boundary=root)
    return FileStore(root, walk.files[0])


def _load(read: Reader, policy: DecodePolicy) -> np.ndarray:
    return decode_with_facts(read(), policy).pixels_HWC

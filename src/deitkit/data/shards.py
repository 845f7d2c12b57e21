"""Shards below a folder, Parquet or tar: found, sorted into splits, listed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deitkit.data.class_names import index_labels
from deitkit.data.display import name_list, printable
from deitkit.data.faults import Skips
from deitkit.data.listed import ALL, Listing
from deitkit.data.parquet import open_shards
from deitkit.data.shard_names import PARQUET, TAR, is_compressed_tar, shards_by_split
from deitkit.data.stores import RecordStore
from deitkit.data.tar_shards import compressed_shard, list_tars, open_tars
from deitkit.data.walking import is_hidden, is_image_name
from deitkit.errors import DataError

_PLACES = ("", "data/", "*/")
"""Where shards lie in a folder; the first place that has some counts."""


def find_shards(path: Path) -> dict[str, list[Path]]:
    """Shards by split: a file itself, or those of a folder, its data/ or its split folders.

    A tar beside folders of images is an archive that was left there, and no shard. Raises
    DataError COMPRESSED, or BAD_SPLIT where only some tars say which split they are of.
    """
    if path.is_file():
        return {ALL: [path]}
    if found := _first_place(path, PARQUET):
        by_split, unnamed = shards_by_split(found, path)
        return by_split or {ALL: unnamed}
    tars = _first_place(path, TAR)
    compressed = [] if tars else [p for p in sorted(path.glob("*")) if is_compressed_tar(p)]
    if not (tars or compressed) or _holds_images(path):
        return {}
    if compressed:
        raise compressed_shard(compressed[0], f"and {len(compressed) - 1} more are compressed")
    by_split, unnamed = shards_by_split(tars, path)
    if by_split and unnamed:
        raise DataError(
            "BAD_SPLIT",
            printable(path),
            f"{name_list(p.name for p in unnamed)} say no split, {name_list(by_split)} have shards",
            "put train, val or test into every name, or take these shards out of the folder",
        )
    return by_split or {ALL: unnamed}


def _first_place(path: Path, suffix: str) -> list[Path]:
    for place in _PLACES:
        found = sorted(p for p in path.glob(f"{place}*{suffix}") if not p.is_dir())
        found = [p for p in found if not is_hidden(os.fsencode(p.name))]
        if found:
            return found
    return []


def _holds_images(path: Path) -> bool:
    """Whether there is any loose image below; the first one ends the search."""
    for _, folders, files in os.walk(os.fsencode(path)):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if any(is_image_name(name) and not is_hidden(name) for name in files):
            return True
    return False


def list_shards(shards: Sequence[Path], source: Path) -> Listing:
    """One split of `source` in shards of one kind."""
    if shards[0].suffix.lower() == TAR:
        return list_tars(shards, source)
    store, labels, declared = open_shards(shards)
    indices, names = index_labels(labels, declared, store.describe)
    return Listing(", ".join(map(str, shards)), store, indices, names)


class Pictures(NamedTuple):
    """All pictures in shards, whatever their labels and splits."""

    store: RecordStore
    ignored: int
    skipped: Skips


def open_pictures(path: Path) -> Pictures | None:
    """The pictures of a shard, or of a folder of shards; None where there are none.

    A sample without a label is as good as one with.
    """
    is_shard = path.suffix.lower() in (TAR, PARQUET)
    if not (path.is_dir() or (is_shard and path.is_file())):
        return None
    shards = [shard for found in find_shards(path).values() for shard in found]
    # Beside loose images a table is something else, as a tar is.
    if not shards or (path.is_dir() and _holds_images(path)):
        return None
    if shards[0].suffix.lower() == TAR:
        opened = open_tars(shards)
        return Pictures(opened.store, opened.ignored, opened.skipped)
    return Pictures(open_shards(shards)[0], 0, Skips())

"""From what the user names (folder, table, shards, sequence) to splits, listed but not read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.data.class_names import read_class_names
from deitkit.data.containers import EXTENSIONS
from deitkit.data.display import printable
from deitkit.data.faults import Skips
from deitkit.data.listed import ALL, SPLIT_NAMES, Listing, Source
from deitkit.data.sequence import list_pairs
from deitkit.data.shard_names import PARQUET, TAR, is_compressed_tar
from deitkit.data.shards import find_shards, list_shards
from deitkit.data.stores import FileStore
from deitkit.data.table import TABLE_EXTENSIONS, Table, TableRow, bad_labels, read_table
from deitkit.data.walking import is_inside, subfolders, walk_folders
from deitkit.errors import ConfigError, DataError

EXPECTED_LAYOUT = (
    "put each class into a folder of its own, photos/cat/1.jpg and photos/dog/2.jpg, "
    "or photos/train/cat/1.jpg and photos/val/cat/3.jpg"
)


def check_source(source: Any) -> None:
    """Raise ConfigError NO_DATA or NOT_DATA unless a path names a folder, a table or a shard."""
    if not isinstance(source, (str, os.PathLike)):
        return
    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(
            "NO_DATA", printable(path), "does not exist", "give the folder that holds the images"
        )
    if is_compressed_tar(path):
        raise ConfigError(
            "NOT_DATA",
            printable(path),
            "is a compressed archive, which cannot be read from the middle",
            "unpack it once into a .tar (gunzip, unxz, unzstd) and name that",
        )
    if not path.is_dir() and path.suffix.lower() not in (*TABLE_EXTENSIONS, PARQUET, TAR):
        raise ConfigError(
            "NOT_DATA",
            printable(path),
            "is a file, and neither a table nor Parquet nor a tar",
            "give a folder of class folders, a .csv, a .tsv, a .parquet, a .tar or a folder of "
            "shards",
        )


def resolve_source(
    source: Any,
    *,
    class_names: Sequence[str] | None = None,
    follow_symlinks_outside: bool = False,
) -> Source:
    """Find out which layout `source` has. `class_names` only name the int labels of sequences."""
    check_source(source)
    if isinstance(source, Mapping):
        sequences = {_split_name(name): pairs for name, pairs in source.items()}
        return Source(
            "Python sequences",
            {s: partial(_list_pairs, pairs, class_names, s) for s, pairs in sequences.items()},
            {split: f"the {split} sequence" for split in sequences},
        )
    if not isinstance(source, (str, os.PathLike)):
        whole = "a Python sequence"
        return Source(whole, {ALL: partial(_list_pairs, source, class_names, whole)}, {ALL: whole})
    path = Path(source).expanduser()
    if path.suffix.lower() in TABLE_EXTENSIONS and path.is_file():
        return _table_source(path, follow_symlinks_outside)
    shards = find_shards(path)
    if shards:
        splits = {name: partial(list_shards, found, path) for name, found in shards.items()}
        where = {name: ", ".join(map(str, found)) for name, found in shards.items()}
        return Source(str(path), splits, where)
    return _folder_source(path, follow_symlinks_outside)


def _split_name(name: object) -> str:
    known = SPLIT_NAMES.get(str(name).lower())
    if known is None:
        raise DataError(
            "BAD_SPLIT", printable(str(name)), "is no name of a split", "use train, val or test"
        )
    return known


def _list_pairs(source: Any, class_names: Sequence[str] | None, where: str) -> Listing:
    store, labels, names = list_pairs(source, class_names)
    return Listing(where, store, labels, names)


# Folders.


def _folder_source(path: Path, follow_outside: bool) -> Source:
    root = os.fsencode(path)
    names = [os.fsdecode(name) for name in subfolders(root)[0]]
    found: dict[str, str] = {}
    for name in names:
        split = SPLIT_NAMES.get(name.lower())
        if split in found:
            raise DataError(
                "BAD_SPLIT",
                printable(path),
                f"{found[split]} and {name} are both the {split} split",
                "keep one of them",
            )
        if split is not None:
            found[split] = name
    is_split = "train" in found or (bool(found) and len(found) == len(names))
    if not is_split:
        listing = partial(list_class_folders, path, path, follow_outside)
        return Source(str(path), {ALL: listing}, {ALL: str(path)})
    return Source(
        str(path),
        {s: partial(list_class_folders, path, path / n, follow_outside) for s, n in found.items()},
        {split: str(path / name) for split, name in found.items()},
    )


def list_class_folders(source: Path, folder: Path, follow_outside: bool) -> Listing:
    """One level of class folders, images anywhere below them; classes sorted by name.

    Raises DataError EMPTY or NO_CLASSES; OUTSIDE_ROOT for a split folder that is a link out.
    """
    root, boundary = os.fsencode(folder), os.path.realpath(os.fsencode(source))
    if not (follow_outside or is_inside(root, boundary)):
        raise DataError(
            "OUTSIDE_ROOT",
            printable(folder),
            f"is a link that leads out of {printable(source)}",
            "set data.follow_symlinks_outside=true, or copy the folder",
        )
    folders, images, ignored = subfolders(root)
    if not folders:
        if images:
            raise DataError(
                "NO_CLASSES",
                printable(folder),
                f"holds {len(images)} images and no class folders",
                EXPECTED_LAYOUT,
            )
        raise empty_source(folder)
    skipped = Skips()
    kept = []
    for name in sorted(folders, key=os.fsdecode):
        if follow_outside or is_inside(os.path.join(root, name), boundary):
            kept.append(name)
        else:
            skipped.add("outside_root", os.fsdecode(os.path.join(root, name)))
    walk = walk_folders(root, kept, boundary=boundary, follow_outside=follow_outside)
    skipped.update(walk.skipped)
    counts = [len(found) for found in walk.files]
    return Listing(
        str(folder),
        FileStore(root, [path for found in walk.files for path in found]),
        np.repeat(np.arange(len(kept), dtype=np.int64), counts),
        tuple(os.fsdecode(name) for name in kept),
        ignored + walk.ignored + len(images),
        skipped,
    )


def empty_source(where: object) -> DataError:
    return DataError(
        "EMPTY",
        printable(str(where)),
        "holds no images",
        f"{EXPECTED_LAYOUT}; extensions read: {' '.join(EXTENSIONS)}",
    )


# Tables.


def _table_source(path: Path, follow_outside: bool) -> Source:
    table = read_table(path, follow_symlinks_outside=follow_outside)
    by_split: dict[str, list[TableRow]] = {}
    for row in table.rows:
        if row.split and row.split not in SPLIT_NAMES:
            raise DataError(
                "BAD_SPLIT",
                f"{printable(path)}:{row.line}",
                f"{printable(row.split)} is no name of a split",
                "use train, val or test",
            )
        by_split.setdefault(SPLIT_NAMES.get(row.split, ALL), []).append(row)
    if ALL in by_split and len(by_split) > 1:
        raise DataError(
            "BAD_SPLIT",
            f"{printable(path)}:{by_split[ALL][0].line}",
            "has no split, while other rows have one",
            "fill the split column or leave it out",
        )
    if not by_split:
        by_split[ALL] = []
    # Rows that repeat an earlier one are counted once, with the first split.
    listings = {
        split: partial(_list_table_rows, path, rows, table if number == 0 else None)
        for number, (split, rows) in enumerate(by_split.items())
    }
    return Source(str(path), listings, {split: f"{path} ({split})" for split in listings})


def _list_table_rows(path: Path, rows: list[TableRow], table: Table | None) -> Listing:
    numbered = all(row.label.isdigit() for row in rows)
    declared = read_class_names(path.parent / "classes.txt")
    if declared is None:
        unique = {row.label for row in rows}
        names = tuple(sorted(unique, key=int) if numbered else sorted(unique))
        index_of = {name: index for index, name in enumerate(names)}
    else:
        names = declared
        keys = map(str, range(len(names))) if numbered else names
        index_of = {key: index for index, key in enumerate(keys)}
        wrong = [
            (row.line, f"the label {row.label!r} is not one of the {len(names)} of classes.txt")
            for row in rows
            if row.label not in index_of
        ]
        if wrong:
            raise bad_labels(path, wrong)
    return Listing(
        str(path),
        FileStore(os.fsencode(path.parent), [row.path for row in rows]),
        np.fromiter((index_of[row.label] for row in rows), np.int64, len(rows)),
        names,
        table.repeated if table else 0,
    )

"""Tar shards in the WebDataset layout -> a store of their pictures, and their labels."""

# Shapes: N images.

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.data.class_names import read_class_names
from deitkit.data.display import printable
from deitkit.data.faults import Skips
from deitkit.data.listed import Listing
from deitkit.data.reading import Stamp
from deitkit.data.shard_names import check_complete, gap_warning
from deitkit.data.shard_reading import stamp_of_open, with_open_file
from deitkit.data.stores import PathColumn
from deitkit.data.tar_members import DamagedArchive
from deitkit.data.tar_samples import NO_LABEL, LabelCodes, ShardSamples, read_samples
from deitkit.data.tar_store import TarColumns, TarStore, cut_into_blocks
from deitkit.errors import DataError

_BUFFER_BYTES = 4096
"""A header, a label and the next header; more would read pictures that are only passed by."""
_COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_LABEL_DO = (
    "put a .cls with a class name or number beside each picture, or a .json with the field label"
)


@dataclass(frozen=True)
class OpenedTars:
    """Shards that were walked over once."""

    store: TarStore
    codes_N: np.ndarray
    codes: LabelCodes
    ignored: int
    skipped: Skips
    warnings: tuple[str, ...]


def open_tars(shards: Sequence[Path]) -> OpenedTars:
    """Walk over the headers of all shards.

    Raises DataError MISSING_SHARD, COMPRESSED, BAD_SHARD, FILE_GONE, UNREADABLE or IO_ERROR.
    """
    check_complete(shards)
    codes, skipped, warnings = LabelCodes(), Skips(), []
    stamps: list[Stamp] = []
    parts: list[ShardSamples] = []
    for shard in shards:
        stamp, samples, notes = _walk(shard, codes)
        stamps.append(stamp)
        parts.append(samples)
        skipped.update(samples.skipped)
        warnings += [f"{printable(shard)} {note}" for note in notes]
    if gap := gap_warning(shards):
        warnings.append(gap)
    if num_more := sum(part.num_more_images for part in parts):
        warnings.append(f"{num_more} pictures are not the first of their sample and are not used")
    columns, spans_G4 = cut_into_blocks(_columns(parts))
    return OpenedTars(
        TarStore(shards, stamps, columns, spans_G4),
        np.concatenate([part.codes_N for part in parts]),
        codes,
        sum(part.ignored for part in parts),
        skipped,
        tuple(warnings),
    )


def _columns(parts: Sequence[ShardSamples]) -> TarColumns:
    counts = [len(part.names) for part in parts]
    return TarColumns(
        PathColumn(b"", [name for part in parts for name in part.names]),
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.concatenate([part.offsets_N for part in parts]),
        np.concatenate([part.sizes_N for part in parts]),
        np.zeros(sum(counts), np.int32),
    )


def _walk(shard: Path, codes: LabelCodes) -> tuple[Stamp, ShardSamples, list[str]]:
    """Stamp and samples of one shard, and what is odd about it."""

    def walk(descriptor: int) -> tuple[Stamp, ShardSamples, list[str]]:
        stamp = stamp_of_open(descriptor)
        notes: list[str] = []
        with open(descriptor, "rb", _BUFFER_BYTES, closefd=False) as file:
            _refuse_compressed(shard, file.read(8))
            samples = read_samples(file, stamp.size_bytes, str(shard), codes, note=notes.append)
        return stamp, samples, notes

    try:
        return with_open_file(shard, walk)
    except DamagedArchive as fault:
        raise DataError(
            "BAD_SHARD",
            printable(shard),
            printable(str(fault)),
            "fetch or pack it anew, or take it out of the folder",
        ) from fault


def _refuse_compressed(shard: Path, head: bytes) -> None:
    for magic, (name, program) in _COMPRESSIONS.items():
        if head.startswith(magic):
            raise compressed_shard(shard, f"is compressed with {name}", program)


def compressed_shard(shard: Path, why: str, program: str = "gunzip") -> DataError:
    return DataError(
        "COMPRESSED",
        printable(shard),
        f"{why}, and training reads pictures from the middle of a shard",
        f"unpack it once ({program}); pictures are compressed already, so that costs no space",
    )


def list_tars(shards: Sequence[Path], source: Path) -> Listing:
    """One split in shards below `source`: its pictures, and their classes by name or number.

    The names stand in classes.txt or classes.json, beside the shards or in `source`; else the
    labels are the names. Raises DataError as `open_tars`, and BAD_LABEL with the first ten cases.
    """
    opened = open_tars(shards)
    where = [shards[0].parent, source if source.is_dir() else source.parent]
    labels, names = _indexed(opened, _declared_names(where))
    location = str(shards[0])
    if len(shards) > 1:
        location = f"{shards[0]} and {len(shards) - 1} more shards"
    return Listing(
        location,
        opened.store,
        labels,
        names,
        opened.ignored,
        opened.skipped,
        opened.warnings,
    )


def _indexed(
    opened: OpenedTars, declared: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 class indices and class names; all labels are numbers, or all of them are names."""
    texts = list(opened.codes.code_of)
    used = np.unique(opened.codes_N)
    good = [texts[code].text for code in used[used >= 0].tolist() if not texts[code].why]
    numbered = all(text.isdecimal() for text in good)
    known: Sequence[Any]
    if declared is not None:
        names: tuple[str, ...] = declared
        known = range(len(names)) if numbered else names
    else:
        known = sorted({int(text) for text in good}) if numbered else sorted(set(good))
        names = tuple(map(str, known))
    index_of = {name: index for index, name in enumerate(known)}
    whys: dict[int, str] = {NO_LABEL: "it has no label"}
    index_K = np.full(len(texts) + 1, -1, np.int64)  # The last one stands for no label.
    for code, (text, why) in enumerate(texts):
        key = int(text) if numbered and not why else text
        if why or key not in index_of:
            whys[code] = why or f"the label {text!r} is not one of the {len(names)} classes"
        else:
            index_K[code] = index_of[key]
    labels_N = index_K[opened.codes_N]
    wrong = np.flatnonzero(labels_N < 0)
    if len(wrong):
        cases = [
            f"{printable(opened.store.describe(row))}: {printable(whys[opened.codes_N[row]])}"
            for row in wrong[:10].tolist()
        ]
        raise DataError(
            "BAD_LABEL",
            printable(opened.store.describe(int(wrong[0]))),
            f"{len(wrong)} of {len(labels_N)} samples have no usable label: {'; '.join(cases)}",
            _LABEL_DO,
        )
    return labels_N, names


def _declared_names(folders: Sequence[Path]) -> tuple[str, ...] | None:
    for folder in dict.fromkeys(folders):
        names = read_class_names(folder / "classes.txt") or _names_in_json(folder / "classes.json")
        if names is not None:
            return names
    return None


def _names_in_json(path: Path) -> tuple[str, ...] | None:
    """A list of names, or an object of names and numbers, whichever is the key."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict):
            pairs = {
                k if isinstance(v, int) else v: int(v if isinstance(v, int) else k)
                for k, v in content.items()
            }
            if sorted(pairs.values()) != list(range(len(content))):
                raise ValueError("the numbers are not 0, 1, 2 ...")
            content = sorted(pairs, key=lambda name: pairs[name])
        if not content or not all(isinstance(name, str) and name for name in content):
            raise ValueError("it holds no names")
    except (ValueError, TypeError, RecursionError) as fault:
        raise DataError(
            "BAD_CLASSES",
            printable(path),
            f"cannot be read as names of classes ({str(fault)[:100]})",
            'write ["cat", "dog"] or {"cat": 0, "dog": 1}',
        ) from fault
    return tuple(content)

"""What the names of shards say: their split, and whether one is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from deitkit.data.display import name_list, printable
from deitkit.data.listed import SPLIT_NAMES
from deitkit.errors import DataError

TAR = ".tar"
PARQUET = ".parquet"
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_WORDS = "train|training|val|valid|validation|test"
_FIRST_WORD = re.compile(rf"^({_WORDS})(?![a-z])", re.IGNORECASE)
_ANY_WORD = re.compile(rf"(?<![a-z])({_WORDS})(?![a-z])", re.IGNORECASE)
_OF_TOTAL = re.compile(r"-(\d+)-of-(\d+)$")
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def shards_by_split(
    shards: Iterable[Path], source: Path
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The shards of each split, and those whose names and folders say none.

    Parquet tells it at the beginning, `train-00000-of-00002`; tars anywhere,
    `imagenet-train-000000`; both by the folder below `source` that they lie in.
    """
    by_split: dict[str, list[Path]] = {}
    unnamed = []
    for shard in shards:
        pattern = _FIRST_WORD if shard.suffix.lower() == PARQUET else _ANY_WORD
        named = pattern.search(shard.stem)
        if named is None and shard.parent != source:
            named = _FIRST_WORD.fullmatch(shard.parent.name)
        if named:
            by_split.setdefault(SPLIT_NAMES[named[1].lower()], []).append(shard)
        else:
            unnamed.append(shard)
    return by_split, unnamed


def is_compressed_tar(path: Path) -> bool:
    return path.name.lower().endswith(COMPRESSED_TARS)


def check_complete(shards: Sequence[Path]) -> None:
    """`-00000-of-00002` says how many there are; a part of a set is not trained on unnoticed.

    Raises DataError MISSING_SHARD.
    """
    present = {path.stem for path in shards}
    for path in shards:
        numbered = _OF_TOTAL.search(path.stem)
        if numbered is None:
            continue
        stem, total = path.stem[: numbered.start()], int(numbered[2])
        width = len(numbered[1])
        wanted = [f"{stem}-{i:0{width}d}-of-{numbered[2]}" for i in range(total)]
        missing = [name for name in wanted if name not in present]
        if missing:
            raise DataError(
                "MISSING_SHARD",
                printable(path.parent),
                f"{name_list(missing)} of {total} shards missing",
                "add them, or rename the others if they are the whole set",
            )


def gap_warning(shards: Sequence[Path]) -> str | None:
    """Numbers that are left out between the first and the last shard, which names no total."""
    numbers: dict[str, set[int]] = {}
    for path in shards:
        found = _LAST_NUMBER.search(path.stem)
        if found is not None:
            numbers.setdefault(path.stem[: found.start()], set()).add(int(found[1]))
    for stem, present in numbers.items():
        missing = max(present) - min(present) + 1 - len(present)
        if 0 < missing < len(present):
            listed = sorted(set(range(min(present), max(present))) - present)
            return f"shards {stem}* lack the numbers {name_list(map(str, listed))}"
    return None

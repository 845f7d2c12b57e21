"""Parquet shards in the Hugging Face schema: image struct<bytes, path>, label.

Memory: labels are read at once; encoded images one row group at a time, memory-mapped and kept
as they are encoded, up to HELD_BYTES for one store, the least recently used going first. A table
whose images fit is read from disk once. In a larger one an image out of order costs a row group,
so training goes through it block by block (`data.order`). Worker processes that are forked share
what is held; spawned ones read it anew.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deitkit.data.blocks import Blocks, HeldBlocks
from deitkit.data.class_names import read_class_names
from deitkit.data.display import name_list, printable
from deitkit.data.faults import DecodeFault
from deitkit.data.reading import Stamp, stamp_of
from deitkit.data.scan_memory import keys_in_shard
from deitkit.data.shard_names import check_complete
from deitkit.data.stores import changed_file
from deitkit.errors import DataError

HELD_BYTES = 1 << 30
"""Encoded bytes one store keeps in memory."""

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "class")


def load_pyarrow_parquet() -> Any:
    """The module pyarrow.parquet, or DataError NO_PYARROW naming the extra."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            "NO_PYARROW",
            "parquet",
            "pyarrow, which reads it, is not installed",
            'run: pip install "deitkit[parquet]"',
        ) from None


class RowGroup(NamedTuple):
    """Rows that are read together."""

    first_row: int
    """Of all shards' rows."""
    shard: int
    number: int
    """In its shard."""
    num_bytes: int
    """Of its images, encoded, in memory."""


class ParquetStore:
    """Rows of several shards, numbered through."""

    parallel = True
    reads_singly = False

    def __init__(
        self,
        shards: Sequence[Path],
        stamps: Sequence[Stamp],
        groups: Sequence[RowGroup],
        image_column: str,
        rows_N: np.ndarray,
        held: HeldBlocks | None = None,
    ) -> None:
        self._shards = tuple(shards)
        self._stamps = tuple(stamps)
        self._groups = tuple(groups)
        self._group_starts = np.array([group.first_row for group in groups], np.int64)
        self._image_column = image_column
        self._rows_N = rows_N
        self._held = HeldBlocks(HELD_BYTES) if held is None else held

    def __len__(self) -> int:
        return len(self._rows_N)

    def _locate(self, row: int) -> tuple[int, int]:
        """Number of the row group, and the row inside it."""
        number = int(self._rows_N[row])
        group = int(np.searchsorted(self._group_starts, number, side="right")) - 1
        return group, number - int(self._group_starts[group])

    def describe(self, row: int) -> str:
        group, _ = self._locate(row)
        shard = self._groups[group].shard
        first_of_shard = next(g.first_row for g in self._groups if g.shard == shard)
        return f"{self._shards[shard]} row {int(self._rows_N[row]) - first_of_shard}"

    def promised_format(self, row: int) -> str | None:
        return None

    def read(self, row: int) -> bytes:
        group, inside = self._locate(row)
        encoded = self._held.get(group, self._load)[inside].as_py()
        if not encoded:
            raise DecodeFault("empty_file", "the table holds no bytes for this row")
        return bytes(encoded)

    reread = read

    def keys(self) -> list[bytes]:
        keys = list(map(keys_in_shard, self._shards, self._stamps))
        groups_N = self._groups_of_rows()
        inside_N = self._rows_N - self._group_starts[groups_N]
        places = zip(groups_N.tolist(), inside_N.tolist(), strict=True)
        return [keys[self._groups[group].shard](group, inside) for group, inside in places]

    def take(self, rows: np.ndarray) -> ParquetStore:
        return self._changed(self._rows_N[rows], self._held.copied())

    def blocks(self) -> Blocks:
        sizes = np.array([group.num_bytes for group in self._groups], np.int64)
        return Blocks(self._groups_of_rows(), sizes)

    def _groups_of_rows(self) -> np.ndarray:
        """int64 [N], numbers of row groups."""
        return np.searchsorted(self._group_starts, self._rows_N, side="right") - 1

    def holding(self, num_bytes: int) -> ParquetStore:
        return self._changed(self._rows_N, HeldBlocks(max(num_bytes, HELD_BYTES)))

    def _changed(self, rows_N: np.ndarray, held: HeldBlocks) -> ParquetStore:
        return ParquetStore(
            self._shards, self._stamps, self._groups, self._image_column, rows_N, held
        )

    def _load(self, group: int) -> Any:
        _, shard, number, _ = self._groups[group]
        path = self._shards[shard]
        try:
            if stamp_of(str(path)) != self._stamps[shard]:
                raise changed_file(printable(path))
            with load_pyarrow_parquet().ParquetFile(path, memory_map=True) as opened:
                table = opened.read_row_group(
                    number, columns=[self._image_column], use_threads=False
                )
        except FileNotFoundError as fault:
            raise DataError(
                "FILE_GONE",
                printable(path),
                "was there when the data was scanned and is gone",
                "put it back and run the same command again",
            ) from fault
        except OSError as fault:
            raise unreadable_table(path, fault) from fault
        return table.flatten().column(0)


def unreadable_table(path: Path, fault: Exception) -> DataError:
    return DataError(
        "BAD_TABLE", printable(path), f"cannot be read as Parquet ({fault})", "fetch it anew"
    )


def open_shards(
    shards: Sequence[Path],
) -> tuple[ParquetStore, list[Any], tuple[str, ...] | None]:
    """Store, raw labels, and the class names declared in the schema or in classes.txt, or None.

    Raises DataError NO_PYARROW, BAD_TABLE or MISSING_SHARD.
    """
    parquet = load_pyarrow_parquet()
    check_complete(shards)
    stamps: list[Stamp] = []
    groups: list[RowGroup] = []
    labels: list[Any] = []
    names: tuple[str, ...] | None = None
    image_column = ""
    first_row = 0
    for shard, path in enumerate(shards):
        stamps.append(stamp_of(str(path)))
        try:
            with parquet.ParquetFile(path, memory_map=True) as opened:
                image_column, label_column = _columns(opened.schema_arrow, path)
                names = names or _declared_names(opened.schema_arrow, label_column)
                for number in range(opened.metadata.num_row_groups):
                    found = opened.metadata.row_group(number)
                    num_bytes = _column_bytes(found, image_column)
                    groups.append(RowGroup(first_row, shard, number, num_bytes))
                    first_row += found.num_rows
                table = opened.read(columns=[label_column], use_threads=False)
        except (OSError, ValueError) as fault:  # ArrowInvalid is a ValueError.
            raise unreadable_table(path, fault) from fault
        labels.extend(table.column(0).to_pylist())
    store = ParquetStore(shards, stamps, groups, image_column, np.arange(first_row))
    return store, labels, names or read_class_names(shards[0].parent / "classes.txt")


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """Names of the binary image column (`image.bytes` in a struct) and of the label column."""
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is not None and label is not None:
        kind = str(schema.field(image).type)
        if kind in ("binary", "large_binary"):
            return image, label
        if kind.startswith("struct<") and "bytes: " in kind:
            return f"{image}.bytes", label
    raise DataError(
        "BAD_TABLE",
        printable(path),
        f"its columns are {name_list(f'{field.name} ({field.type})' for field in schema)}",
        "it needs image (struct<bytes, path>) and label (int64 or string)",
    )


def _declared_names(schema: Any, label_column: str) -> tuple[str, ...] | None:
    """Class names in the `huggingface` JSON of the schema, in the order of the labels."""
    text = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        names = json.loads(text)["info"]["features"][label_column]["names"]
    except (TypeError, KeyError, ValueError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def _column_bytes(row_group: Any, name: str) -> int:
    columns = map(row_group.column, range(row_group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema == name)

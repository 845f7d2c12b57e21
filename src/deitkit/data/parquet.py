"""Parquet shards in the Hugging Face schema: image struct<bytes, path>, label.

Memory: labels are read at once; encoded images one row group at a time, memory-mapped and kept
as they are encoded, up to HELD_BYTES for one store, the least recently used going first. A table
whose images fit is read from disk once. In a larger one an image out of order costs a row group:
small row groups (some 10 MB) keep that bearable. Worker processes that are forked share what is
held; spawned ones read it anew.
"""

from __future__ import annotations

import importlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.data.class_names import read_class_names
from deitkit.data.display import name_list, printable
from deitkit.data.faults import DecodeFault
from deitkit.data.reading import Stamp, stamp_of
from deitkit.data.stores import changed_file
from deitkit.errors import DataError

HELD_BYTES = 1 << 30
"""Encoded bytes one store keeps in memory."""

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "class")
_SHARD_NUMBER = re.compile(r"-(\d+)-of-(\d+)$")


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


class ParquetStore:
    """Rows of several shards, numbered through."""

    parallel = True

    def __init__(
        self,
        shards: Sequence[Path],
        stamps: Sequence[Stamp],
        groups: Sequence[tuple[int, int, int]],
        image_column: str,
        rows_N: np.ndarray,
    ) -> None:
        self._shards = tuple(shards)
        self._stamps = tuple(stamps)
        self._groups = tuple(groups)  # (first row, shard, group in the shard)
        self._group_starts = np.array([first for first, _, _ in groups], np.int64)
        self._image_column = image_column
        self._rows_N = rows_N
        self._clear()

    def _clear(self) -> None:
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        local = ("_held", "_held_bytes", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in local}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def __len__(self) -> int:
        return len(self._rows_N)

    def _locate(self, row: int) -> tuple[int, int]:
        """Number of the row group, and the row inside it."""
        number = int(self._rows_N[row])
        group = int(np.searchsorted(self._group_starts, number, side="right")) - 1
        return group, number - int(self._group_starts[group])

    def describe(self, row: int) -> str:
        group, _ = self._locate(row)
        shard = self._groups[group][1]
        first_of_shard = next(first for first, owner, _ in self._groups if owner == shard)
        return f"{self._shards[shard]} row {int(self._rows_N[row]) - first_of_shard}"

    def promised_format(self, row: int) -> str | None:
        return None

    def read(self, row: int) -> bytes:
        group, inside = self._locate(row)
        encoded = self._column(group)[inside].as_py()
        if not encoded:
            raise DecodeFault("empty_file", "the table holds no bytes for this row")
        return bytes(encoded)

    reread = read

    def take(self, rows: np.ndarray) -> ParquetStore:
        taken = ParquetStore(
            self._shards, self._stamps, self._groups, self._image_column, self._rows_N[rows]
        )
        taken._held = self._held.copy()  # The same buffers: nothing is copied.
        taken._held_bytes = self._held_bytes
        return taken

    def _column(self, group: int) -> Any:
        with self._lock:
            if group in self._held:
                self._held.move_to_end(group)
                return self._held[group]
            column = self._load(group)
            self._held[group] = column
            self._held_bytes += column.nbytes
            while self._held_bytes > HELD_BYTES and len(self._held) > 1:
                self._held_bytes -= self._held.popitem(last=False)[1].nbytes
            return column

    def _load(self, group: int) -> Any:
        _, shard, number = self._groups[group]
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
    _check_complete(shards)
    stamps: list[Stamp] = []
    groups: list[tuple[int, int, int]] = []
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
                    groups.append((first_row, shard, number))
                    first_row += opened.metadata.row_group(number).num_rows
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


def _check_complete(shards: Sequence[Path]) -> None:
    """`-00000-of-00002` says how many there are; a part of a set is not trained on unnoticed."""
    for path in shards:
        numbered = _SHARD_NUMBER.search(path.stem)
        if numbered is None:
            continue
        stem, total = path.stem[: numbered.start()], int(numbered[2])
        present = {p.stem for p in shards}
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

"""Pictures that come from Python: any sequence of (image, label)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deitkit.data.class_names import index_labels
from deitkit.data.reading import Stamp, read_image_file
from deitkit.data.stores import LIMIT_FILE_BYTES, Raw, reread_file
from deitkit.errors import DataError


class SequenceStore:
    """Rows of a user's sequence. Items are asked for again each time, none is kept here."""

    parallel = False  # Nothing is known about the user's __getitem__.

    def __init__(
        self,
        pairs: Sequence[tuple[Any, Any]],
        positions_N: np.ndarray | None = None,
        stamps: dict[int, Stamp] | None = None,
    ) -> None:
        self._pairs = pairs
        self._positions_N = np.arange(len(pairs)) if positions_N is None else positions_N
        self._stamps = {} if stamps is None else stamps

    def __len__(self) -> int:
        return len(self._positions_N)

    def describe(self, row: int) -> str:
        return f"item {self._positions_N[row]}"

    def promised_format(self, row: int) -> str | None:
        return None

    def read(self, row: int) -> Raw:
        item = self._item(row)
        if not isinstance(item, bytes) and (path := _path_of(item)) is not None:
            encoded, stamp = read_image_file(path, limit_bytes=LIMIT_FILE_BYTES)
            self._stamps[int(self._positions_N[row])] = stamp
            return encoded
        return item

    def reread(self, row: int) -> Raw:
        stamp = self._stamps.get(int(self._positions_N[row]))
        item = self._item(row)
        path = None if isinstance(item, bytes) else _path_of(item)
        return item if path is None or stamp is None else reread_file(path, stamp)

    def keys(self) -> list[bytes]:
        return []

    def take(self, rows: np.ndarray) -> SequenceStore:
        return SequenceStore(self._pairs, self._positions_N[rows], self._stamps)

    def _item(self, row: int) -> Any:
        item = self._pairs[int(self._positions_N[row])][0]
        if isinstance(item, (bytearray, memoryview)):
            return bytes(item)
        if isinstance(item, (bytes, str, os.PathLike, Image.Image, np.ndarray)):
            return item
        raise DataError(
            "BAD_ARRAY",
            self.describe(row),
            f"its image is a {type(item).__name__}",
            "give a PIL image, a uint8 array (height, width, channels), a path or bytes",
        )


def _path_of(item: Any) -> bytes | None:
    if isinstance(item, (str, os.PathLike)):
        return os.fsencode(Path(item).expanduser())
    return None


def list_pairs(
    source: Iterable[Any], class_names: Sequence[str] | None
) -> tuple[SequenceStore, np.ndarray, tuple[str, ...]]:
    """Store, int64 labels and class names of a sequence of (image, label).

    Labels are all str or all int. With `class_names`, ints index into them and names must be
    among them; otherwise the classes are the sorted labels. Raises DataError BAD_SEQUENCE or
    BAD_LABEL.
    """
    indexable = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    pairs: Sequence[Any] = source if indexable else list(source)  # type: ignore[assignment]
    labels: list[Any] = []
    for position in range(len(pairs)):
        pair = pairs[position]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DataError(
                "BAD_SEQUENCE",
                f"item {position}",
                f"is a {type(pair).__name__}, not a pair",
                "give a sequence of (image, label)",
            )
        labels.append(pair[1])
    indices, names = index_labels(labels, class_names, lambda position: f"item {position}")
    return SequenceStore(pairs), indices, names

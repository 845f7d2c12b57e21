"""CSV and TSV tables of image paths and labels. Paths are relative to the table's folder."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from deitkit.data.display import name_list, printable
from deitkit.errors import DataError

TABLE_EXTENSIONS = (".csv", ".tsv")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "category")
SPLIT_COLUMNS = ("split", "subset")
_MISSING = {"", "null", "n/a", "#n/a", "<na>"}


@dataclass(frozen=True, slots=True)
class TableRow:
    """One image: its line in the table, path relative to the table's folder, label, split."""

    line: int
    path: bytes
    label: str
    split: str


@dataclass(frozen=True, slots=True)
class Table:
    rows: list[TableRow]
    repeated: int
    """Rows left out because an earlier one had the same path and label."""


def read_table(table: Path, *, follow_symlinks_outside: bool = False) -> Table:
    """All rows, checked: every path inside the folder, no two labels for one path.

    Raises DataError: BAD_ENCODING, BAD_TABLE, PATH_OUTSIDE_ROOT, BAD_LABEL; the last two with
    line numbers. Whether the files are pictures is left to the scan.
    """
    text = _decoded_text(table)
    header_line = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=header_line.count) if table.suffix.lower() != ".tsv" else "\t"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        path_column = _find_column(header, PATH_COLUMNS, table)
        label_column = _find_column(header, LABEL_COLUMNS, table)
        split_column = next((header.index(n) for n in SPLIT_COLUMNS if n in header), None)
        rows = []
        resolver = _Resolver(table, follow_symlinks_outside)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            cells += [""] * (len(header) - len(cells))
            rows.append(
                TableRow(
                    reader.line_num,
                    resolver.inside(cells[path_column], reader.line_num),
                    cells[label_column].strip(),
                    "" if split_column is None else cells[split_column].strip().lower(),
                )
            )
    except csv.Error as fault:
        raise DataError(
            "BAD_TABLE",
            f"{printable(table)}:{reader.line_num}",
            str(fault),
            "write one row a line, with quotes around cells that contain the separator",
        ) from fault
    return _checked_labels(rows, table)


def _decoded_text(table: Path) -> str:
    encoded = table.read_bytes()
    try:
        return encoded.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(
            "BAD_ENCODING",
            printable(table),
            f"byte {fault.start} is not UTF-8",
            "save the table as UTF-8",
        ) from fault


def _find_column(header: list[str], names: tuple[str, ...], table: Path) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise DataError(
        "BAD_TABLE",
        printable(table),
        f"its first line has the columns {name_list(header) or 'none'}",
        f"name one column {' or '.join(PATH_COLUMNS[:4])} and one {' or '.join(LABEL_COLUMNS[:2])}",
    )


class _Resolver:
    """Turns a cell into a path inside the table's folder, or refuses it."""

    def __init__(self, table: Path, follow_symlinks_outside: bool) -> None:
        self._table = table
        self._root = os.path.realpath(table.parent)
        self._follow_outside = follow_symlinks_outside
        self._inside: dict[str, bool] = {}

    def inside(self, cell: str, line: int) -> bytes:
        """Raises DataError PATH_OUTSIDE_ROOT: absolute, drive letter, NUL, or leading out."""
        path = cell.strip()
        if "\\" in path and not os.path.lexists(os.path.join(self._root, path)):
            if PureWindowsPath(path).anchor:
                self._refuse(cell, line)
            path = path.replace("\\", "/")
        has_drive = len(path) > 1 and path[1] == ":" and path[0].isalpha()
        if "\0" in path or has_drive or path.startswith("/") or not path:
            self._refuse(cell, line)
        relative = os.path.normpath(path)
        if relative == ".." or relative.startswith("../"):
            self._refuse(cell, line)
        if not self._follow_outside and not self._stays_inside(path):
            self._refuse(cell, line)
        return os.fsencode(path)

    def _stays_inside(self, path: str) -> bool:
        """By real paths: links, and `a/..` through a link, count for where they lead."""
        full = os.path.join(self._root, path)
        if os.path.islink(full):
            return self._is_under_root(os.path.realpath(full))
        folder = os.path.dirname(full)
        if folder not in self._inside:
            self._inside[folder] = self._is_under_root(os.path.realpath(folder))
        return self._inside[folder]

    def _is_under_root(self, real: str) -> bool:
        return Path(real).is_relative_to(self._root)

    def _refuse(self, cell: str, line: int) -> None:
        raise DataError(
            "PATH_OUTSIDE_ROOT",
            f"{printable(self._table)}:{line}",
            f"the path {printable(repr(cell)[:200])} is not inside {printable(self._root)}",
            "give paths relative to the table's folder",
        )


def _checked_labels(rows: list[TableRow], table: Path) -> Table:
    label_of: dict[bytes, TableRow] = {}
    kept, wrong = [], []
    for row in rows:
        first = label_of.setdefault(row.path, row)
        if why := why_bad_label(row.label):
            wrong.append((row.line, why))
        elif first is row:
            kept.append(row)
        elif (first.label, first.split) != (row.label, row.split):
            wrong.append(
                (
                    row.line,
                    f"{printable(row.path)} is {first.label!r} {first.split} on line {first.line} "
                    f"and {row.label!r} {row.split} here",
                )
            )
    if wrong:
        raise bad_labels(table, wrong)
    return Table(kept, len(rows) - len(kept))


def why_bad_label(label: str) -> str | None:
    """None for a class name or a class number; nan, 1.5, empty and -1 are neither."""
    if label.lower() in _MISSING:
        return "the label is empty" if not label else f"the label {label!r} means none"
    try:
        number = float(label.replace("_", "x"))  # Python alone reads 1_0 as a number.
    except ValueError:
        return None
    if not label.isdigit():
        return f"the label {label!r} is {'negative' if number < 0 else 'no class number'}"
    return None


def bad_labels(table: Path, wrong: list[tuple[int, str]]) -> DataError:
    """BAD_LABEL with file:line and the first ten cases."""
    shown = "; ".join(f"line {line}: {printable(why)}" for line, why in wrong[:10])
    return DataError(
        "BAD_LABEL",
        f"{printable(table)}:{wrong[0][0]}",
        f"{len(wrong)} labels cannot be used: {shown}",
        "correct these rows; a label is one class name or one class number",
    )

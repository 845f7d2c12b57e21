"""A split written as a table that training can be given, beside a link to the pictures.

A table names no file outside its own folder, so the pictures are reached through a link that lies
beside it. Classes are numbers, named in `classes.txt`: a class may be called what a table cannot
hold, or a spreadsheet would take for a formula.
"""

# Shapes: T training images, N images.

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deitkit.data.display import printable
from deitkit.data.whole_source import WholeSource
from deitkit.errors import ResourceError
from deitkit.runtime.durable import faults_told, write_file

TABLE_FILE, CLASSES_FILE, LINK = "split.csv", "classes.txt", "pictures"


@dataclass(frozen=True, kw_only=True)
class SplitTable:
    """What is written, and what training is told besides the table."""

    table: bytes
    classes: bytes
    root: Path
    """Where the link leads: the folder of the pictures."""

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write both files and the link into `folder`; the words of the command that trains on it.

        Raises:
            ResourceError: the disk refused, or something else has the link's name.
        """
        write_file(folder / CLASSES_FILE, self.classes)
        _link(folder / LINK, self.root)
        write_file(folder / TABLE_FILE, self.table)
        inside = self.root.is_relative_to(folder.resolve())
        words = () if inside else ("data.follow_symlinks_outside=true",)
        return (f"data={folder / TABLE_FILE}", *words)


def split_table(whole: WholeSource, is_val_T: np.ndarray, root: Path) -> SplitTable | str:
    """path, label, split of every picture under `root`; or why there cannot be such a table."""
    names = whole.images.class_names
    bad = [name for name in names if name != name.strip() or name.splitlines() != [name]]
    bad = bad or [name for name in names if not _is_text(name)]
    if bad:
        return f"a table cannot name the class {printable(bad[0])}"
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    resolved = root.resolve()
    for place, label in enumerate(whole.images.labels.tolist()):
        found = Path(whole.images.describe(place)).resolve()
        if not found.is_file():
            return f"{printable(found)} is no file of its own"
        path = f"{LINK}/{found.relative_to(resolved).as_posix()}"
        if path != path.strip() or not _is_text(path):
            return f"a table cannot name the file {printable(path)}"
        split = whole.split_of(place)
        if split == "train" and is_val_T[place]:
            split = "val"
        writer.writerow([path, label, split])
    return SplitTable(
        table=stream.getvalue().encode(),
        classes="".join(f"{name}\n" for name in names).encode(),
        root=resolved,
    )


def _is_text(name: str) -> bool:
    """Whether UTF-8 can hold it; a file name may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def _link(link: Path, root: Path) -> None:
    if link.is_symlink() and link.resolve() == root:
        return
    if link.exists() and not link.is_symlink():
        raise ResourceError(
            "NOT_OURS", link, "is no link of ours", "remove it, or choose another out="
        )
    with faults_told(link):
        link.unlink(missing_ok=True)
        os.symlink(root, link, target_is_directory=True)

"""Image files below folders: sorted, each directory once, nothing hidden, no link followed out."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from deitkit.data.containers import EXTENSIONS
from deitkit.data.faults import Skips

_NOT_DATA = {b"__macosx", b"@eadir", b"thumbs.db", b"desktop.ini", b"#recycle", b"lost+found"}
_EXTENSIONS = {extension.encode() for extension in EXTENSIONS}


def is_hidden(name: bytes) -> bool:
    """Names that file managers, archives and notebooks leave behind, never pictures or classes."""
    return name.startswith(b".") or name.lower() in _NOT_DATA


def is_image_name(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower() in _EXTENSIONS


@dataclass(slots=True)
class Walk:
    """What lies below one or more folders; `files[k]` belongs to the k-th of them."""

    files: list[list[bytes]]
    """Paths relative to the root; absolute real paths for files that were reached by a link."""
    ignored: int = 0
    """Hidden entries and files without an image extension."""
    skipped: Skips = field(default_factory=Skips)


def walk_folders(
    root: bytes,
    folders: Sequence[bytes],
    *,
    boundary: bytes,
    follow_outside: bool = False,
) -> Walk:
    """Every image file below `folders` (relative to `root`), in the order of their names.

    Links are followed once: a directory is visited a single time, whatever leads to it. A link
    that leads out of `boundary` is skipped as outside_root unless `follow_outside`.
    """
    walker = _Walker(root, boundary, follow_outside, Walk([[] for _ in folders]))
    for folder in folders:
        walker.visit(os.path.join(root, folder))
    for number, folder in enumerate(folders):
        walker.descend(number, folder)
    # Real directories come first, so that a link into another class takes nothing from it.
    while walker.linked:
        number, folder = walker.linked.pop(0)
        if walker.visit(os.path.join(root, folder)):
            walker.descend(number, folder)
    for found in walker.walk.files:
        found.sort()
    return walker.walk


class _Walker:
    def __init__(self, root: bytes, boundary: bytes, follow_outside: bool, walk: Walk) -> None:
        self.walk = walk
        self.linked: list[tuple[int, bytes]] = []
        self._root = root
        self._boundary = os.path.realpath(boundary)
        self._follow_outside = follow_outside
        self._visited: set[tuple[int, int]] = set()
        self.visit(root)

    def visit(self, directory: bytes) -> bool:
        """Whether this directory is met for the first time."""
        found = os.stat(directory)
        identity = (found.st_dev, found.st_ino)
        if identity in self._visited:
            return False
        self._visited.add(identity)
        return True

    def descend(self, number: int, folder: bytes) -> None:
        pending = [folder]
        while pending:
            current = pending.pop()
            try:
                with os.scandir(os.path.join(self._root, current)) as entries:
                    for entry in entries:
                        below = self._sort_out(number, current, entry)
                        if below is not None:
                            pending.append(below)
            except OSError as fault:
                reason = {
                    errno.EACCES: "permission",
                    errno.EPERM: "permission",
                    errno.ENAMETOOLONG: "path_too_long",
                }.get(fault.errno or 0)
                if reason is None:
                    raise
                self.walk.skipped.add(reason, os.fsdecode(current[-200:]), "a whole folder")

    def _sort_out(self, number: int, folder: bytes, entry: os.DirEntry[bytes]) -> bytes | None:
        """File one entry where it belongs; the relative path of a real subdirectory comes back."""
        path = os.path.join(folder, entry.name)
        if is_hidden(entry.name):
            self.walk.ignored += 1
        elif entry.is_symlink():
            self._sort_out_link(number, path, entry)
        elif entry.is_dir(follow_symlinks=False):
            return path if self.visit(os.path.join(self._root, path)) else None
        elif not is_image_name(entry.name):
            self.walk.ignored += 1
        elif not entry.is_file(follow_symlinks=False):
            self.walk.skipped.add("not_a_regular_file", self._shown(path))
        else:
            self.walk.files[number].append(path)
        return None

    def _sort_out_link(self, number: int, path: bytes, entry: os.DirEntry[bytes]) -> None:
        full = os.path.join(self._root, path)
        leads_to_folder = os.path.isdir(full)
        if not leads_to_folder and not is_image_name(entry.name):
            self.walk.ignored += 1
        elif not leads_to_folder and not os.path.isfile(full):
            self.walk.skipped.add("not_a_regular_file", self._shown(path))
        elif not (self._follow_outside or is_inside(full, self._boundary)):
            self.walk.skipped.add("outside_root", self._shown(path))
        elif leads_to_folder:
            self.linked.append((number, path))
        else:
            self.walk.files[number].append(os.path.realpath(full))

    def _shown(self, path: bytes) -> str:
        return os.fsdecode(os.path.join(self._root, path))


def is_inside(path: bytes, boundary: bytes) -> bool:
    """Whether the real path lies in `boundary`, itself a real path."""
    real = os.path.realpath(path)
    return real == boundary or real.startswith(boundary.rstrip(os.sep.encode()) + os.sep.encode())


def subfolders(root: bytes) -> tuple[list[bytes], list[bytes], int]:
    """Names of the folders and of the image files directly in `root`, and how much was ignored."""
    folders, images, ignored = [], [], 0
    with os.scandir(root) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                ignored += 1
            elif entry.is_dir():
                folders.append(entry.name)
            elif is_image_name(entry.name):
                images.append(entry.name)
            else:
                ignored += 1
    return sorted(folders), sorted(images), ignored

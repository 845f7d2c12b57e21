"""A folder of small and large pictures, and the image cache of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deitkit.data import ImageSet, open_split
from deitkit.data.image_cache import ImageCache, open_image_cache
from deitkit.runtime.shared_folder import SharedLock
from tests.data import faulty_images as fi

SIDE = 32
SIZES = [(20, 30), (32, 90), (40, 64), (75, 50), (300, 200), (33, 33)]
"""Two stay whole at a side of 32, four are reduced; the fifth is decoded at a quarter."""


def write_toys(folder: Path) -> Path:
    """Twelve pictures in two classes: each size as a PNG and as a JPEG."""
    for k, (height, width) in enumerate(SIZES):
        for name, file_format in (("jpegs", "JPEG"), ("pngs", "PNG")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            path = folder / name / f"{k}.{file_format.lower()}"
            path.write_bytes(fi.encode(fi.photo(k, height, width), file_format))
    return folder


def open_toys(
    folder: Path, root: Path, *, side: int | None = SIDE, said: list[str] | None = None, **more: Any
) -> tuple[ImageSet, ImageCache, SharedLock | None]:
    images = open_split(folder)
    cache, lock = open_image_cache(
        images,
        root,
        side=side,
        source=str(folder),
        tell=(said if said is not None else []).append,
        progress=more.get("progress", lambda what, done, total: None),
    )
    return images, cache, lock


def all_images(images: ImageSet, cache: ImageCache) -> list[np.ndarray]:
    return [cache.read(index).copy() for index in range(len(images))]


def files_of(root: Path) -> dict[str, bytes]:
    """Content of every file of the one cache in `root`, but the locks."""
    (folder,) = root.iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix}

"""A cache of decoded images, looked at from outside."""

from __future__ import annotations

from pathlib import Path

from deitkit.api.cache_found import IMAGES, CacheCheck, CacheFound, FileFound, found_at
from deitkit.data.image_cache_files import StoredImages
from deitkit.data.image_cache_folder import (
    INDEX_FILE,
    PIXELS_FILE,
    SCHEMA,
    read_header,
    read_layout,
)
from deitkit.runtime.disk_faults import disk_fault


def is_image_cache(path: Path) -> bool:
    """Told by its files: a header can be damaged."""
    return (path / PIXELS_FILE).exists() or (path / INDEX_FILE).exists()


def find_images(path: Path) -> CacheFound:
    header = read_header(path) or {}
    return found_at(
        path,
        kind=IMAGES,
        source=header.get("source"),
        num_images=header.get("num_images"),
        facts={name: header.get(name) for name in ("side", "channels", "decoder")},
    )


def check_images(path: Path) -> CacheCheck:
    """Every image. Raises ResourceError, the disk forbids reading."""
    problems: list[str] = []
    files: dict[str, FileFound] = {}
    header = read_header(path)
    if header is None:
        problems.append("header.json is damaged")
    elif header.get("schema") != SCHEMA:
        problems.append(f"written in cache format {header.get('schema')}")
    else:
        layout = read_layout(path, header["channels"])
        if layout is None:
            problems.append(f"{INDEX_FILE} is damaged")
        else:
            try:
                with StoredImages(path, layout) as stored:
                    files[PIXELS_FILE] = stored.verify()
            except FileNotFoundError as error:
                problems.append(f"{Path(error.filename).name} is missing")
            except OSError as error:
                raise disk_fault(error, path) from error
    return CacheCheck(folder=path, kind=IMAGES, problems=tuple(problems), files=files)

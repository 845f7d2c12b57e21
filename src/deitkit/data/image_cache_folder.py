"""The folder of one image cache: its name says what is in it, its header says it again.

`<root>/<identity>-<contents>/` where identity is a digest of how images are decoded and reduced and
by which decoder, contents one of the index. So images decoded otherwise, or other images, never
meet; what is in the header can be written again from the name's own ingredients.

    header.json   all of it for people and for other programs
    index.bin, checks.bin, pixels.bin   see `image_cache_layout`
    .lock, .filling   empty, see `runtime.shared_folder`
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, features

from deitkit.data.decoding import DecodePolicy
from deitkit.data.image_cache_layout import WORD_BYTES, Layout, read_index
from deitkit.runtime.disk_space import give_full_length
from deitkit.runtime.durable import (
    make_folder,
    removed_on_failure,
    sync_folder,
    write_file,
    write_new_file,
)
from deitkit.runtime.sealed_json import (
    canonical_json,
    read_sealed_json,
    sealed_json,
    short_digest,
)
from deitkit.runtime.shared_folder import FILL_FILE, LOCK_FILE
from deitkit.runtime.temporary_names import remove_tree, temporary_name

SCHEMA = 1
KIND = "deitkit image cache"
HEADER_FILE = "header.json"
INDEX_FILE = "index.bin"
CHECKS_FILE = "checks.bin"
PIXELS_FILE = "pixels.bin"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class CacheIdentity:
    """How the images of a cache came to be. Equal identities share their images."""

    decode: DecodePolicy
    side: int | None
    """Short side that larger images are reduced to; None keeps them whole."""
    source: str
    """Where the images lie, for people; not part of the identity."""

    def digest(self) -> str:
        return short_digest(canonical_json({"schema": SCHEMA, **self._decisive()}))

    def header(self, layout: Layout) -> bytes:
        """The text of header.json."""
        return sealed_json(
            {
                "kind": KIND,
                "schema": SCHEMA,
                "source": self.source,
                **self._decisive(),
                "num_images": len(layout),
                "num_bytes": layout.num_bytes,
                "index_blake2b": layout.digest,
            }
        )

    def _decisive(self) -> dict[str, Any]:
        value_range = self.decode.value_range
        return {
            "channels": self.decode.channels,
            "background": list(self.decode.background),
            "value_range": None if value_range is None else list(value_range),
            "side": self.side,
            # Another decoder may round otherwise; what it made is then not what we would make.
            "decoder": f"Pillow {Image.__version__}, {features.version('libjpeg_turbo') or 'jpeg'}",
        }


def cache_name(identity: CacheIdentity, layout: Layout) -> str:
    return f"{identity.digest()}-{layout.digest}"


def cache_folders(root: Path) -> list[Path]:
    """The folders in `root` that have a cache's name."""
    return sorted(path for path in root.glob("*-*") if _NAME.fullmatch(path.name))


def read_header(folder: Path) -> dict[str, Any] | None:
    """What header.json says, None where it is damaged or foreign."""
    return read_sealed_json(folder / HEADER_FILE, kind=KIND)


def read_layout(folder: Path, channels: int) -> Layout | None:
    """The layout of a cache, None where its index is not that of the folder's name."""
    try:
        layout = read_index((folder / INDEX_FILE).read_bytes(), channels=channels)
    except OSError:
        return None
    is_its_own = layout is not None and folder.name.endswith(f"-{layout.digest}")
    return layout if is_its_own else None


def create_folder(place: Path, identity: CacheIdentity, layout: Layout) -> None:
    """Make a cache's folder whole, its space reserved, or not at all; no image is in it yet.

    Where another process makes it at the same time the first one stays. OSError as it comes.
    """
    make_folder(place.parent)
    with temporary_name(place) as temporary, removed_on_failure(temporary):
        temporary.mkdir()
        for name in (LOCK_FILE, FILL_FILE):
            write_new_file(temporary / name, b"")
        write_new_file(temporary / HEADER_FILE, identity.header(layout))
        write_new_file(temporary / INDEX_FILE, layout.index_bytes)
        give_lengths(temporary, layout)
        sync_folder(temporary)
        try:
            temporary.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_tree(temporary)
    sync_folder(place.parent)


def repair_folder(place: Path, identity: CacheIdentity, layout: Layout) -> bool:
    """Write header and index again where they are damaged, give files that were cut their length
    back; whether header or index were damaged."""
    damaged = False
    if read_header(place) is None:
        write_file(place / HEADER_FILE, identity.header(layout))
        damaged = True
    if read_layout(place, layout.channels) is None:
        write_file(place / INDEX_FILE, layout.index_bytes)
        damaged = True
    give_lengths(place, layout)
    return damaged


def give_lengths(place: Path, layout: Layout) -> None:
    lengths = {CHECKS_FILE: len(layout) * WORD_BYTES, PIXELS_FILE: layout.num_bytes}
    for name, num_bytes in lengths.items():
        descriptor = os.open(place / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            give_full_length(descriptor, num_bytes)
        finally:
            os.close(descriptor)

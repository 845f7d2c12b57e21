"""The folder of one cache: its name says whose answers to what it holds, its header says it again.

`<root>/<identity>-<data>/` where identity is a digest of teacher, classes, views and format, and
data one of the images' ids. So another teacher, class order, view policy or data set never meets
records that are not its own, and everything in the header can be written again from the name's
own ingredients where it is damaged.

    header.json      all of it for people and for other programs
    sample_ids.bin   uint64, little-endian, ascending: the place of an image is its rank in it
    epoch-00000.bin  records (`cache_files`, `cache_records`)
    .lock            empty; shared by all who use the cache, exclusive for who removes it
"""

# Shapes: N images of the data set.

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import ModelFileError
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
from deitkit.runtime.shared_folder import LOCK_FILE
from deitkit.runtime.temporary_names import remove_tree, temporary_name
from deitkit.runtime.user_cache import user_cache
from deitkit.teachers.cache_records import RecordFormat

Ids = NDArray[np.uint64]

SCHEMA = 1
KIND = "deitkit teacher cache"
HEADER_FILE = "header.json"
IDS_FILE = "sample_ids.bin"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class CacheIdentity:
    """Whose answers, to what, in which form. Equal identities share their records."""

    teacher_digest: str
    class_names: tuple[str, ...]
    policy_digest: str
    num_repeats: int
    records: RecordFormat
    teacher_name: str
    """For people; not part of the identity."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """More for people and other programs, as JSON; not part of the identity."""

    def digest(self) -> str:
        """16 hexadecimal digits."""
        return short_digest(canonical_json({"schema": SCHEMA, **self._decisive()}))

    def folder_name(self, ids_N: Ids) -> str:
        return f"{self.digest()}-{short_digest(ids_bytes(ids_N))}"

    def header(self, ids_N: Ids) -> bytes:
        """The text of header.json, ending with a digest of itself."""
        content = {
            "kind": KIND,
            "schema": SCHEMA,
            "teacher": self.teacher_name,
            **self._decisive(),
            "num_classes": self.records.num_classes,
            "num_samples": len(ids_N),
            "record_bytes": self.records.num_bytes,
            "record": self.records.describe(),
            "sample_ids_blake2b": short_digest(ids_bytes(ids_N)),
            "about": dict(self.about),
        }
        return sealed_json(content)

    def _decisive(self) -> dict[str, Any]:
        return {
            "teacher_digest": self.teacher_digest,
            "class_names": list(self.class_names),
            "policy_digest": self.policy_digest,
            "num_repeats": self.num_repeats,
            "dtype": self.records.dtype,
            "top_k": self.records.top_k,
        }


def default_root() -> Path:
    """Where caches lie unless the user says otherwise: the user's cache folder."""
    return user_cache("teachers")


def cache_folders(root: Path) -> list[Path]:
    """The folders in `root` that have a cache's name."""
    return sorted(path for path in root.glob("*-*") if _NAME.fullmatch(path.name))


def ids_bytes(ids_N: Ids) -> bytes:
    return ids_N.astype("<u8").tobytes()


def read_header(folder: Path) -> dict[str, Any]:
    """What header.json says. Raises ModelFileError CACHE_HEADER where it is damaged or foreign."""
    path = folder / HEADER_FILE
    content = read_sealed_json(path, kind=KIND)
    if content is None:
        raise ModelFileError(
            "CACHE_HEADER",
            path,
            "it is damaged, or no header of a teacher cache",
            "train with the same settings again, which writes it anew, or remove the folder",
        )
    return content


def read_ids(folder: Path) -> Ids | None:
    """The ids of a cache's images, or None where they are not those of the folder's name."""
    try:
        data = (folder / IDS_FILE).read_bytes()
    except OSError:
        return None
    if len(data) % 8 or not folder.name.endswith(f"-{short_digest(data)}"):
        return None
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def create_folder(
    place: Path, identity: CacheIdentity, ids_N: Ids, fill: Callable[[Path], None]
) -> None:
    """Make a cache's folder whole or not at all; `fill` may put records into it before.

    Where another process makes it at the same time the first one stays. OSError as it comes.
    """
    make_folder(place.parent)
    with temporary_name(place) as temporary, removed_on_failure(temporary):
        temporary.mkdir()
        write_new_file(temporary / LOCK_FILE, b"")
        write_new_file(temporary / IDS_FILE, ids_bytes(ids_N))
        write_new_file(temporary / HEADER_FILE, identity.header(ids_N))
        fill(temporary)
        sync_folder(temporary)
        try:
            temporary.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_tree(temporary)
    sync_folder(place.parent)


def repair_folder(place: Path, identity: CacheIdentity, ids_N: Ids) -> bool:
    """Write header and ids again where they are damaged; whether they were."""
    damaged = False
    if read_ids(place) is None:
        write_file(place / IDS_FILE, ids_bytes(ids_N))
        damaged = True
    try:
        read_header(place)
    except ModelFileError:
        write_file(place / HEADER_FILE, identity.header(ids_N))
        damaged = True
    return damaged

"""What a scan found out, kept for the next start, which then looks only at files that changed.

One file for each source, split and policy in the user's own cache folder. A row is known by a key
of its name and of what changes when its file does: size, modification time, and the time of the
last change of anything about it. Whatever is damaged or foreign is as if it were not there.
"""

# Shapes: M rows of a listing, K rows that are remembered.

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from deitkit.errors import ResourceError
from deitkit.runtime.durable import write_file
from deitkit.runtime.user_cache import user_cache

KEY_BYTES = 16
UNKNOWN = bytes(KEY_BYTES)
"""The key of a row that cannot be known again."""
SETTLED_S = 2.0
"""A file that changed later than so long ago may change once more within one tick of its clock."""
UNUSED_DAYS = 90
_SCHEMA = b"deitkit scan 1\n"
_SEAL_BYTES = 32

FACTS = np.dtype(
    [
        ("key", "<u8", 2),
        ("digest", "u1", 16),
        ("size", "<i4", 2),
        ("animated", "?"),
        ("grey", "?"),
        ("mismatched", "?"),
    ]
)
"""Of a usable picture: `size` is height and width, `mismatched` that its name promises another
format."""


def key_of(name: bytes, *numbers: int) -> bytes:
    """The key of a row whose content can only change with these numbers."""
    told = b"%b\0%b" % (name, b" ".join(b"%d" % number for number in numbers))
    return hashlib.blake2b(told, digest_size=KEY_BYTES).digest()


def keys_in_shard(path: Path, stamp: tuple[int, int]) -> Callable[..., bytes]:
    """From the numbers of a row's place in a shard to its key; UNKNOWN for all where the shard is
    not surely what it was when it had this `stamp`, its size and modification time."""
    numbers = file_numbers(path)
    if numbers is None or numbers[:2] != tuple(stamp):
        return lambda *place: UNKNOWN
    shard = key_of(os.fsencode(path), *numbers)
    return lambda *place: key_of(shard, *place)


def file_numbers(path: str | bytes | Path) -> tuple[int, int, int, int] | None:
    """Size, modification time, change time (both in ns) and inode: what a file cannot change
    without; None where it changed a moment ago or is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if max(found.st_mtime, found.st_ctime) > time.time() - SETTLED_S:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


class ScanMemory:
    """The facts about one split of one source."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, *names: object) -> ScanMemory:
        """The memory of a source: the same names, the same memory."""
        told = "\0".join(map(str, names)).encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(told, digest_size=16).hexdigest()
        return cls(user_cache("scans") / digest)

    def recall(self, keys_M: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The facts of the rows with these keys [M], and whether they are known: bool [M]."""
        wanted_M2 = np.frombuffer(b"".join(keys_M), "<u8").reshape(-1, 2)
        facts_K = self._load()
        found_M = np.zeros(len(wanted_M2), FACTS)
        if len(facts_K) == 0:
            return found_M, np.zeros(len(wanted_M2), bool)
        facts_K = facts_K[np.argsort(facts_K["key"][:, 0])]
        places_M = np.searchsorted(facts_K["key"][:, 0], wanted_M2[:, 0])
        found_M = facts_K[np.minimum(places_M, len(facts_K) - 1)]
        is_known_M = (found_M["key"] == wanted_M2).all(axis=1) & wanted_M2.any(axis=1)
        return found_M, is_known_M

    def keep(self, facts_K: np.ndarray) -> None:
        """Remember these rows, and no others. A full or read-only disk is no reason to stop."""
        stream = io.BytesIO()
        np.save(stream, facts_K[facts_K["key"].any(axis=1)], allow_pickle=False)
        body = _SCHEMA + stream.getvalue()
        with suppress(ResourceError, OSError):
            write_file(self.path, body + _seal(body))
            _forget_unused(self.path.parent)

    def _load(self) -> np.ndarray:
        """All that is remembered: [K]."""
        nothing = np.empty(0, FACTS)
        try:
            data = self.path.read_bytes()
            body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
            if not body.startswith(_SCHEMA) or seal != _seal(body):
                return nothing
            os.utime(self.path)
            facts_K = np.load(io.BytesIO(body[len(_SCHEMA) :]), allow_pickle=False)
        except (OSError, ValueError):
            return nothing
        return facts_K if facts_K.dtype == FACTS and facts_K.ndim == 1 else nothing


def _seal(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_SEAL_BYTES).digest()


def _forget_unused(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 86_400
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()

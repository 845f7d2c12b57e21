"""Every picture of a split is read and decoded once, in full, before anything else happens."""

# Shapes: M rows of the listing, N usable images.

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from deitkit.data.decoding import Decoded, DecodePolicy, decode_array, decode_with_facts
from deitkit.data.display import printable
from deitkit.data.faults import DecodeFault, Skips
from deitkit.data.memory import PixelKeeper, Pixels
from deitkit.data.pixels import is_grey
from deitkit.data.scan_memory import FACTS, ScanMemory
from deitkit.data.stores import Raw, RecordStore
from deitkit.data.threads import map_rows, num_decode_threads
from deitkit.errors import DataError

DIGEST_BYTES = 16
WORTH_REMEMBERING_S = 1.0
"""A scan that took longer is remembered."""
TINY_SIDE = 8
"""An accepted picture with a shorter side, in pixels, is counted as tiny."""

Progress = Callable[[int, int | None], None]
BadImages = Literal["skip", "fail"]


@dataclass(slots=True)
class Tally:
    """What is worth telling about the usable pictures of a split."""

    extension_mismatch: int = 0
    animated: int = 0
    tiny: int = 0
    greyscale: int = 0

    def add(self, other: Tally) -> None:
        self.extension_mismatch += other.extension_mismatch
        self.animated += other.animated
        self.tiny += other.tiny
        self.greyscale += other.greyscale


@dataclass(slots=True)
class Scan:
    """The usable rows of a listing, as columns."""

    rows: np.ndarray
    """int64 [N], which of the M rows these are."""
    digests: np.ndarray
    """uint8 [N, 16], BLAKE2b of the encoded bytes, or of shape and pixels of Python pictures."""
    sizes: np.ndarray
    """int32 [N, 2], height and width, upright."""
    pixels: Pixels | None
    tally: Tally = field(default_factory=Tally)
    skipped: Skips = field(default_factory=Skips)


class _Looked(NamedTuple):
    """One row after its decode: a fault, or facts and perhaps pixels."""

    fault: DecodeFault | None
    digest: bytes = b""
    height: int = 0
    width: int = 0
    file_format: str = ""
    animated: bool = False
    grey: bool = False
    pixels_HWC: np.ndarray | None = None


def decode_raw(
    raw: Raw, policy: DecodePolicy, subject: str, *, least: tuple[int, int] | None = None
) -> Decoded:
    """Decode what a store returns, whichever kind it is; `least` as in `decode_with_facts`."""
    if isinstance(raw, bytes):
        return decode_with_facts(raw, policy, least=least)
    pixels_HWC = decode_array(raw, policy, subject=subject)
    if isinstance(raw, Image.Image):
        return Decoded(pixels_HWC, "", False, is_grey(raw))
    return Decoded(pixels_HWC, "", False, raw.ndim == 2 or raw.shape[2] == 1)


def scan_store(
    store: RecordStore,
    policy: DecodePolicy,
    *,
    bad_images: BadImages,
    keep_bytes: int = 0,
    progress: Progress | None = None,
    num_threads: int | None = None,
    memory: ScanMemory | None = None,
) -> Scan:
    """Decode all rows; bad ones are listed by reason, or raise DataError BAD_IMAGE on "fail".

    Decoded pictures are kept when all of them fit into `keep_bytes`. Where they do not, rows that
    `memory` knows are not read. `progress(done, total)` is called from this thread. An interrupt
    ends the scan within one picture.
    """
    began = time.monotonic()
    facts_M, is_remembered_M = _recalled(store, memory)
    sizes_K2 = facts_M["size"][is_remembered_M].astype(np.int64)
    # What fits into memory is read all the same: its pixels are wanted.
    is_large = sizes_K2.prod(axis=1).sum() * policy.channels > keep_bytes
    is_known_M = is_remembered_M & is_large
    rows_to_read = np.flatnonzero(~is_known_M).tolist()
    keeper = PixelKeeper(len(store), 0 if is_known_M.any() else keep_bytes)
    threads = (num_threads or num_decode_threads()) if store.parallel else 1
    scan = Scan(np.empty(0, np.int64), np.empty((0, DIGEST_BYTES), np.uint8), np.empty(0), None)
    is_good_M = is_known_M.copy()
    looked_at = map_rows(
        lambda place: _look(store, rows_to_read[place], policy, keeper),
        len(rows_to_read),
        num_threads=threads,
    )
    with warnings.catch_warnings(), closing(looked_at):
        # Pillow's remarks on odd files; what matters of them is in the counts.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for place, (row, looked) in enumerate(zip(rows_to_read, looked_at, strict=False)):
            if looked.fault is None:
                _note(facts_M[row], looked, store.promised_format(row))
                is_good_M[row] = True
                keeper.add(looked.pixels_HWC)
            elif bad_images == "fail":
                raise DataError(
                    "BAD_IMAGE",
                    printable(store.describe(row)),
                    str(looked.fault),
                    "remove or replace it, or set data.bad_images=skip",
                )
            else:
                scan.skipped.add(looked.fault.reason, store.describe(row), looked.fault.detail)
            if progress is not None:
                progress(len(store) - len(rows_to_read) + place + 1, len(store))
    facts_N = facts_M[is_good_M]
    is_new = bool((is_good_M & ~is_remembered_M).any())
    if memory is not None and is_new and time.monotonic() - began > WORTH_REMEMBERING_S:
        memory.keep(facts_N)
    scan.rows = np.flatnonzero(is_good_M)
    scan.digests, scan.sizes = facts_N["digest"].copy(), facts_N["size"].copy()
    scan.tally = _count(facts_N)
    scan.pixels = keeper.kept()
    return scan


def _recalled(store: RecordStore, memory: ScanMemory | None) -> tuple[np.ndarray, np.ndarray]:
    """Facts [M] with their keys, and of which rows the rest is remembered."""
    facts_M, is_known_M = np.zeros(len(store), FACTS), np.zeros(len(store), bool)
    keys = store.keys() if memory is not None else []
    if memory is None or not keys:
        return facts_M, is_known_M
    found_M, is_known_M = memory.recall(keys)
    facts_M[is_known_M] = found_M[is_known_M]
    facts_M["key"] = np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)
    return facts_M, is_known_M


def _look(store: RecordStore, row: int, policy: DecodePolicy, keeper: PixelKeeper) -> _Looked:
    try:
        raw = store.read(row)
        decoded = decode_raw(raw, policy, store.describe(row) if not store.parallel else "")
    except DecodeFault as fault:
        return _Looked(fault)
    pixels_HWC = decoded.pixels_HWC
    keep = keeper.open and keeper.reserve(pixels_HWC.nbytes)
    return _Looked(
        None,
        digest_of(raw, pixels_HWC),
        pixels_HWC.shape[0],
        pixels_HWC.shape[1],
        decoded.file_format,
        decoded.animated,
        decoded.grey,
        pixels_HWC if keep else None,
    )


def digest_of(raw: Raw, pixels_HWC: np.ndarray) -> bytes:
    """128 bits that name the content, wherever it is stored and however it is called."""
    if isinstance(raw, bytes):
        return hashlib.blake2b(raw, digest_size=DIGEST_BYTES).digest()
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(f"uint8 {pixels_HWC.shape}".encode())
    digest.update(np.ascontiguousarray(pixels_HWC).data)
    return digest.digest()


def _note(facts: np.void, looked: _Looked, promised: str | None) -> None:
    facts["digest"] = np.frombuffer(looked.digest, np.uint8)
    facts["size"] = looked.height, looked.width
    facts["animated"], facts["grey"] = looked.animated, looked.grey
    facts["mismatched"] = promised is not None and promised != looked.file_format


def _count(facts_N: np.ndarray) -> Tally:
    return Tally(
        extension_mismatch=int(facts_N["mismatched"].sum()),
        animated=int(facts_N["animated"].sum()),
        tiny=int((facts_N["size"].min(axis=1, initial=TINY_SIDE) < TINY_SIDE).sum()),
        greyscale=int(facts_N["grey"].sum()),
    )

"""One split of images: columns in memory, pixels decoded when asked for."""

# Shapes: N images, H height, W width, C channels.

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from deitkit.data.blocks import Blocks, blocks_of, holding, reads_singly
from deitkit.data.decoding import DecodePolicy
from deitkit.data.display import printable
from deitkit.data.faults import DecodeFault
from deitkit.data.joined_store import JoinedStore
from deitkit.data.memory import PixelKeeper, Pixels, join_pixels, take_pixels
from deitkit.data.reduction import decoding_scale
from deitkit.data.report import DataReport
from deitkit.data.scan import decode_raw
from deitkit.data.stores import RecordStore
from deitkit.data.threads import map_rows, num_decode_threads
from deitkit.errors import DataError


def sample_ids_of(digests_N16: np.ndarray) -> np.ndarray:
    """uint64 [N]: the first 64 bits of each digest, little-endian."""
    first_bytes_N8 = np.ascontiguousarray(digests_N16[:, :8])
    return first_bytes_N8.view("<u8").reshape(-1).astype(np.uint64)


class ImageSet:
    """Labelled images of one split. Can be sent to loader workers; about 100 bytes an image.

    `labels` are int64 [N], `digests` uint8 [N, 16] of the content, `sizes` int32 [N, 2] height
    and width, upright; `sample_ids` uint64 [N] are what an image's random draws hang on. `report`
    tells how the set was read, where it was opened on its own.
    """

    def __init__(
        self,
        *,
        name: str,
        class_names: tuple[str, ...],
        labels: np.ndarray,
        digests: np.ndarray,
        sizes: np.ndarray,
        store: RecordStore,
        decode: DecodePolicy,
        kept: Pixels | None = None,
        report: DataReport | None = None,
    ) -> None:
        self.name = name
        self.class_names = class_names
        self.labels = labels
        self.digests = digests
        self.sizes = sizes
        self.sample_ids = sample_ids_of(digests)
        self.decode = decode
        self.report = report
        self._store = store
        self._kept = kept

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> np.ndarray | None:
        """uint8 [N, H, W, C] when all images are in memory and of one size; do not write to it."""
        return self._kept if isinstance(self._kept, np.ndarray) else None

    @property
    def is_in_memory(self) -> bool:
        return self._kept is not None

    @property
    def blocks(self) -> Blocks:
        """Which images are read together."""
        return blocks_of(self._store)

    @property
    def reads_singly(self) -> bool:
        """Whether one image can be read without others that lie beside it."""
        return reads_singly(self._store)

    @property
    def can_decode_in_threads(self) -> bool:
        """Whether several threads may ask for images at once."""
        return self._store.parallel

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C] of one image, the one that was scanned or an error, never another.

        Do not write to it. Raises DataError FILE_GONE, FILE_CHANGED, IO_ERROR or UNREADABLE.
        """
        if self._kept is not None:
            return self._kept[index]
        return self._decoded(index, None)

    def image_of_least(self, index: int, least: tuple[int, int]) -> np.ndarray:
        """As `image`, but where a JPEG decoded at 1/2, 1/4 or 1/8 of its sides still has the
        `least` rows and columns it is so; for training views only."""
        height, width = self.sizes[index].tolist()
        if self._kept is not None and decoding_scale((height, width), least) == 1:
            return self._kept[index]
        return self._decoded(index, least)

    def _decoded(self, index: int, least: tuple[int, int] | None) -> np.ndarray:
        raw = self._store.reread(index)
        try:
            return decode_raw(raw, self.decode, self.describe(index), least=least).pixels_HWC
        except DecodeFault as fault:
            raise DataError(
                "UNREADABLE",
                printable(self.describe(index)),
                f"could be decoded when the data was scanned, now not: {fault}",
                "check disk and memory, then run the same command again",
            ) from fault

    def describe(self, index: int) -> str:
        """The path of an image, or its place in a table or sequence; not escaped."""
        return self._store.describe(index)

    def subset(self, indices: np.ndarray, name: str) -> ImageSet:
        """The images at `indices`, in that order, under another name. Pixels in one block are
        copied."""
        rows = np.asarray(indices, np.int64)
        return self._changed(
            name=name,
            labels=self.labels[rows],
            digests=self.digests[rows],
            sizes=self.sizes[rows],
            store=self._store.take(rows),
            kept=take_pixels(self._kept, rows),
        )

    def joined(self, other: ImageSet) -> ImageSet:
        """These images and then `other`'s, of the same classes, under the name of these."""
        assert self.decode == other.decode and self.class_names == other.class_names
        return self._changed(
            labels=np.concatenate([self.labels, other.labels]),
            digests=np.concatenate([self.digests, other.digests]),
            sizes=np.concatenate([self.sizes, other.sizes]),
            store=JoinedStore(self._store, other._store),
            kept=join_pixels(self._kept, other._kept),
        )

    def relabelled(self, labels_N: np.ndarray) -> ImageSet:
        """The same images under other labels."""
        assert labels_N.shape == self.labels.shape
        return self._changed(labels=labels_N)

    def holding(self, num_bytes: int) -> ImageSet:
        """The same images, so many bytes of shards kept in memory; with 0, for reading in any
        order, each is read alone where that can be done."""
        return self._changed(store=holding(self._store, num_bytes))

    def decoded_as(
        self, *, channels: int, background: tuple[int, int, int] | None = None
    ) -> ImageSet:
        """The same images for another network: in `channels`, on `background` where they are
        transparent (None: the one they have)."""
        asked = replace(
            self.decode, channels=channels, background=background or self.decode.background
        )
        return self if asked == self.decode else self._changed(decode=asked, kept=None)

    def in_memory(self, limit_bytes: int) -> ImageSet:
        """The same set with all pixels decoded in RAM, or this one if they exceed the limit."""
        channels = self.decode.channels
        needed_bytes = int(self.sizes.astype(np.int64).prod(axis=1).sum()) * channels
        if self.is_in_memory or needed_bytes > limit_bytes or len(self) == 0:
            return self
        keeper = PixelKeeper(len(self), limit_bytes)
        threads = num_decode_threads() if self._store.parallel else 1
        with closing(map_rows(self.image, len(self), num_threads=threads)) as images:
            for pixels_HWC in images:
                keeper.add(pixels_HWC)
        return self._changed(kept=keeper.kept())

    def _changed(self, **changes: Any) -> ImageSet:
        """The same set but for these arguments of the constructor."""
        same: dict[str, Any] = {
            "name": self.name,
            "class_names": self.class_names,
            "labels": self.labels,
            "digests": self.digests,
            "sizes": self.sizes,
            "store": self._store,
            "decode": self.decode,
            "kept": self._kept,
            "report": self.report,
        }
        return ImageSet(**(same | changes))


def fingerprint(train: ImageSet, val: ImageSet) -> str:
    """BLAKE2b-128 of the class names and the sorted rows (split, class, content)."""
    digest = hashlib.blake2b(json.dumps(train.class_names).encode(), digest_size=16)
    for part in (train, val):
        rows = np.zeros(len(part), [("label", "<i8"), ("high", ">u8"), ("low", ">u8")])
        halves = np.ascontiguousarray(part.digests).view(">u8")
        rows["label"], rows["high"], rows["low"] = part.labels, halves[:, 0], halves[:, 1]
        order = np.lexsort((rows["low"], rows["high"], rows["label"]))
        digest.update(part.name.encode() + len(part).to_bytes(8, "little"))
        digest.update(rows[order].tobytes())
    return digest.hexdigest()

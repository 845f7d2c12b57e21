"""Pictures that look alike without being the same bytes: bursts, copies, other sizes and formats.

Each picture becomes a thumbnail of 8 x 8 and a difference hash (is each of 8 x 8 places lighter
than its right neighbour?). Two look the same where the thumbnails, each without its mean and over
its deviation, lie close and the hashes differ in few bits. All pairs are compared, as products of
matrices: half a minute of one core for 100,000 pictures, far less than it takes to decode them.

With these bounds 99 of 100 photographs are found again after 2 % was cut off each side, and of 5
million pairs of other photographs one is taken for one (`tests/data/test_near_duplicates.py`).
"""

# Shapes: N images, P pairs, R rows at a time, H height, W width, C channels, S side of a
# thumbnail.

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deitkit.data.image_set import ImageSet
from deitkit.data.threads import map_rows, num_decode_threads

SIDE = 8
MAX_BITS = 12
"""Of 64 in which the hashes of a pair may differ."""
MAX_DISTANCE = 0.35
"""Of the thumbnails, each without its mean and over its deviation: root mean square."""
FLAT_LEVEL = 4.0
"""A thumbnail whose deviation is below this (of 255) is blank: its pattern is noise."""
MAX_PARTNERS = 64
"""Of a picture among those before it; a long burst needs no more to hang together."""
_BLOCK = 8_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """What is remembered of each picture."""

    hashes_N: np.ndarray
    """uint64."""
    thumbs_NSS: np.ndarray
    """uint8 luminance."""

    @property
    def is_flat(self) -> np.ndarray:
        """bool [N], whether there is next to nothing to see."""
        return self.thumbs_NSS.std(axis=(1, 2)) < FLAT_LEVEL


def look_at(
    images: ImageSet, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Looks:
    """Hash and thumbnail of every picture, decoded once.

    Raises:
        DataError: an image cannot be read any more.
    """
    hashes_N = np.zeros(len(images), np.uint64)
    thumbs_NSS = np.zeros((len(images), SIDE, SIDE), np.uint8)

    def look(index: int) -> tuple[np.uint64, np.ndarray]:
        return hash_and_thumb(images.image(index))

    threads = num_decode_threads()
    with closing(map_rows(look, len(images), num_threads=threads)) as looks:
        for index, (one_hash, thumb_SS) in enumerate(looks):
            hashes_N[index], thumbs_NSS[index] = one_hash, thumb_SS
            progress(index + 1, len(images))
    return Looks(hashes_N=hashes_N, thumbs_NSS=thumbs_NSS)


def hash_and_thumb(picture_HWC: np.ndarray) -> tuple[np.uint64, np.ndarray]:
    """The difference hash of a picture uint8 [H, W, C], and its thumbnail uint8 [S, S]."""
    channels = picture_HWC.shape[2]
    image = Image.fromarray(picture_HWC[:, :, 0] if channels != 3 else picture_HWC).convert("L")
    thumb = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    small = image.resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, np.int16)
    bits = (levels[:, 1:] > levels[:, :-1]).ravel()
    return np.packbits(bits).view(">u8")[0].astype(np.uint64), np.asarray(thumb)


def near_pairs(looks: Looks) -> np.ndarray:
    """int64 [P, 2], each pair once, the lower place first: pictures that look the same.

    Blank pictures pair with none: they are all alike, and told on their own. Of a picture with
    very many partners before it the first `MAX_PARTNERS` are given.
    """
    candidates = np.flatnonzero(~looks.is_flat)
    units_NS = _units(looks.thumbs_NSS[candidates])
    hashes_N = looks.hashes_N[candidates]
    # Over their deviation they would be longer by the root of the number of places, so that the
    # mean square of a difference is 2 - 2 times the product of the vectors of length 1.
    least = 1.0 - MAX_DISTANCE**2 / 2.0
    rows_at_once = max(1, _BLOCK // max(1, len(candidates)))
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(candidates), rows_at_once):
        stop = min(start + rows_at_once, len(candidates))
        is_close = units_NS[start:stop] @ units_NS[:stop].T >= least
        rows, columns = np.nonzero(np.tril(is_close, k=start - 1))
        rows += start
        agrees = np.bitwise_count(hashes_N[rows] ^ hashes_N[columns]) <= MAX_BITS
        rows, columns = rows[agrees], columns[agrees]
        is_kept = _place_in_run(rows) < MAX_PARTNERS
        found.append(candidates[np.stack([columns[is_kept], rows[is_kept]], axis=1)])
    pairs_P2 = np.concatenate(found)
    return pairs_P2[np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0]))]


def _units(thumbs_NSS: np.ndarray) -> np.ndarray:
    """float32 [N, S x S]: each thumbnail without its mean, of length 1."""
    levels = thumbs_NSS.reshape(len(thumbs_NSS), SIDE * SIDE).astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    return levels / np.linalg.norm(levels, axis=1, keepdims=True)


def _place_in_run(rows: np.ndarray) -> np.ndarray:
    """How many equal numbers stand before each of these, which are in order."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def groups_of(pairs_P2: np.ndarray, num_images: int) -> np.ndarray:
    """int64 [N]: the lowest place among all that an image is linked to, itself where to none."""
    group_N = np.arange(num_images)
    while True:
        lowest_N = group_N.copy()
        np.minimum.at(lowest_N, pairs_P2[:, 0], group_N[pairs_P2[:, 1]])
        np.minimum.at(lowest_N, pairs_P2[:, 1], group_N[pairs_P2[:, 0]])
        lowest_N = lowest_N[lowest_N]
        if (lowest_N == group_N).all():
            return group_N
        group_N = lowest_N

"""Pictures that look alike without being the same bytes: bursts, copies, other sizes and formats.

Each picture becomes a difference hash (is each of 8 x 8 places lighter than its right neighbour?)
and a thumbnail. Hashes that differ in few bits agree wholly in one of eight bytes, so only pictures
that share a byte in the same place are compared: 100,000 pictures take seconds, not hours.
Thumbnails then decide.
"""

# Shapes: N images, P pairs, H height, W width, C channels, S side of a thumbnail.

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from deitkit.data.image_set import ImageSet
from deitkit.data.threads import map_rows, num_decode_threads

HASH_SIDE, THUMB_SIDE = 8, 16
MAX_BITS = 7
"""Of 64 in which the hashes of a pair may differ: with 8 bytes one is then the same."""
MAX_DISTANCE = 0.22
"""Of the thumbnails, each without its mean and over its deviation: root mean square."""
FLAT_LEVEL = 4.0
"""A thumbnail whose deviation is below this (of 255) is blank: its pattern is noise."""
_BLOCK = 2_000_000


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
    thumbs_NSS = np.zeros((len(images), THUMB_SIDE, THUMB_SIDE), np.uint8)

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
    thumb = image.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    small = image.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, np.int16)
    bits = (levels[:, 1:] > levels[:, :-1]).ravel()
    return np.packbits(bits).view(">u8")[0].astype(np.uint64), np.asarray(thumb)


def near_pairs(looks: Looks) -> np.ndarray:
    """int64 [P, 2], each pair once, the lower place first: pictures that look the same.

    Blank pictures pair with none: they are all alike, and told on their own.
    """
    candidates = np.flatnonzero(~looks.is_flat)
    hashes_N = looks.hashes_N[candidates]
    bytes_N8 = np.ascontiguousarray(hashes_N).view(np.uint8).reshape(-1, 8)
    found: list[np.ndarray] = []
    for place in range(8):
        order = np.argsort(bytes_N8[:, place], kind="stable")
        values = bytes_N8[order, place]
        for start, stop in _runs(values):
            found += _close_in(order[start:stop], hashes_N)
    if not found:
        return np.zeros((0, 2), np.int64)
    pairs_P2 = np.unique(np.sort(candidates[np.concatenate(found)], axis=1), axis=0)
    return pairs_P2[_alike(looks.thumbs_NSS, pairs_P2)]


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)]
    return list(pairwise(bounds))


def _close_in(members: np.ndarray, hashes_N: np.ndarray) -> list[np.ndarray]:
    """Pairs of these whose hashes differ in at most `MAX_BITS`, some rows at a time."""
    found = []
    rows_at_once = max(1, _BLOCK // max(1, len(members)))
    own = hashes_N[members]
    for start in range(0, len(members), rows_at_once):
        stop = min(start + rows_at_once, len(members))
        differing = np.bitwise_count(own[start:stop, None] ^ own[None, :])
        rows, columns = np.nonzero(differing <= MAX_BITS)
        rows = rows + start
        is_upper = rows < columns
        found.append(np.stack([members[rows[is_upper]], members[columns[is_upper]]], axis=1))
    return found


def _alike(thumbs_NSS: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """bool [P]: whether the thumbnails, each without its mean and over its deviation, agree."""
    verdicts = []
    for start in range(0, len(pairs_P2), 100_000):
        part = pairs_P2[start : start + 100_000]
        first, second = (_standardised(thumbs_NSS[part[:, side]]) for side in (0, 1))
        distance = np.sqrt(((first - second) ** 2).mean(axis=1))
        verdicts.append(distance <= MAX_DISTANCE)
    return np.concatenate(verdicts) if verdicts else np.zeros(0, bool)


def _standardised(thumbs_PSS: np.ndarray) -> np.ndarray:
    levels = thumbs_PSS.reshape(len(thumbs_PSS), -1).astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    return levels / levels.std(axis=1, keepdims=True)


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

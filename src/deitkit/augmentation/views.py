"""A view: everything that chance decides about the pixels of one training example.

Views are drawn here, as small arrays, from (view_seed, epoch, repeat, sample id) and nothing else;
`render` and `mixing` apply them. Geometry is in shares of the source image and the mix in shares
of the output, so that one view can be rendered at any size. Positions 2k and 2k + 1 of an epoch
are mix partners.
"""

# Shapes: B images, P = B // 2 pairs, N images of the data set, 2 (height, width),
# box 4 (top, left, height, width), cut 4 (top, left, bottom, right).

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.boxes import centred_boxes, padded_boxes, random_resized_boxes
from deitkit.augmentation.draws import Key, beta, hash_key, uniform
from deitkit.errors import ConfigError

CUT_GRID = 32
"""CutMix boxes are drawn on this many rows and columns, see `draw_views`."""

_CROPS = ("random_resized", "padded", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPolicy:
    """What chance may do. Raises ConfigError [BAD_VIEWS] for values outside their range."""

    crop: str = "random_resized"
    """random_resized: a box of random area and shape; padded: the centred box of the output's
    shape, moved by some pixels; none: that box unmoved."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the source's area a random resized box covers, least and most."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random resized box, in source pixels, relative to the output's."""
    padding: float = 0.125
    """Share of each side by which a padded box moves at most: 4 pixels of 32."""
    flip: float = 0.5
    """Chance of a left-right flip."""
    mixup: float = 0.0
    """Mixup's Beta parameter, 0 for none."""
    cutmix: float = 0.0
    """CutMix's Beta parameter, 0 for none."""
    mix_prob: float = 1.0
    """Chance that a pair is mixed at all."""
    switch_prob: float = 0.5
    """Chance of CutMix rather than Mixup where both are on."""

    def __post_init__(self) -> None:
        low, high = self.scale
        narrow, wide = self.ratio
        alphas = (self.mixup, self.cutmix)
        wrong = {
            f"crop={self.crop!r} (one of {', '.join(_CROPS)})": self.crop not in _CROPS,
            f"scale={self.scale} (0 < least <= most <= 1)": not 0.0 < low <= high <= 1.0,
            f"ratio={self.ratio} (0 < least <= most)": not 0.0 < narrow <= wide < math.inf,
            f"padding={self.padding} (0 to 1)": not 0.0 <= self.padding <= 1.0,
            f"mixup={self.mixup}, cutmix={self.cutmix} (0 or above)": not all(
                0.0 <= alpha < math.inf for alpha in alphas
            ),
        } | {
            f"{name}={getattr(self, name)} (0 to 1)": not 0.0 <= getattr(self, name) <= 1.0
            for name in ("flip", "mix_prob", "switch_prob")
        }
        for found, is_wrong in wrong.items():
            if is_wrong:
                raise ConfigError(
                    "BAD_VIEWS", "views", f"{found} is out of range", "choose a value inside it"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The draws of B images that stand beside each other in an epoch, starting with a pair."""

    sample_ids_B: NDArray[np.uint64]
    epoch: int
    repeat: int
    box_B4: NDArray[np.float32]
    """Top, left, height, width in shares of the source; padded boxes may stick out of it."""
    flip_B: NDArray[np.bool_]
    """Whether the box is mirrored left to right after it was cut out."""
    lam_B: NDArray[np.float32]
    """Share of the image itself in the mix, the rest is its partner's; 1 is unmixed. Both of a
    pair have the same. Position i is mixed with position i ^ 1."""
    cut_B4: NDArray[np.float32]
    """CutMix: top, left, bottom, right of the partner's patch in shares of the output; all 0
    where nothing is cut."""

    def __len__(self) -> int:
        return int(self.sample_ids_B.shape[0])

    def __getitem__(self, span: slice) -> Views:
        """Take whole pairs: the span starts at an even position, and ends at one or at the end."""
        start, stop, step = span.indices(len(self))
        assert step == 1, "views are taken in order"
        starts_a_pair = start % 2 == 0 or start == len(self)
        assert starts_a_pair, f"a span of views starts inside a pair, at {start}"
        assert stop % 2 == 0 or stop == len(self), f"a span of views ends inside a pair, at {stop}"
        return Views(
            self.sample_ids_B[start:stop],
            self.epoch,
            self.repeat,
            self.box_B4[start:stop],
            self.flip_B[start:stop],
            self.lam_B[start:stop],
            self.cut_B4[start:stop],
        )

    @staticmethod
    def concatenate(parts: Sequence[Views]) -> Views:
        """Join views of one epoch and repeat; only the last part may hold an odd number."""
        first = parts[0]
        assert all((part.epoch, part.repeat) == (first.epoch, first.repeat) for part in parts)
        assert all(len(part) % 2 == 0 for part in parts[:-1]), "joining would move the pairs"
        return Views(
            np.concatenate([part.sample_ids_B for part in parts]),
            first.epoch,
            first.repeat,
            np.concatenate([part.box_B4 for part in parts]),
            np.concatenate([part.flip_B for part in parts]),
            np.concatenate([part.lam_B for part in parts]),
            np.concatenate([part.cut_B4 for part in parts]),
        )

    def cut_pixels(self, size: tuple[int, int]) -> NDArray[np.int64]:
        """Return the CutMix boxes in whole pixels of an output of this (height, width): [B, 4].

        Each edge goes to the nearest pixel; where CUT_GRID divides the size nothing is rounded.
        """
        height, width = size
        scale_4 = np.array([height, width, height, width], dtype=np.float64)
        return np.rint(self.cut_B4 * scale_4).astype(np.int64)

    def lam_at(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return each image's share of its own pixels at this (height, width): [B].

        For CutMix that is one minus the area really pasted, so a label never claims more than can
        be seen; it equals `lam_B` at every size that CUT_GRID divides.
        """
        top, left, bottom, right = self.cut_pixels(size).T
        own = 1.0 - (bottom - top) * (right - left) / (size[0] * size[1])
        is_cut = self.cut_B4[:, 2] > self.cut_B4[:, 0]
        return np.where(is_cut, own, self.lam_B).astype(np.float32)


def epoch_order(view_seed: int, epoch: int, sample_ids_N: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the order of an epoch: indices into `sample_ids_N`, a permutation.

    Images are sorted by a keyed hash of their id, so that adding some only inserts them. The n-th
    copy of one content is hashed with n: otherwise copies would always stand beside each other and
    be mixed with themselves.
    """
    by_id = np.argsort(sample_ids_N, kind="stable")
    ids = sample_ids_N[by_id]
    positions = np.arange(len(ids))
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = ids[1:] != ids[:-1]
    copies_N = np.empty(len(ids), dtype=np.int64)
    copies_N[by_id] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    words_N = hash_key(view_seed, epoch, sample_ids_N, copies_N, purpose="order")
    return np.argsort(words_N, kind="stable")


def cut_boxes(
    lam_P: NDArray[np.floating], centre_P2: NDArray[np.integer], size: tuple[int, int]
) -> NDArray[np.int64]:
    """Return CutMix boxes (top, left, bottom, right) in whole cells, clipped to `size`: [P, 4].

    Sides are sqrt(1 - lambda) of the image's, rounded down, and the halves of them again. Yun et
    al. 2019, "CutMix", arXiv:1905.04899, section 3.1; rounding as in its authors' code.
    """
    size_2 = np.array(size)
    side_P1 = np.sqrt(1.0 - lam_P.astype(np.float64))[:, None]
    half_P2 = np.floor(size_2 * side_P1).astype(np.int64) // 2
    low_P2 = np.clip(centre_P2 - half_P2, 0, size_2)
    high_P2 = np.clip(centre_P2 + half_P2, 0, size_2)
    return np.concatenate([low_P2, high_P2], axis=1)


def _draw_mix(
    policy: ViewPolicy, *key: int, ids_P2: NDArray[np.uint64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw (lambda [P], cut box [P, 4]) of each pair, keyed by both of its sample ids."""
    num_pairs = len(ids_P2)
    lam_P = np.ones(num_pairs, dtype=np.float32)
    cut_P4 = np.zeros((num_pairs, 4), dtype=np.float32)
    if not (policy.mixup or policy.cutmix):
        return lam_P, cut_P4
    pair_key: tuple[Key, ...] = (*key, ids_P2[:, 0], ids_P2[:, 1])
    chance_P4 = uniform(*pair_key, purpose="mix", num=4)
    is_mixed = chance_P4[:, 0] < policy.mix_prob
    switch = policy.switch_prob if policy.mixup and policy.cutmix else float(policy.cutmix > 0)
    is_cut = chance_P4[:, 1] < switch
    if policy.mixup:
        drawn = beta(policy.mixup, *pair_key, purpose="mixup", num=1)[:, 0]
        lam_P = np.where(is_mixed & ~is_cut, drawn, lam_P)
    if policy.cutmix:
        drawn = beta(policy.cutmix, *pair_key, purpose="cutmix", num=1)[:, 0]
        centre_P2 = np.floor(chance_P4[:, 2:] * CUT_GRID).astype(np.int64)
        cells = cut_boxes(drawn, centre_P2, (CUT_GRID, CUT_GRID))
        area = (cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])
        is_cut &= is_mixed & (area > 0)
        lam_P = np.where(is_cut, 1.0 - area / CUT_GRID**2, lam_P)
        cut_P4 = np.where(is_cut[:, None], cells / CUT_GRID, cut_P4)
    return lam_P.astype(np.float32), cut_P4.astype(np.float32)


def draw_views(
    policy: ViewPolicy,
    *,
    view_seed: int,
    epoch: int,
    repeat: int = 0,
    sample_ids_B: NDArray[np.uint64],
    sizes_B2: NDArray[np.integer],
    aspect: float = 1.0,
) -> Views:
    """Draw one view for each image; ids come in epoch order and start at an even position of it.

    `sizes_B2` are the sources' (height, width) in pixels, `aspect` the output's width over height.
    A pair has one mix draw, keyed by both ids; an odd last image stays unmixed. Images of the same
    content share their crop and flip within an epoch.

    Deviation: CutMix boxes are drawn on a grid of 32 x 32, not in pixels. Sizes of 32, 64, 96,
    128, 160, 192, 224, 256, 320 or 384 then show the very same mix with the same lambda, so that
    a teacher may look at another size, and its logits stay valid when the student's size changes.
    At other sizes each edge is within half a pixel, and `Views.lam_at` gives the exact share.
    """
    num_images = len(sample_ids_B)
    key = (view_seed, epoch, repeat)
    sizes = sizes_B2.astype(np.float64)
    if policy.crop == "random_resized":
        chance = uniform(*key, sample_ids_B, purpose="crop", num=22)
        box_B4 = random_resized_boxes(
            chance, sizes, scale=policy.scale, ratio=policy.ratio, aspect=aspect
        )
    elif policy.crop == "padded":
        chance = uniform(*key, sample_ids_B, purpose="crop", num=2)
        box_B4 = padded_boxes(chance, sizes, padding=policy.padding, aspect=aspect)
    else:
        box_B4 = centred_boxes(sizes, aspect=aspect)
    flip_B = uniform(*key, sample_ids_B, purpose="flip", num=1)[:, 0] < policy.flip
    whole = num_images // 2 * 2
    lam_P, cut_P4 = _draw_mix(policy, *key, ids_P2=sample_ids_B[:whole].reshape(-1, 2))
    lam_B = np.ones(num_images, dtype=np.float32)
    cut_B4 = np.zeros((num_images, 4), dtype=np.float32)
    lam_B[:whole] = np.repeat(lam_P, 2)
    cut_B4[:whole] = np.repeat(cut_P4, 2, axis=0)
    share_B4 = (box_B4 / np.tile(sizes, 2)).astype(np.float32)
    return Views(sample_ids_B.astype(np.uint64), epoch, repeat, share_B4, flip_B, lam_B, cut_B4)

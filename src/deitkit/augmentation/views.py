"""A view: everything that chance decides about the pixels of one training example.

Views are drawn here, as small arrays, from (view_seed, epoch, repeat, sample id) and nothing else;
`render`, `erasing` and `mixing` apply them. Geometry is in shares of the source image, erasing and
the mix in shares of the output, so that one view can be rendered at any size. Positions 2k and
2k + 1 of an epoch are mix partners.
"""

# Shapes: B images, P = B // 2 pairs, N images of the data set, L operations, A = 10 attempts,
# 2 (height, width), box 4 (top, left, height, width), cut and erase 4 (top, left, bottom, right).

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.boxes import centred_boxes, padded_boxes, random_resized_boxes
from deitkit.augmentation.draws import Key, beta, hash_key, uniform
from deitkit.augmentation.elementary import exp, log
from deitkit.augmentation.policies import draw_operations
from deitkit.augmentation.view_policy import ViewPolicy

Floats = NDArray[np.float64]

CUT_GRID = 32
"""CutMix boxes are drawn on this many rows and columns, see `draw_views`."""

_ERASE_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The draws of B images that stand beside each other in an epoch, starting with a pair."""

    sample_ids_B: NDArray[np.uint64]
    epoch: int
    repeat_B: NDArray[np.int64]
    """Which copy of the image in this epoch, 0 without repeated augmentation."""
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
    ops_BL: NDArray[np.int8]
    """Operations on the cropped, flipped image from left to right, by `op_codes`; 0 for none."""
    params_BL: NDArray[np.float32]
    """Their physical parameters, 0 where an operation has none."""
    erase_B4: NDArray[np.float32]
    """Erasing: top, left, bottom, right in shares of the output; all 0 where nothing is erased."""
    erase_key_B: NDArray[np.uint64]
    """Key of the noise in the erased box."""

    def __len__(self) -> int:
        return int(self.sample_ids_B.shape[0])

    def __getitem__(self, span: slice) -> Views:
        """Take whole pairs: the span starts at an even position, and ends at one or at the end."""
        start, stop, step = span.indices(len(self))
        assert step == 1, "views are taken in order"
        starts_a_pair = start % 2 == 0 or start == len(self)
        assert starts_a_pair, f"a span of views starts inside a pair, at {start}"
        assert stop % 2 == 0 or stop == len(self), f"a span of views ends inside a pair, at {stop}"
        taken: dict[str, Any] = {
            name: getattr(self, name)[start:stop] for name in _fields_of_images()
        }
        return replace(self, **taken)

    @staticmethod
    def concatenate(parts: Sequence[Views]) -> Views:
        """Join views of one epoch and policy; only the last part may hold an odd number."""
        first = parts[0]
        assert all(part.epoch == first.epoch for part in parts), "views of one epoch are joined"
        assert all(len(part) % 2 == 0 for part in parts[:-1]), "joining would move the pairs"
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in _fields_of_images()
        }
        return replace(first, **joined)

    def cut_pixels(self, size: tuple[int, int]) -> NDArray[np.int64]:
        """Return the CutMix boxes in whole pixels of an output of this (height, width): [B, 4].

        Each edge goes to the nearest pixel; where CUT_GRID divides the size nothing is rounded.
        """
        return _whole_pixels(self.cut_B4, size)

    def erase_pixels(self, size: tuple[int, int]) -> NDArray[np.int64]:
        """Return the erased boxes in whole pixels of an output of this (height, width): [B, 4].

        Each edge goes to the nearest pixel.
        """
        return _whole_pixels(self.erase_B4, size)

    def lam_at(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return each image's share of its own pixels at this (height, width): [B].

        For CutMix that is one minus the area really pasted, so a label never claims more than can
        be seen; it equals `lam_B` at every size that CUT_GRID divides.
        """
        top, left, bottom, right = self.cut_pixels(size).T
        own = 1.0 - (bottom - top) * (right - left) / (size[0] * size[1])
        is_cut = self.cut_B4[:, 2] > self.cut_B4[:, 0]
        return np.where(is_cut, own, self.lam_B).astype(np.float32)


def _fields_of_images() -> list[str]:
    """Names of the fields that hold one row for each image: all but the epoch."""
    return [field.name for field in fields(Views) if field.name != "epoch"]


def _whole_pixels(shares_B4: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.int64]:
    scale_4 = np.tile(np.array(size, dtype=np.float64), 2)
    return np.rint(shares_B4 * scale_4).astype(np.int64)


def epoch_order(
    view_seed: int,
    epoch: int,
    sample_ids_N: NDArray[np.uint64],
    windows_N: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the order of an epoch: indices into `sample_ids_N`, a permutation.

    Images are sorted by a keyed hash of their id, so that adding some only inserts them. The n-th
    copy of one content is hashed with n: otherwise copies would always stand beside each other,
    where they are not mixed. With `windows_N` (see `block_windows`) one window follows the other,
    each sorted so.
    """
    by_id = np.argsort(sample_ids_N, kind="stable")
    ids = sample_ids_N[by_id]
    positions = np.arange(len(ids))
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = ids[1:] != ids[:-1]
    copies_N = np.empty(len(ids), dtype=np.int64)
    copies_N[by_id] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    words_N = hash_key(view_seed, epoch, sample_ids_N, copies_N, purpose="order")
    if windows_N is None:
        return np.argsort(words_N, kind="stable")
    return np.lexsort((words_N, windows_N))


def shuffle_pairs(
    order_N: NDArray[np.int64],
    *,
    view_seed: int,
    epoch: int,
    windows_N: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return an epoch's order with its pairs of mix partners at other places, each pair whole.

    For epochs that show the views of an earlier one again; an odd last image stays last. With
    `windows_N`, told in the order's own places, the pairs of a window (that of its first image)
    stay together, and windows change places too.
    """
    whole = len(order_N) // 2 * 2
    pairs_P2 = order_N[:whole].reshape(-1, 2)
    words_P = hash_key(view_seed, epoch, np.arange(len(pairs_P2)), purpose="order of pairs")
    by_word_P = np.argsort(words_P, kind="stable")
    if windows_N is not None:
        windows_P = windows_N[:whole:2]
        of_windows_P = hash_key(view_seed, epoch, windows_P, purpose="order of windows")
        by_word_P = np.lexsort((words_P, of_windows_P))
    shuffled = pairs_P2[by_word_P].reshape(-1)
    return np.concatenate([shuffled, order_N[whole:]])


def pair_alike(order_N: NDArray[np.int64], is_first_kind_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return an epoch's order in which partners are of one kind: all pairs of the first kind, then
    those of the other; where both are odd, one pair of both follows, and a single one is last.

    `is_first_kind_N` is told in the order's own places.
    """
    kinds = (order_N[is_first_kind_N], order_N[~is_first_kind_N])
    whole = [kind[: len(kind) // 2 * 2] for kind in kinds]
    rest = [kind[len(kind) // 2 * 2 :] for kind in kinds]
    return np.concatenate([*whole, *rest])


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


def _draw_boxes(policy: ViewPolicy, *key: Key, sizes_B2: Floats, aspect: float) -> Floats:
    """Draw which part of its source each view shows, in source pixels: [B, 4]."""
    if policy.crop == "random_resized":
        chance_B22 = uniform(*key, purpose="crop", num=22)
        return random_resized_boxes(
            chance_B22, sizes_B2, scale=policy.scale, ratio=policy.ratio, aspect=aspect
        )
    if policy.crop == "padded":
        chance_B2 = uniform(*key, purpose="crop", num=2)
        return padded_boxes(chance_B2, sizes_B2, padding=policy.padding, aspect=aspect)
    return centred_boxes(sizes_B2, aspect=aspect)


def _draw_mix(
    policy: ViewPolicy, *key: int, ids_P2: NDArray[np.uint64], repeat_P2: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw (lambda [P], cut box [P, 4]) of each pair, keyed by both of its ids and repeats.

    An image is not mixed with another copy of itself.
    """
    num_pairs = len(ids_P2)
    lam_P = np.ones(num_pairs, dtype=np.float32)
    cut_P4 = np.zeros((num_pairs, 4), dtype=np.float32)
    if not (policy.mixup or policy.cutmix):
        return lam_P, cut_P4
    # One word for both repeats, which is the repeat itself where they are the same.
    first_P, second_P = repeat_P2.astype(np.uint64).T
    repeats_P = first_P ^ ((first_P ^ second_P) << np.uint64(32))
    pair_key: tuple[Key, ...] = (*key, repeats_P, ids_P2[:, 0], ids_P2[:, 1])
    chance_P4 = uniform(*pair_key, purpose="mix", num=4)
    is_mixed = (chance_P4[:, 0] < policy.mix_prob) & np.not_equal(*ids_P2.T)
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


def _draw_erased(policy: ViewPolicy, *key: Key, num_images: int, aspect: float) -> Floats:
    """Draw the box that is erased from each image, in shares of the output: [B, 4].

    The area is uniform within `erasing_scale`, the logarithm of height over width in pixels
    uniform within `erasing_ratio`, the place uniform. The first of ten attempts smaller than the
    image in both directions is taken; if none is, nothing is erased. Zhong et al. 2020, "Random
    Erasing Data Augmentation", arXiv:1708.04896, algorithm 1.
    Deviation: sides and places are not rounded to pixels.
    """
    if policy.erasing == 0.0:
        return np.zeros((num_images, 4))
    chance = uniform(*key, purpose="erasing", num=2 * _ERASE_ATTEMPTS + 3)
    area_BA, shape_BA = np.split(chance[:, 3:], 2, axis=1)
    least, most = policy.erasing_scale
    area_BA = least + area_BA * (most - least)
    log_low, log_high = log(np.array(policy.erasing_ratio))
    shape_BA = exp(log_low + shape_BA * (log_high - log_low)) * aspect
    sides_BA2 = np.sqrt(np.stack([area_BA * shape_BA, area_BA / shape_BA], axis=2))
    fits_BA = sides_BA2.max(axis=2) < 1.0
    rows, first_B = np.arange(num_images), np.argmax(fits_BA, axis=1)
    low_B2 = chance[:, 1:3] * (1.0 - sides_BA2[rows, first_B])
    box_B4 = np.concatenate([low_B2, low_B2 + sides_BA2[rows, first_B]], axis=1)
    is_erased_B = (chance[:, 0] < policy.erasing) & fits_BA[rows, first_B]
    return np.where(is_erased_B[:, None], box_B4, 0.0)


def draw_views(
    policy: ViewPolicy,
    *,
    view_seed: int,
    epoch: int,
    sample_ids_B: NDArray[np.uint64],
    sizes_B2: NDArray[np.integer],
    repeat_B: NDArray[np.integer] | None = None,
    aspect: float = 1.0,
) -> Views:
    """Draw one view for each image; ids come in epoch order and start at an even position of it.

    `sizes_B2` are the sources' (height, width) in pixels, `repeat_B` says which copy of the image
    it is (all 0 if left out), `aspect` is the output's width over height. A pair has one mix draw,
    keyed by both ids and repeats; an odd last image stays unmixed. Files of the same content share
    all their other draws within an epoch and repeat.

    Deviation: CutMix boxes are drawn on a grid of 32 x 32, not in pixels. Sizes of 32, 64, 96,
    128, 160, 192, 224, 256, 320 or 384 then show the very same mix with the same lambda, so that
    a teacher may look at another size, and its logits stay valid when the student's size changes.
    At other sizes each edge is within half a pixel, and `Views.lam_at` gives the exact share.
    """
    num_images = len(sample_ids_B)
    ids_B = sample_ids_B.astype(np.uint64)
    repeats_B = np.zeros(num_images, dtype=np.int64) if repeat_B is None else repeat_B
    key: tuple[Key, ...] = (view_seed, epoch, repeats_B, ids_B)
    sizes = sizes_B2.astype(np.float64)
    box_B4 = _draw_boxes(policy, *key, sizes_B2=sizes, aspect=aspect)
    flip_B = uniform(*key, purpose="flip", num=1)[:, 0] < policy.flip
    ops_BL, params_BL = draw_operations(
        policy.auto_augment,
        *key,
        num_images=num_images,
        rand_ops=policy.rand_ops,
        color_jitter=policy.color_jitter,
    )
    erase_B4 = _draw_erased(policy, *key, num_images=num_images, aspect=aspect)
    whole = num_images // 2 * 2
    lam_P, cut_P4 = _draw_mix(
        policy,
        view_seed,
        epoch,
        ids_P2=ids_B[:whole].reshape(-1, 2),
        repeat_P2=repeats_B[:whole].reshape(-1, 2),
    )
    lam_B = np.ones(num_images, dtype=np.float32)
    cut_B4 = np.zeros((num_images, 4), dtype=np.float32)
    lam_B[:whole] = np.repeat(lam_P, 2)
    cut_B4[:whole] = np.repeat(cut_P4, 2, axis=0)
    return Views(
        sample_ids_B=ids_B,
        epoch=epoch,
        repeat_B=repeats_B.astype(np.int64),
        box_B4=(box_B4 / np.tile(sizes, 2)).astype(np.float32),
        flip_B=flip_B,
        lam_B=lam_B,
        cut_B4=cut_B4,
        ops_BL=ops_BL,
        params_BL=params_BL,
        erase_B4=erase_B4.astype(np.float32),
        erase_key_B=hash_key(*key, purpose="erase noise"),
    )

"""One 64-bit word for everything that decides the pixels a teacher is shown of one mixed view.

Equal words mean equal pixels, so a stored answer of the teacher may be read instead of asked for.
A word is folded from the content's id and from the numbers of the view as they are, not from the
settings they were drawn by: whatever else changes (the student and its size, the batch, a seed of
the weights, the loss) leaves it as it is, and whatever reaches the teacher's pixels changes it.
"""

# Shapes: B images (pairs 2k, 2k + 1), N images of the data set, L operations, W words of a row.

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.draws import Words, hash_key
from deitkit.augmentation.op_codes import OP_CODES
from deitkit.augmentation.view_policy import ViewPolicy
from deitkit.augmentation.views import Views

PIXELS_SCHEMA = 2
"""Raised whenever the same view of the same content is decoded, rendered, erased or mixed to other
pixels than before: no word of an earlier version is then met again."""

_UNCOVERING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_READ_BY_FILL = {"pixel": 2, "color": 2, "mean": 1, "constant": 0}
"""How many of (mean, deviation) the erased box's fill depends on."""


def view_words(
    views: Views,
    *,
    teacher_size: tuple[int, int],
    erasing_fill: str,
    mean: Sequence[float],
    std: Sequence[float],
    op_fill: int | Sequence[int],
    fill: int | Sequence[int] = 0,
    decoding: Mapping[str, Any],
) -> Words:
    """Return the word of each mixed view, as a teacher of `teacher_size` (height, width) sees it.

    The other arguments are those of `render` and `erase_images_`, each folded in only where a view
    depends on it, so that another normalisation of the student leaves unerased views alone.
    `decoding` is what turns content into source pixels, as JSON (channels, background). The
    position in the batch counts only through the partner i ^ 1: any split into whole pairs gives
    the same words, and without a mix the partner does not matter.
    """
    settings = _word(
        {
            "schema": PIXELS_SCHEMA,
            "size": list(teacher_size),
            "fill": _levels(fill),
            "decoding": dict(decoding),
        }
    )
    own_B = hash_key(
        settings,
        views.sample_ids_B,
        *_words_of_rows(views.box_B4),
        views.flip_B.astype(np.uint8),
        purpose="own pixels",
    )
    params_BL = np.ascontiguousarray(views.params_BL, dtype=np.float32).view(np.uint32)
    for codes_B, params_B in zip(views.ops_BL.T, params_BL.T, strict=True):
        operated_B = hash_key(own_B, codes_B, params_B, purpose="operation")
        own_B = np.where(codes_B != 0, operated_B, own_B)
    uncovers_B = np.isin(views.ops_BL, [OP_CODES[name] for name in _UNCOVERING]).any(axis=1)
    filled_B = hash_key(own_B, _word(_levels(op_fill)), purpose="uncovered")
    own_B = np.where(uncovers_B, filled_B, own_B)
    own_B = _with_erasing(own_B, views, erasing_fill, mean, std)
    partner_B = own_B.copy()
    whole = len(views) // 2 * 2
    partner_B[:whole] = own_B[:whole].reshape(-1, 2)[:, ::-1].reshape(-1)
    lam_B = np.ascontiguousarray(views.lam_B, dtype=np.float32).view(np.uint32)
    mixed_B = hash_key(own_B, partner_B, lam_B, *_words_of_rows(views.cut_B4), purpose="mixed")
    return np.where(views.lam_B == 1.0, hash_key(own_B, purpose="unmixed"), mixed_B)


def record_ids(sample_ids_N: NDArray[np.uint64]) -> Words:
    """Return an id of its own for each image of a data set: the sample id, or a hash for copies.

    Files of one content share their sample id and their draws, but not their mix partners, so what
    is stored of them needs two places. Which copy is which follows `epoch_order`, and depends on
    nothing but the contents of the data set.
    """
    ids_N = sample_ids_N.astype(np.uint64)
    by_id = np.argsort(ids_N, kind="stable")
    positions = np.arange(len(ids_N))
    is_first = np.ones(len(ids_N), dtype=bool)
    is_first[1:] = ids_N[by_id][1:] != ids_N[by_id][:-1]
    copies_N = np.empty(len(ids_N), dtype=np.int64)
    copies_N[by_id] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return np.where(copies_N == 0, ids_N, hash_key(ids_N, copies_N, purpose="copy"))


def view_settings(
    policy: ViewPolicy,
    *,
    view_seed: int,
    aspect: float,
    teacher_size: tuple[int, int],
    erasing_fill: str,
    decoding: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all that views for a teacher are drawn by, as JSON that a person can read.

    `aspect` is the student's width over its height, `teacher_size` the teacher's (height, width).
    """
    policy_values = dataclasses.asdict(policy)
    return {
        "pixels_schema": PIXELS_SCHEMA,
        "policy": {k: list(v) if isinstance(v, tuple) else v for k, v in policy_values.items()},
        "view_seed": view_seed,
        "aspect": aspect,
        "teacher_size": list(teacher_size),
        "erasing_fill": erasing_fill,
        "decoding": dict(decoding),
    }


def policy_digest(settings: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits for `view_settings`.

    Views of other settings have other words anyway; the digest keeps them from taking each
    other's place in a store that has one place for an image and epoch.
    """
    return hashlib.blake2b(_canonical(dict(settings)), digest_size=16).hexdigest()


def _with_erasing(
    own_B: Words, views: Views, erasing_fill: str, mean: Sequence[float], std: Sequence[float]
) -> Words:
    num_read = _READ_BY_FILL[erasing_fill]
    filling = _word([erasing_fill, *([float(v) for v in s] for s in (mean, std)[:num_read])])
    key_B = views.erase_key_B if num_read == 2 else np.zeros(len(views), dtype=np.uint64)
    erased_B = hash_key(
        own_B, *_words_of_rows(views.erase_B4), filling, key_B, purpose="erased pixels"
    )
    is_erased_B = views.erase_B4[:, 2] > views.erase_B4[:, 0]
    return np.where(is_erased_B, erased_B, own_B)


def _words_of_rows(values_B4: NDArray[np.float32]) -> list[Words]:
    """The bits of four float32 numbers as two words for each of B."""
    bits_B4 = np.ascontiguousarray(values_B4, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return [bits_B4[:, 2 * i] | (bits_B4[:, 2 * i + 1] << np.uint64(32)) for i in range(2)]


def _levels(fill: int | Sequence[int]) -> list[int]:
    return [int(level) for level in np.atleast_1d(np.asarray(fill))]


def _word(settings: Any) -> int:
    return int.from_bytes(hashlib.blake2b(_canonical(settings), digest_size=8).digest(), "little")


def _canonical(settings: Any) -> bytes:
    text = json.dumps(settings, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")

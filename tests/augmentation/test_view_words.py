"""A view's word changes with whatever changes the teacher's pixels, and with nothing else."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, Views, draw_views, epoch_order, render
from deitkit.augmentation.erasing import erase_images_
from deitkit.augmentation.mixing import mix_images
from deitkit.augmentation.view_words import (
    policy_digest,
    record_ids,
    view_settings,
    view_words,
)
from tests.augmentation.plain_views import plain_views, views_of_operations

SIDE = 16
FULL = ViewPolicy(
    mixup=0.8, cutmix=1.0, mix_prob=0.7, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.5
)
RULES: dict[str, Any] = {
    "teacher_size": (SIDE, SIDE),
    "erasing_fill": "pixel",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.25, 0.25, 0.2),
    "op_fill": [128, 102, 76],
    "decoding": {"channels": 3, "background": [255, 255, 255]},
}
MASK = (1 << 64) - 1


def drawn(num: int, policy: ViewPolicy = FULL, *, ids: np.ndarray | None = None, **more) -> Views:
    if ids is None:
        ids = np.random.default_rng(num).integers(0, 2**64, num, dtype=np.uint64)
    return draw_views(
        policy,
        **({"view_seed": 0, "epoch": 0} | more),
        sample_ids_B=ids,
        sizes_B2=np.full((num, 2), SIDE),
    )


def words(views: Views, **changed: Any) -> np.ndarray:
    return view_words(views, **(RULES | changed))


def shown(views: Views, **changed: Any) -> np.ndarray:
    """The pixels a teacher is shown, of noise that depends on the id only."""
    rules = RULES | changed
    sources = np.stack(
        [
            np.random.default_rng(int(i)).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            for i in views.sample_ids_B
        ]
    )
    images = torch.from_numpy(
        render(
            sources,
            views,
            rules["teacher_size"],
            fill=rules.get("fill", 0),
            op_fill=rules["op_fill"],
        )
    )
    erased = erase_images_(
        images.float() / 255,
        views,
        fill=rules["erasing_fill"],
        mean=rules["mean"],
        std=rules["std"],
    )
    return mix_images(erased, views).numpy()


def by_hand(purpose: str, *parts: int) -> int:
    """SplitMix64 folded over whole numbers, in Python's own integers."""
    state = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    for part in parts:
        z = ((state ^ part) + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        state = z ^ (z >> 31)
    return state


def bits(*values: float) -> list[int]:
    """float32 numbers as they lie in memory, two to a word."""
    data = struct.pack(f"<{len(values)}f", *values)
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]


def test_words_by_hand():
    """Two mixed images and one alone, folded with Python's integers."""
    views = plain_views(
        3,
        sample_ids_B=np.array([7, 2**63 + 5, 9], dtype=np.uint64),
        flip_B=np.array([True, False, False]),
        lam_B=np.array([0.25, 0.25, 1.0], dtype=np.float32),
    )
    settings_text = json.dumps(
        {
            "schema": 2,
            "size": [SIDE, SIDE],
            "fill": [0],
            "decoding": RULES["decoding"],
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    first = int.from_bytes(
        hashlib.blake2b(settings_text.encode(), digest_size=8).digest(), "little"
    )
    own = [
        by_hand("own pixels", first, sample_id, *bits(0, 0, 1, 1), flip)
        for sample_id, flip in ((7, 1), (2**63 + 5, 0), (9, 0))
    ]
    lam, no_cut = bits(0.25)[0], bits(0, 0, 0, 0)
    expected = [
        by_hand("mixed", own[0], own[1], lam, *no_cut),
        by_hand("mixed", own[1], own[0], lam, *no_cut),
        by_hand("unmixed", own[2]),
    ]
    assert words(views).tolist() == expected


def test_words_stay_what_they_were():
    """A changed word would make every stored answer useless: change PIXELS_SCHEMA knowingly."""
    digest = hashlib.blake2b(words(drawn(64)).tobytes(), digest_size=8).hexdigest()
    assert digest == "9d5ef3553c5a028f"


@given(
    st.integers(0, 30),
    st.integers(0, 5),
    st.lists(st.integers(0, 15), max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_any_split_into_whole_pairs_gives_the_same_words(num, epoch, cuts):
    views = drawn(num, epoch=epoch)
    edges = sorted({0, num, *(2 * c for c in cuts if 2 * c <= num)})
    parts = [words(views[a:b]) for a, b in itertools.pairwise(edges)]
    assert [word for part in parts for word in part.tolist()] == words(views).tolist()


@pytest.mark.parametrize("name", [f.name for f in fields(Views) if f.name not in ("epoch",)])
def test_k01_each_number_of_a_view_reaches_its_word(name):
    """K01, K05: change one number of one image: its word changes, and its mixed partner's.

    The exceptions are what no pixel depends on: the copy's number, the other operations' unread
    parameters, and the key of noise where nothing is erased.
    """
    views = plain_views(
        5,
        lam_B=np.array([0.5, 0.5, 1, 1, 1], dtype=np.float32),
        cut_B4=np.tile(np.array([0, 0, 0.5, 1], np.float32), (5, 1)) * [[1], [1], [0], [0], [0]],
        ops_BL=np.full((5, 2), 4, dtype=np.int8),
        params_BL=np.full((5, 2), 3.0, dtype=np.float32),
        erase_B4=np.tile(np.array([0, 0, 0.5, 0.5], dtype=np.float32), (5, 1)),
    )
    before = words(views)
    for index in range(5):
        values = getattr(views, name).copy()
        flat = values.reshape(5, -1)
        for place in range(flat.shape[1]):
            changed = flat.copy()
            changed[index, place] = (
                ~changed[index, place] if values.dtype == bool else changed[index, place] + 1
            )
            moved = words(replace(views, **{name: changed.reshape(values.shape)})) != before
            expected = {index, index ^ 1} if index < 2 else {index}
            if name == "cut_B4" and index >= 2:
                expected = set()
            elif name in ("lam_B", "cut_B4"):
                expected = {index}
            if name == "repeat_B":
                expected = set()
            assert set(np.flatnonzero(moved)) == expected, (index, place)


def test_what_no_pixel_depends_on_leaves_the_words():
    """K05: the epoch's number, unread keys, empty operations, and rules that nothing reads."""
    views = plain_views(4)
    before = words(views).tolist()
    for same in (
        replace(views, epoch=7),
        replace(views, erase_key_B=views.erase_key_B + np.uint64(1)),
        replace(views, ops_BL=np.zeros((4, 3), np.int8), params_BL=np.ones((4, 3), np.float32)),
    ):
        assert words(same).tolist() == before
    for rules in (
        {"mean": (0.1,) * 3},
        {"std": (0.1,) * 3},
        {"erasing_fill": "mean"},
        {"op_fill": 0},
    ):
        assert words(views, **rules).tolist() == before


@pytest.mark.parametrize(
    "rules",
    [
        {"teacher_size": (24, 24)},
        {"teacher_size": (16, 24)},
        {"fill": 7},
        {"decoding": {"channels": 3, "background": [0, 0, 0]}},
        {"decoding": {"channels": 1, "background": [255, 255, 255]}},
    ],
    ids=str,
)
def test_k05_what_reaches_every_pixel_changes_every_word(rules):
    """K05: the teacher's size, alpha and channel policy: another key."""
    views = drawn(40)
    assert (words(views, **rules) != words(views)).all()


@pytest.mark.parametrize(
    "rules",
    [
        {"op_fill": [0, 0, 0]},
        {"erasing_fill": "mean"},
        {"erasing_fill": "constant"},
        {"mean": (0.1, 0.4, 0.3)},
        {"std": (0.25, 0.25, 0.9)},
        {"fill": 200},
    ],
    ids=str,
)
@pytest.mark.parametrize("crop", ["padded", "random_resized"])
def test_k01_equal_words_mean_equal_pixels(rules, crop):
    """K01: where a rule changes a pixel of the mixed view, it changes the word as well."""
    views = drawn(60, replace(FULL, crop=crop, padding=0.3))
    moved = (shown(views) != shown(views, **rules)).any(axis=(1, 2, 3))
    changed = words(views) != words(views, **rules)
    assert moved.any() or ("fill" in rules and crop == "random_resized")
    assert not (moved & ~changed).any()
    if "fill" not in rules:
        assert not changed.all(), "words change only where the rule is read"


def test_views_that_look_different_have_different_words():
    """K01, K03: six epochs of forty images, and the same with one image exchanged."""
    ids = np.random.default_rng(1).integers(0, 2**64, 40, dtype=np.uint64)
    changed_ids = ids.copy()
    changed_ids[11] += np.uint64(1)
    seen: dict[int, bytes] = {}
    for epoch in range(6):
        for these in (ids, changed_ids):
            views = drawn(40, ids=these, epoch=epoch)
            for word, pixels in zip(words(views).tolist(), shown(views), strict=True):
                assert seen.setdefault(word, pixels.tobytes()) == pixels.tobytes()
    assert len(seen) == len(set(seen.values()))
    assert 6 * 40 < len(seen) <= 6 * 42


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_uncovered_corners_are_read_from_the_rule(name):
    views = views_of_operations([(name, 0.4)], [("invert", 0.0)])
    moved = words(views) != words(views, op_fill=3)
    assert moved.tolist() == [True, False]


def test_record_ids_give_each_copy_its_own():
    """Copies of one content have other partners, so each needs a place; the first keeps its id."""
    ids = np.array([5, 9, 5, 7, 5, 9], dtype=np.uint64)
    own = record_ids(ids)
    assert own[[0, 1, 3]].tolist() == [5, 9, 7]
    assert len(set(own.tolist())) == 6
    assert record_ids(ids[::-1])[::-1].tolist() != own.tolist()
    assert set(record_ids(ids[::-1]).tolist()) == set(own.tolist())
    assert record_ids(np.zeros(0, np.uint64)).shape == (0,)


def test_k06_order_of_the_files_moves_no_record():
    """K06: the same contents in another order, copies among them: the same ids and words."""
    ids = np.random.default_rng(3).integers(0, 2**64, 30, dtype=np.uint64)
    ids[20:25] = ids[0]
    ids[25:] = ids[3:8]

    def records(ids_N: np.ndarray) -> dict[int, int]:
        order = epoch_order(0, 2, ids_N)
        views = drawn(len(ids_N), ids=ids_N[order], epoch=2)
        return dict(zip(record_ids(ids_N)[order].tolist(), words(views).tolist(), strict=True))

    before = records(ids)
    assert len(before) == 30
    for seed in range(5):
        assert records(np.random.default_rng(seed).permutation(ids)) == before


DIGESTED: dict[str, Any] = {
    "view_seed": 0,
    "aspect": 1.0,
    "teacher_size": (SIDE, SIDE),
    "erasing_fill": "pixel",
    "decoding": RULES["decoding"],
}


def test_policies_have_digests_of_their_own():
    """K05: each setting of the views is told apart; equal ones are equal."""
    policies = [FULL, *(replace(FULL, **change) for change in CHANGES)]
    digests = {policy_digest(view_settings(policy, **DIGESTED)) for policy in policies}
    for change in (
        {"view_seed": 1},
        {"aspect": 1.5},
        {"teacher_size": (24, 24)},
        {"erasing_fill": "mean"},
        {"decoding": {"channels": 1}},
    ):
        digests.add(policy_digest(view_settings(FULL, **(DIGESTED | change))))
    assert len(digests) == len(policies) + 5
    settings_again = json.loads(json.dumps(view_settings(replace(FULL), **DIGESTED)))
    assert policy_digest(settings_again) == policy_digest(view_settings(FULL, **DIGESTED))
    assert ViewPolicy(**settings_again["policy"]).scale == [0.08, 1.0]
    assert all(len(digest) == 32 for digest in digests)


CHANGES: list[dict[str, Any]] = [
    {"crop": "none"},
    {"scale": (0.1, 1.0)},
    {"ratio": (0.5, 2.0)},
    {"padding": 0.2},
    {"flip": 0.0},
    {"mixup": 0.2},
    {"cutmix": 0.5},
    {"mix_prob": 0.5},
    {"switch_prob": 0.25},
    {"auto_augment": "none"},
    {"rand_ops": ("rotate",)},
    {"color_jitter": 0.3},
    {"erasing": 0.1},
    {"erasing_scale": (0.1, 0.2)},
    {"erasing_ratio": (0.5, 2.0)},
]


def test_every_field_of_the_policy_is_among_the_changes():
    assert {name for change in CHANGES for name in change} == {f.name for f in fields(ViewPolicy)}

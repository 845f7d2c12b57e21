"""Near duplicates: planted ones found, other pictures left apart, and the quick search exact."""

# Shapes: N images, P pairs, S side of a thumbnail.

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deitkit.data.near_duplicates import (
    MAX_BITS,
    MAX_DISTANCE,
    MAX_PARTNERS,
    SIDE,
    Looks,
    groups_of,
    hash_and_thumb,
    near_pairs,
)
from tests.data.scenes import COPIES, scene

NUM_SCENES = 40


def looks_of(pictures: list[Image.Image]) -> Looks:
    looked = [hash_and_thumb(np.asarray(picture)) for picture in pictures]
    return Looks(
        hashes_N=np.array([one for one, _ in looked], np.uint64),
        thumbs_NSS=np.stack([thumb for _, thumb in looked]),
    )


def pairs_of(looks: Looks) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in near_pairs(looks).tolist()]


def test_the_hash_by_hand():
    """9 x 8 pixels, one a place: row 0 rises all the way (11111111), row 1 falls (00000000), row 2
    goes up and down (10101010), the others are even: 0xff00aa0000000000."""
    levels = np.full((8, 9), 50, np.uint8)
    levels[0] = range(10, 100, 10)
    levels[1] = range(90, 0, -10)
    levels[2] = [0, 9, 0, 9, 0, 9, 0, 9, 0]
    for channels in (1, 3):
        found, thumb = hash_and_thumb(levels[:, :, None].repeat(channels, axis=2))
        assert int(found) == 0xFF00AA0000000000
        assert thumb.shape == (SIDE, SIDE)


@pytest.mark.parametrize("change", COPIES)
def test_planted_copies_are_found(change):
    """Of 40 scenes each and its copy, and no other pair."""
    originals = [scene(seed) for seed in range(NUM_SCENES)]
    copies = [COPIES[change](picture) for picture in originals]
    expected = [(place, place + NUM_SCENES) for place in range(NUM_SCENES)]
    assert pairs_of(looks_of(originals + copies)) == expected


def test_other_pictures_are_not_paired():
    """Of 120 scenes none; and a mirrored picture is another picture."""
    originals = [scene(seed) for seed in range(120)]
    assert pairs_of(looks_of(originals)) == []
    mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in originals[:20]]
    assert pairs_of(looks_of(originals[:20] + mirrored)) == []


def photographs(folder: Path, num: int) -> list[Image.Image]:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = []
    for file in sorted(folder.rglob("*.parquet")):
        rows += parquet.read_table(file, columns=["image"]).column("image").to_pylist()
    return [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows[:num]]


def test_copies_of_real_photographs_are_found(shared_data):
    """60 of many sizes: at least 57 of each kind of copy, and not one invented pair."""
    originals = photographs(shared_data / "imagenet_samples100", 60)
    looked = looks_of(originals)
    for name, change in COPIES.items():
        copies = looks_of([change(picture) for picture in originals])
        both = Looks(
            hashes_N=np.concatenate([looked.hashes_N, copies.hashes_N]),
            thumbs_NSS=np.concatenate([looked.thumbs_NSS, copies.thumbs_NSS]),
        )
        found = pairs_of(both)
        planted = [pair for pair in found if pair[1] - pair[0] == len(originals)]
        assert len(planted) >= 57, name
        assert found == planted, name


def test_many_real_photographs_are_told_apart(shared_data):
    """400 pictures of ten classes, 79,800 pairs: none."""
    assert pairs_of(looks_of(photographs(shared_data / "imagenette", 400))) == []


@pytest.mark.slow
def test_next_to_all_real_photographs_are_told_apart(shared_data):
    """3,200 pictures, 5,118,400 pairs: one, of two small parachutes in an empty sky."""
    assert len(pairs_of(looks_of(photographs(shared_data / "imagenette", 3200)))) <= 1


def test_blank_pictures_pair_with_none():
    """Nor one with faint noise; but they are called flat."""
    blank = [Image.new("RGB", (40, 40), (level,) * 3) for level in (0, 200, 200)]
    faint = np.random.default_rng(0).integers(99, 103, (40, 40, 3)).astype(np.uint8)
    looks = looks_of([*blank, Image.fromarray(faint), scene(0)])
    assert looks.is_flat.tolist() == [True, True, True, True, False]
    assert pairs_of(looks) == []


def test_thumbnails_decide_where_hashes_agree():
    """The same hash: alike in all but brightness and contrast is a pair, other shapes are not."""
    rng = np.random.default_rng(0)
    first = rng.integers(40, 120, (8, 8))
    thumbs = np.stack([first, 2 * first - 30, rng.integers(40, 120, (8, 8))]).astype(np.uint8)
    looks = Looks(hashes_N=np.zeros(3, np.uint64), thumbs_NSS=thumbs)
    assert pairs_of(looks) == [(0, 1)]


def test_hashes_decide_where_thumbnails_agree():
    thumbs = np.arange(64, dtype=np.uint8).reshape(1, 8, 8).repeat(3, axis=0) * 3
    hashes = np.array([0, 2**MAX_BITS - 1, 2 ** (MAX_BITS + 2) - 1], np.uint64)
    assert pairs_of(Looks(hashes_N=hashes, thumbs_NSS=thumbs)) == [(0, 1), (1, 2)]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_centres=st.integers(1, 4),
    changes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), min_size=2, max_size=40),
)
@settings(max_examples=60)
def test_the_search_finds_what_brute_force_finds(seed, num_centres, changes):
    """Pictures near to and far from some centres, by both measures: the definition, pair by pair in
    float64, gives the same pairs, each once."""
    rng = np.random.default_rng(seed)
    centres = [
        (int(rng.integers(0, 2**63)), rng.integers(60, 190, (8, 8))) for _ in range(num_centres)
    ]
    hashes, thumbs = [], []
    for number, (num_flips, noise) in enumerate(changes):
        value, thumb = centres[number % num_centres]
        for bit in rng.choice(64, num_flips, replace=False):
            value ^= 1 << int(bit)
        hashes.append(value)
        thumbs.append(np.clip(thumb + rng.normal(0, noise, (8, 8)), 0, 255).astype(np.uint8))
    looks = Looks(hashes_N=np.array(hashes, np.uint64), thumbs_NSS=np.stack(thumbs))

    def alike(i: int, j: int) -> bool:
        first, second = (
            (thumbs[k].astype(float) - thumbs[k].mean()) / thumbs[k].std() for k in (i, j)
        )
        distance = np.sqrt(((first - second) ** 2).mean())
        return distance <= MAX_DISTANCE and (hashes[i] ^ hashes[j]).bit_count() <= MAX_BITS

    places = range(len(hashes))
    assert pairs_of(looks) == [(i, j) for i in places for j in places if i < j and alike(i, j)]


def test_blocks_make_no_difference(monkeypatch):
    """A few rows at a time: the same pairs."""
    pictures = [scene(seed) for seed in range(12)]
    looks = looks_of([*pictures, *map(COPIES["in grey"], pictures), *pictures[:5]])
    whole = pairs_of(looks)
    assert len(whole) == 12 + 5 + 5
    for block in (1, 29, 29 * 7):
        monkeypatch.setattr("deitkit.data.near_duplicates._BLOCK", block)
        assert pairs_of(looks) == whole


def test_a_long_burst_hangs_together_with_few_pairs():
    """500 frames of one scene: each has at most 64 partners before it, and all are one group."""
    rng = np.random.default_rng(0)
    thumbs = np.clip(rng.integers(50, 200, (8, 8)) + rng.normal(0, 3, (500, 8, 8)), 0, 255)
    looks = Looks(hashes_N=np.zeros(500, np.uint64), thumbs_NSS=thumbs.astype(np.uint8))
    pairs_P2 = near_pairs(looks)
    assert np.bincount(pairs_P2[:, 1]).max() == MAX_PARTNERS
    assert (groups_of(pairs_P2, 500) == 0).all()


def union_find(pairs: list[tuple[int, int]], num: int) -> list[int]:
    parent = list(range(num))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(place) for place in range(num)]


@given(
    num=st.integers(1, 60),
    ends=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=80),
)
@settings(max_examples=120)
def test_groups_are_those_of_a_union_find(num, ends):
    pairs = [(a % num, b % num) for a, b in ends]
    found = groups_of(np.array(pairs, np.int64).reshape(-1, 2), num)
    assert found.tolist() == union_find(pairs, num)


def test_a_long_chain_is_one_group():
    chain = np.stack([np.arange(4999), np.arange(1, 5000)], axis=1)
    shuffled = np.random.default_rng(0).permutation(chain)
    assert (groups_of(shuffled, 5000) == 0).all()

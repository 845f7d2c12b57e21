"""The text of a policy, read as timm reads it, or refused with the choices."""

from __future__ import annotations

import math

import pytest
from timm.data.auto_augment import rand_augment_transform

from deitkit.augmentation import ViewPolicy
from deitkit.augmentation.auto_augment_text import RandAugment, read_rand_augment
from deitkit.errors import ConfigError


@pytest.mark.parametrize(
    "text, read",
    [
        ("rand", RandAugment()),
        (
            "rand-m9-mstd0.5-inc1",
            RandAugment(magnitude=9, magnitude_std=0.5, increasing=True),
        ),
        (
            "rand-n3-m7-p0.7-mstd0.5-inc1",
            RandAugment(magnitude=7, magnitude_std=0.5, num_ops=3, prob=0.7, increasing=True),
        ),
        ("rand-inc0-p1-n1-m0", RandAugment(magnitude=0, num_ops=1, prob=1.0)),
        ("rand-m8-mstd100", RandAugment(magnitude=8, magnitude_std=100.0)),
        ("rand-m8-mstd101", RandAugment(magnitude=8, magnitude_std=math.inf)),
    ],
)
def test_texts_are_read_as_timm_reads_them(text, read):
    assert read_rand_augment(text) == read
    theirs = rand_augment_transform(text, {})
    op = theirs.ops[3]
    assert (op.magnitude, op.magnitude_std) == (read.magnitude, read.magnitude_std)
    assert (theirs.num_layers, op.prob) == (read.num_ops, read.prob)
    assert (theirs.ops[4].name == "PosterizeIncreasing") == read.increasing
    assert ViewPolicy(auto_augment=text).auto_augment == text


@pytest.mark.parametrize("text", ["none", "autoaugment", "3augment", "trivial"])
def test_fixed_policies_have_no_numbers(text):
    assert read_rand_augment(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "None",
        "randaugment",
        "Rand-m9",
        "augmix-m3",
        "original",
        "trivial-m9",
        "rand-",
        "rand-m9-",
        "rand--m9",
        "rand-m",
        "rand-mnine",
        "rand-m9.5",
        "rand-m-9",
        "rand-m11",
        "rand-m9-m9",
        "rand-n0",
        "rand-n17",
        "rand-n1.5",
        "rand-p1.1",
        "rand-p.5x",
        "rand-inc2",
        "rand-mstdinf",
        "rand-mstd1e2",
        "rand-mmax20",
        "rand-w0",
        "rand-tweights",
        "rand-m9 ",
        "rand-m٩",
    ],
)
def test_other_texts_are_refused_with_the_choices(text):
    """timm ignores or misreads some of these, as mstdinf and m-9."""
    with pytest.raises(ConfigError) as caught:
        ViewPolicy(auto_augment=text)
    message = str(caught.value)
    assert message.startswith("[BAD_VIEWS] views: auto_augment=") and repr(text) in message
    assert "3augment" in message and "rand-m9-mstd0.5-inc1" in message


def test_the_part_that_is_wrong_is_named():
    with pytest.raises(ConfigError, match=r"does not know the part 'w0'"):
        ViewPolicy(auto_augment="rand-m9-w0-inc1")
    with pytest.raises(ConfigError, match="n99, which is out of range"):
        ViewPolicy(auto_augment="rand-m9-n99")

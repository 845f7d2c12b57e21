"""Counter-based draws: known words, distributions, and independence between keys."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from scipy import stats

from deitkit.augmentation import draws
from deitkit.augmentation.draws import beta, hash_key, normal, uniform
from deitkit.augmentation.elementary import cos_turns, exp, log

NUM = 20_000
NEIGHBOURS = np.arange(NUM, dtype=np.uint64)
"""Ids that differ in few bits: the hardest for a hash."""


def test_mixer_gives_splitmix64s_published_sequence():
    """The generator's first outputs from seed 0, as its public implementations print them."""
    counters = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words = [int(word) for word in draws._mix(counters)]
    assert words == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def _plain_uniform(key: list[int], purpose: str, num: int) -> list[float]:
    """The definition in Python's whole numbers."""
    word = 2**64 - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & word
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & word
        return x ^ (x >> 31)

    gamma = 0x9E3779B97F4A7C15
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    state = int.from_bytes(digest, "little")
    for part in key:
        state = mix(((state ^ (part & word)) + gamma) & word)
    return [(mix((state + k * gamma) & word) >> 11) / 2**53 for k in range(1, num + 1)]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 + 5, 2**70 + 3])
def test_uniform_follows_the_definition_in_whole_numbers(seed):
    ids = np.array([0, 1, 2**64 - 1, 0xDEADBEEF], dtype=np.uint64)
    got = uniform(seed, 7, ids, purpose="crop", num=5)
    assert got.tolist() == [_plain_uniform([seed, 7, int(i)], "crop", 5) for i in ids]


def test_golden_values():
    """Pinned: a change here changes every run ever started."""
    ids = np.array([12345], dtype=np.uint64)
    assert uniform(0, 0, 0, ids, purpose="crop", num=2)[0].tolist() == GOLDEN_UNIFORM
    assert beta(0.8, 0, 0, 0, ids, purpose="mixup", num=2)[0].tolist() == GOLDEN_BETA
    assert normal(0, 0, 0, ids, purpose="noise", num=2)[0].tolist() == GOLDEN_NORMAL


def test_a_draw_does_not_depend_on_its_neighbours():
    """One id alone, in a strided slice or in a big batch: the same bits."""
    for draw in (
        lambda ids: uniform(3, ids, purpose="p", num=3),
        lambda ids: normal(3, ids, purpose="p", num=3),
        lambda ids: beta(0.8, 3, ids, purpose="p", num=3),
    ):
        whole = draw(NEIGHBOURS[:101])
        np.testing.assert_array_equal(draw(NEIGHBOURS[:101][::7]), whole[::7])
        np.testing.assert_array_equal(draw(NEIGHBOURS[13:14]), whole[13:14])


def test_uniform_is_a_multiple_of_two_to_the_minus_53_below_one():
    values = uniform(0, NEIGHBOURS, purpose="p", num=4)
    assert values.min() >= 0.0 and values.max() < 1.0
    assert (np.mod(values * 2.0**53, 1.0) == 0.0).all()


@pytest.mark.parametrize("vary", ["id", "epoch", "seed", "slot"])
def test_uniform_fills_64_bins_evenly_whatever_part_of_the_key_counts_up(vary):
    """Chi-square over 64 bins; its 99.99 % point with 63 degrees of freedom is 110."""
    values = {
        "id": uniform(0, 0, NEIGHBOURS, purpose="p", num=1),
        "epoch": uniform(0, NEIGHBOURS, 5, purpose="p", num=1),
        "seed": uniform(NEIGHBOURS, 0, 5, purpose="p", num=1),
        "slot": uniform(0, 0, 5, purpose="p", num=NUM),
    }[vary].ravel()
    counts = np.histogram(values, bins=64, range=(0.0, 1.0))[0]
    assert ((counts - NUM / 64) ** 2 / (NUM / 64)).sum() < 110
    # Pairs of successive values fill the square evenly too: 255 degrees of freedom, 346.
    pairs = np.histogram2d(values[:-1], values[1:], bins=16, range=[(0, 1), (0, 1)])[0]
    assert ((pairs - NUM / 256) ** 2 / (NUM / 256)).sum() < 346


def test_no_correlation_between_epochs_seeds_purposes_slots_or_neighbouring_ids():
    base = uniform(1, 1, NEIGHBOURS, purpose="crop", num=2)
    others = {
        "epoch": uniform(1, 2, NEIGHBOURS, purpose="crop", num=1)[:, 0],
        "seed": uniform(2, 1, NEIGHBOURS, purpose="crop", num=1)[:, 0],
        "swapped": uniform(1, 3, NEIGHBOURS, purpose="crop", num=1)[:, 0],
        "purpose": uniform(1, 1, NEIGHBOURS, purpose="flip", num=1)[:, 0],
        "slot": base[:, 1],
        "neighbour": np.roll(base[:, 0], 1),
        "next but one": np.roll(base[:, 0], 2),
    }
    for name, other in others.items():
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 4 / math.sqrt(NUM), name


def test_hash_has_no_collisions_and_depends_on_every_part_and_their_order():
    keys = [(0, 1), (1, 0), (0, 0), (1, 1), (0, 0, 0), (0,)]
    words = {int(hash_key(*key, purpose="p")[0]) for key in keys}
    words.add(int(hash_key(0, 1, purpose="q")[0]))
    assert len(words) == len(keys) + 1
    assert len(np.unique(hash_key(0, NEIGHBOURS, purpose="p"))) == NUM


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 0.8, 1.0, 2.0, 50.0])
def test_beta_against_scipys_distribution(alpha):
    """Largest distance of the distribution functions; the Kolmogorov bound at p = 0.001.

    Away from 0 and 1, where a small alpha has more weight than float32 can tell from 1.
    """
    values = beta(alpha, 0, NEIGHBOURS, purpose="mixup", num=1)[:, 0]
    assert values.dtype == np.float32
    assert values.min() >= 0.0 and values.max() <= 1.0
    points = np.concatenate([[1e-6, 1e-3], np.linspace(0.01, 0.99, 99), [1 - 1e-3, 1 - 1e-6]])
    found = np.searchsorted(np.sort(values), points.astype(np.float32)) / NUM
    distance = np.abs(found - stats.beta(alpha, alpha).cdf(points)).max()
    assert distance < 1.95 / math.sqrt(NUM)


def test_a15_mean_and_variance_of_beta_08():
    """FACTS A.15: mean 0.5, variance 1 / (4 (2 * 0.8 + 1)) = 0.0962."""
    values = beta(0.8, 1, NEIGHBOURS, purpose="mixup", num=5).astype(np.float64)
    assert values.mean() == pytest.approx(0.5, abs=3 * math.sqrt(0.0962 / values.size))
    assert values.var() == pytest.approx(0.0962, abs=0.001)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e6])
def test_beta_at_extreme_alpha_stays_finite(alpha):
    values = beta(alpha, 0, NEIGHBOURS, purpose="mixup", num=1)
    assert np.isfinite(values).all()
    ends = (values < 1e-3) | (values > 1 - 1e-3)
    assert ends.mean() > 0.98 if alpha < 1 else abs(values - 0.5).max() < 0.01


def test_normal_against_scipys_distribution():
    values = normal(0, NEIGHBOURS, purpose="noise", num=2)
    assert stats.kstest(values.ravel(), "norm").statistic < 1.95 / math.sqrt(values.size)
    assert abs(np.corrcoef(values.T)[0, 1]) < 4 / math.sqrt(NUM)


def test_elementary_functions_against_numpy():
    """A few units in the last place apart; numpy's own differ between processors."""
    x = np.concatenate([uniform(0, NEIGHBOURS, purpose="x", num=1)[:, 0], [2.0**-53, 1.0, 3e5]])
    x = x[x > 0.0]
    np.testing.assert_allclose(log(x), np.log(x), rtol=1e-15, atol=1e-15)
    y = (x[:-1] - 0.5) * 1300.0
    np.testing.assert_allclose(exp(y), np.exp(y), rtol=1e-15)
    turns = x[x < 1.0]
    np.testing.assert_allclose(cos_turns(turns), np.cos(2 * np.pi * turns), atol=2e-15)
    exact = cos_turns(np.array([0.0, 0.125, 0.25, 0.5, 0.75]))
    np.testing.assert_allclose(exact, [1, math.sqrt(0.5), 0, -1, 0], atol=2e-16)


GOLDEN_UNIFORM = [0.3528611793260199, 0.03611223444564504]
GOLDEN_BETA = [0.6868128180503845, 0.5174287557601929]
GOLDEN_NORMAL = [0.032680632284655335, 0.13446131495993902]

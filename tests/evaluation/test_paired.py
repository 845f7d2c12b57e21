"""Two answers to the same images: published examples, another implementation, coverage."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deitkit.evaluation.metrics import wilson_interval
from deitkit.evaluation.paired import (
    Share,
    class_gains,
    class_shares,
    mcnemar,
    paired_gain,
    paired_interval,
    share_of,
)


def answers(a: int, b: int, c: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Right in both, in the first only, in the second only, in neither."""
    first, second = [1] * (a + b) + [0] * (c + d), [1] * a + [0] * b + [1] * c + [0] * d
    return np.array(first, bool), np.array(second, bool)


@pytest.mark.parametrize(
    ("table", "interval"),
    [
        # Newcombe 1998, table II; Fagerland, Lydersen and Laake 2014 of Bentur et al. 2009.
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((1, 1, 7, 12), (-0.507, -0.026)),
    ],
)
def test_published_intervals(table, interval):
    gain = paired_gain(*answers(*table))
    digits = 5e-5 if abs(interval[0]) < 0.1 else 5e-4
    assert gain.interval == pytest.approx(interval, abs=digits)


def test_a_gain_by_hand():
    """10 images: 4 right in both, 3 gained, 1 lost. McNemar: 2 (1 + 4) / 2^4 = 0.625."""
    gain = paired_gain(*answers(4, 3, 1, 2))
    assert (gain.share, gain.other) == (Share(7, 10), Share(5, 10))
    assert gain.difference == pytest.approx(0.2)
    assert gain.p_value == pytest.approx(0.625)
    assert gain.interval[0] < 0.2 < gain.interval[1]
    said = json.loads(json.dumps(gain.to_dict()))
    assert said["share"]["value"] == 0.7
    assert said["share"]["interval"] == list(wilson_interval(7, 10))


@given(num_first=st.integers(0, 3000), num_second=st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_scipys_binomial_test(num_first, num_second):
    num = num_first + num_second
    expected = stats.binomtest(num_first, num, 0.5).pvalue if num else 1.0
    assert mcnemar(num_first, num_second) == pytest.approx(expected, rel=1e-8, abs=1e-200)


@given(table=st.tuples(*[st.integers(0, 40)] * 4))
@settings(max_examples=150, deadline=None)
def test_the_interval_holds_the_difference_and_turns_with_the_question(table):
    if sum(table) == 0:
        return
    first, second = answers(*table)
    gain, turned = paired_gain(first, second), paired_gain(second, first)
    low, high = gain.interval
    assert -1 <= low <= gain.difference <= high <= 1
    assert high > low, "it does not vanish, not even where the answers never differ"
    assert turned.interval == pytest.approx((-high, -low), abs=1e-12)
    assert turned.p_value == gain.p_value


def test_95_in_100_intervals_hold_the_truth():
    """Exactly, over every table of 20 images: not 80 %, and not always."""
    n, p = 20, (0.5, 0.2, 0.1, 0.2)
    covered = 0.0
    for a, b, c in itertools.product(range(n + 1), repeat=3):
        d = n - a - b - c
        if d < 0:
            continue
        counts = (a, b, c, d)
        log_p = math.lgamma(n + 1)
        log_p += sum(k * math.log(q) - math.lgamma(k + 1) for k, q in zip(counts, p, strict=True))
        low, high = paired_interval(Share(a + b, n), Share(a + c, n), num_both=a)
        covered += math.exp(log_p) * (low <= p[1] - p[2] <= high)
    assert 0.94 < covered < 0.985


def test_no_images_say_nothing():
    nothing = np.zeros(0, bool)
    gain = paired_gain(nothing, nothing)
    assert (gain.difference, gain.interval, gain.p_value) == (None, (-1.0, 1.0), 1.0)
    assert share_of(nothing).value is None


def test_class_shares_by_hand():
    """Class 0: 2 of 3; class 1: none of 1; class 2 has no images."""
    right = np.array([True, True, False, False])
    shares = class_shares(right, np.array([0, 0, 1, 0]), 3)
    assert shares == [Share(2, 3), Share(0, 1), Share(0, 0)]
    assert (shares[2].value, shares[2].interval) == (None, (0.0, 1.0))


def gains_of(*tables: tuple[int, int, int, int]) -> list[str]:
    pairs = [answers(*table) for table in tables]
    labels = np.repeat(np.arange(len(tables)), [sum(table) for table in tables])
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    order = np.random.default_rng(0).permutation(len(labels))
    names = [f"class {k}" for k in range(len(tables))]
    found = class_gains(first[order], second[order], labels[order], names)
    assert [one.name for one in found] == names
    for one, table in zip(found, tables, strict=True):
        assert one.gain == paired_gain(*answers(*table))
    return [one.verdict for one in found]


def test_verdicts_by_class():
    """0 against 12 has p = 2 / 2^12; 3 against 3 has p = 1; the last class has no images."""
    tables = ((5, 12, 0, 3), (5, 0, 12, 3), (5, 3, 3, 5), (9, 0, 0, 0), (0, 0, 0, 0))
    assert gains_of(*tables) == ["helps", "hurts", "cannot tell", "cannot tell", "n/a"]


def test_many_classes_are_judged_together():
    """7 against 0 has p = 0.0156: alone a gain; the best of 20 classes, as chance may have it."""
    assert gains_of((5, 7, 0, 5)) == ["helps"]
    assert set(gains_of((5, 7, 0, 5), *[(5, 2, 2, 5)] * 19)) == {"cannot tell"}
    # Holm: beside a class of p = 2^-19 the second has to reach 0.05 / 3 only, not 0.05 / 4.
    assert gains_of((0, 20, 0, 0), (5, 7, 0, 5), *[(5, 2, 2, 5)] * 2)[:2] == ["helps", "helps"]


def test_mcnemar_of_a_large_test_set_is_quick_and_finite():
    assert mcnemar(25_000, 24_000) == pytest.approx(
        stats.binomtest(24_000, 49_000).pvalue, rel=1e-6
    )
    assert mcnemar(50_000, 0) == 0.0

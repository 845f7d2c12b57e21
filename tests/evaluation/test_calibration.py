"""Temperature and threshold: known answers, sklearn and scipy as oracles, properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from deitkit.evaluation.calibration import fit_temperature, fit_threshold, reliability
from deitkit.evaluation.metrics import expected_calibration_error, softmax, wilson_interval


def test_two_classes_by_hand():
    """Logits (2, 0), right 300 times of 400, each label doubted by 1/402: p = 3/4 - 1/804
    = 1 / (1 + exp(-2 / T)), so T = 2 / ln(p / (1 - p)), nearly 2 / ln 3."""
    logits_NK = np.tile([2.0, 0.0], (400, 1))
    labels_N = np.array([0, 0, 0, 1] * 100)
    fitted = fit_temperature(lambda t: logits_NK / t, labels_N)
    p = 0.75 - 1 / 804
    assert fitted.temperature == pytest.approx(2 / math.log(p / (1 - p)), rel=1e-3)
    assert fitted.temperature == pytest.approx(2 / math.log(3), rel=7e-3)
    assert fitted.ece == pytest.approx(1 / 804, abs=1e-4)
    assert fitted.plain_ece == pytest.approx(1 / (1 + math.exp(-2)) - 0.75)
    assert fitted.nll == pytest.approx(-0.75 * math.log(p) - 0.25 * math.log(1 - p), abs=1e-6)


@pytest.mark.parametrize("num_images", [5, 20, 1000])
def test_images_that_are_all_right_do_not_make_it_certain(num_images):
    """Logits (4, 0), always right: 1 / (1 + exp(-4 / T)) = (N + 1) / (N + 2): T = 4 / ln(N + 1)."""
    logits_NK = np.tile([4.0, 0.0], (num_images, 1))
    fitted = fit_temperature(lambda t: logits_NK / t, np.zeros(num_images, dtype=np.int64))
    assert fitted.temperature == pytest.approx(4 / math.log(num_images + 1), rel=1e-3)
    sure = 1 / (1 + math.exp(-4 / fitted.temperature))
    assert sure == pytest.approx((num_images + 1) / (num_images + 2), rel=1e-3)
    assert fitted.nll == pytest.approx(-math.log(sure))


def test_it_is_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(0)
    truth_NK = rng.normal(size=(800, 5)) * 2
    labels_N = np.array([rng.choice(5, p=p) for p in softmax(truth_NK)])
    loud_NK = truth_NK * 3.7

    def nll(place: float) -> float:
        rows = log_softmax(loud_NK / math.exp(place), axis=1)
        own = rows[np.arange(800), labels_N]
        others = (rows.sum(axis=1) - own) / 4
        return -(own * 801 / 802 + others / 802).mean()

    fitted = fit_temperature(lambda t: loud_NK / t, labels_N)
    assert fitted.temperature == pytest.approx(math.exp(minimize_scalar(nll).x), rel=1e-3)
    assert 3 < fitted.temperature < 4.5 and fitted.ece < fitted.plain_ece / 2


def test_what_is_calibrated_already_is_left_alone():
    rng = np.random.default_rng(1)
    truth_NK = rng.normal(size=(60, 3))
    labels_N = np.array([rng.choice(3, p=p) for p in softmax(truth_NK)])
    fitted = fit_temperature(lambda t: truth_NK / t, labels_N)
    assert fitted.temperature == 1 != fitted.found_temperature
    assert (fitted.nll, fitted.ece) == (fitted.plain_nll, fitted.plain_ece)


def certain(sure: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two classes; the model always says the first, so surely, and is right or not."""
    first_N = np.array(sure)
    return np.stack([first_N, 1 - first_N], axis=1), np.where(right, 0, 1)


def test_the_least_threshold_by_hand():
    """100 sure and right, 20 unsure of which 10 are right: 110 of 120, so 115/120 is asked for.
    100 of 100 has a lower bound of 96.3 %, 101 of 101 more, with one wrong of 102 it is 94.7 %."""
    probabilities_NK, labels_N = certain(
        [0.99] * 100 + [0.9 - 0.01 * i for i in range(20)], [True] * 100 + [True, False] * 10
    )
    fitted = fit_threshold(probabilities_NK, labels_N)
    assert fitted.target == pytest.approx(115 / 120)
    assert (fitted.num_answered, fitted.num_right) == (101, 101)
    assert fitted.threshold == pytest.approx(0.895)
    assert wilson_interval(101, 102)[0] < fitted.target < wilson_interval(101, 101)[0]


def test_no_threshold_where_none_is_needed_or_none_can_be_shown():
    everything = fit_threshold(*certain([0.9] * 500, [True] * 500), target=0.99)
    assert everything.threshold is None and everything.num_answered == 500
    few = fit_threshold(*certain([0.9, 0.8, 0.7], [True, True, False]))
    assert few.threshold is None and few.num_answered == 3


@given(st.lists(st.tuples(st.floats(0.5, 1.0), st.booleans()), min_size=1, max_size=80))
def test_what_is_answered_is_what_the_threshold_says(rows):
    probabilities_NK, labels_N = certain([r[0] for r in rows], [r[1] for r in rows])
    fitted = fit_threshold(probabilities_NK, labels_N)
    answered_N = probabilities_NK.max(axis=1) >= (fitted.threshold or 0.0)
    right_N = probabilities_NK.argmax(axis=1) == labels_N
    assert answered_N.sum() == fitted.num_answered
    assert (answered_N & right_N).sum() == fitted.num_right


@given(st.integers(0, 2**32 - 1))
def test_the_bars_add_up_to_the_calibration_error(seed):
    rng = np.random.default_rng(seed)
    probabilities_NK = softmax(rng.normal(size=(50, 4)) * 2)
    labels_N = rng.integers(0, 4, 50)
    bins = reliability(probabilities_NK, labels_N)
    assert sum(b.num_images for b in bins) == 50
    total = sum(b.num_images * abs(b.right - b.sure) for b in bins if b.num_images) / 50
    assert total == pytest.approx(expected_calibration_error(probabilities_NK, labels_N))

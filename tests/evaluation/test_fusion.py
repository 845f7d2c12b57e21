"""One weight between two heads: by hand, against a grid, and not without need."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from deitkit.errors import DataError, ModelFileError
from deitkit.evaluation.fusion import fit_fusion
from deitkit.evaluation.logits import fuse
from deitkit.evaluation.metrics import negative_log_likelihood, softmax, summarise


def two_heads(
    num: int, *, cls_noise: float, dist_noise: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both heads see the label's logit at 3, each through noise of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num)
    truth = 3.0 * np.eye(4)[labels]
    cls, dist = (
        (truth + noise * rng.normal(size=(num, 4))).astype(np.float32)
        for noise in (cls_noise, dist_noise)
    )
    return cls, dist, labels


def nll(cls, dist, labels, weight: float, temperature: float = 1.0) -> float:
    fused = fuse(cls, dist, fusion="fitted", temperature=temperature, weight=weight)
    return negative_log_likelihood(softmax(fused), labels)


def test_the_weight_by_hand():
    """The class head says nothing, the other ln 9 for class 0, which holds for 3 images of 4.

    The fused logit w ln 9 is likeliest where the probability is 3/4: w ln 9 = ln 3, w = 1/2. Where
    it holds for 9 of 10, w = 1. For 1 of 2, and for fewer still, 0.
    """
    for num_right, num, weight in ((300, 400, 0.5), (360, 400, 1.0), (200, 400, 0), (40, 400, 0)):
        cls, dist = np.zeros((num, 2)), np.tile([math.log(9), 0.0], (num, 1))
        labels = (np.arange(num) >= num_right).astype(np.int64)
        found = fit_fusion(cls, dist, labels)
        assert found.found_weight == pytest.approx(weight, abs=0.001)
    assert found.weight == 0.0


def test_temperature_divides_the_logits():
    """At T = 2 the logit is w ln 3 and 3/4 needs w = 1."""
    cls, dist = np.zeros((400, 2)), np.tile([math.log(9), 0.0], (400, 1))
    labels = (np.arange(400) >= 300).astype(np.int64)
    assert fit_fusion(cls, dist, labels, temperature=2.0).weight == pytest.approx(1, abs=0.001)


@given(
    seed=st.integers(0, 1000),
    cls_noise=st.floats(0.5, 4),
    dist_noise=st.floats(0.5, 4),
    temperature=st.floats(0.5, 3),
)
@settings(max_examples=25, deadline=None)
def test_it_is_scipys_minimum(seed, cls_noise, dist_noise, temperature):
    cls, dist, labels = two_heads(60, cls_noise=cls_noise, dist_noise=dist_noise, seed=seed)
    found = fit_fusion(cls, dist, labels, temperature=temperature)
    best = minimize_scalar(
        lambda w: nll(cls, dist, labels, w, temperature), bounds=(0, 1), method="bounded"
    )
    assert 0 <= found.found_weight <= 1
    assert found.nll <= best.fun + 1e-5
    assert found.nll == pytest.approx(nll(cls, dist, labels, found.found_weight, temperature))
    assert found.mean_nll == pytest.approx(nll(cls, dist, labels, 0.5, temperature))
    gain, error = found.mean_nll - found.nll, found.standard_error
    assert gain > -1e-5
    assert found.weight in (0.5, found.found_weight)
    if gain <= error:
        assert found.weight == 0.5


def test_a_better_head_gets_more_and_that_helps_on_other_images():
    cls, dist, labels = two_heads(2000, cls_noise=3.0, dist_noise=1.0)
    found = fit_fusion(cls[:1000], dist[:1000], labels[:1000])
    assert found.weight == found.found_weight > 0.8
    others = cls[1000:], dist[1000:], labels[1000:]
    assert nll(*others, found.weight) < nll(*others, 0.5) - 0.05
    swapped = fit_fusion(dist[:1000], cls[:1000], labels[:1000])
    assert swapped.weight == pytest.approx(1 - found.weight, abs=0.002)


def test_equally_good_heads_keep_the_mean():
    """By symmetry 1/2 is right. |z| > 2 by chance leaves it in 5 of 100 fits; 13 are 3.7 sigma."""
    left = 0
    for seed in range(100):
        cls, dist, labels = two_heads(200, cls_noise=2.0, dist_noise=2.0, seed=seed)
        left += fit_fusion(cls, dist, labels).weight != 0.5
    assert 1 <= left <= 12


def test_two_equal_heads_keep_the_mean():
    cls, _, labels = two_heads(50, cls_noise=1.0, dist_noise=1.0)
    found = fit_fusion(cls, cls, labels)
    assert (found.weight, found.found_weight, found.nll) == (0.5, 0.5, found.mean_nll)


def test_one_image_proves_nothing():
    found = fit_fusion(np.array([[0.0, 9.0]]), np.array([[9.0, 0.0]]), np.array([0]))
    assert (found.weight, found.found_weight, found.standard_error) == (0.5, 1.0, None)
    assert "the mean is kept" in found.describe()


def test_likelier_but_clearly_less_accurate_keeps_the_mean():
    """Class head: right by a little on 90, wrong by a mile on 10; the other wrong by a little on
    those 90 and humble on all: likelier, and of no use."""
    cls = np.tile([1.2, 0.0], (100, 1))
    cls[90:] = [-40.0, 0.0]
    dist = np.tile([-1.0, 0.0], (100, 1))
    labels = np.zeros(100, np.int64)
    found = fit_fusion(cls, dist, labels)
    accuracies = {
        w: summarise(fuse(cls, dist, fusion="fitted", weight=w), labels, ("a", "b")).top1
        for w in (found.found_weight, 0.5)
    }
    assert accuracies == {found.found_weight: 0.0, 0.5: 0.9}
    assert found.mean_nll - found.nll > found.standard_error
    assert found.weight == 0.5


def test_the_same_logits_give_the_same_answer_as_json():
    cls, dist, labels = two_heads(300, cls_noise=3.0, dist_noise=1.0)
    found = fit_fusion(cls, dist, labels)
    assert found == fit_fusion(cls.astype(np.float64), dist, labels)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert found.weight == round(found.weight, 3)
    assert "300" in found.describe() and "kept" not in found.describe()


def test_no_images_and_no_numbers_are_refused():
    with pytest.raises(DataError, match="EMPTY"):
        fit_fusion(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, np.int64))
    for bad in (math.nan, math.inf):
        heads = [np.zeros((2, 2)), np.array([[0.0, bad], [0, 0]])]
        for cls, dist in (heads, heads[::-1]):
            with pytest.raises(ModelFileError, match="MODEL_OUTPUT"):
                fit_fusion(cls, dist, np.array([0, 1]))

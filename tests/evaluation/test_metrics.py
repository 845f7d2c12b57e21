"""Metrics by hand and against scikit-learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deitkit.errors import DataError, ModelFileError
from deitkit.evaluation.metrics import (
    class_metrics,
    confusion_matrix,
    expected_calibration_error,
    macro_accuracy,
    negative_log_likelihood,
    softmax,
    summarise,
    topk_correct,
    wilson_interval,
)


def some_logits(num: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    logits = rng.normal(size=(num, num_classes)).astype(np.float32)
    logits[np.arange(num), labels] += 1.0
    return logits, labels


@pytest.mark.parametrize(
    "num_correct, num_total, expected",
    [
        (8, 10, (0.4902, 0.9433)),
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (1, 1, (0.2065, 1.0)),
        (50, 100, (0.4038, 0.5962)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_known_values(num_correct, num_total, expected):
    assert wilson_interval(num_correct, num_total) == pytest.approx(expected, abs=5e-5)


@given(counts=st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=80, deadline=None)
def test_wilson_against_scipy(counts):
    for confidence in (0.8, 0.95, 0.99):
        expected = stats.binomtest(*counts).proportion_ci(confidence, method="wilson")
        low, high = wilson_interval(*counts, confidence=confidence)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0.0 <= low <= counts[0] / counts[1] <= high <= 1.0


def test_softmax_by_hand_and_at_the_ends_of_float32():
    """ln 3 against 0 is 3/4; the largest float32 beside the smallest is certainty, not NaN."""
    np.testing.assert_allclose(softmax(np.array([[math.log(3), 0.0]])), [[0.75, 0.25]])
    largest = np.finfo(np.float32).max
    extreme = np.array([[largest, -largest, 0], [largest, largest, 0]], dtype=np.float32)
    np.testing.assert_array_equal(softmax(extreme), [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_array_equal(softmax(np.array([[0.0, -np.inf]])), [[1, 0]])


def test_topk_by_hand():
    scores = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [1, 3, 0, 2]])
    labels = np.array([1, 0, 3])
    assert topk_correct(scores, labels, 1).tolist() == [False, False, False]
    assert topk_correct(scores, labels, 2).tolist() == [True, False, True]
    assert topk_correct(scores, labels, 4).all()


def test_topk_gives_ties_to_the_lower_index_as_argmax_does():
    """Equal scores everywhere: only labels below k are hits, so a constant model gets k / K."""
    scores = np.zeros((10, 10), dtype=np.float32)
    labels = np.arange(10)
    for k in (1, 5):
        assert topk_correct(scores, labels, k).tolist() == (labels < k).tolist()
    np.testing.assert_array_equal(topk_correct(scores, labels, 1), scores.argmax(axis=1) == labels)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_topk_is_membership_in_a_stable_sort_also_with_many_ties(seed, k):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (20, 7)).astype(np.float32), rng.integers(0, 7, 20)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = (best == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(topk_correct(scores, labels, k), expected)


def test_confusion_and_class_metrics_by_hand():
    """Cats: 3, two found; dogs: 1, found; one cat was called a dog; no bird was seen or called."""
    confusion = confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    cat, dog, bird = class_metrics(confusion, ["cat", "dog", "bird"])
    assert (cat.num_images, cat.precision, cat.recall, cat.f1) == (3, 1.0, 2 / 3, 0.8)
    assert (dog.num_images, dog.precision, dog.recall, dog.f1) == (1, 0.5, 1.0, 2 / 3)
    assert (bird.num_images, bird.precision, bird.recall, bird.f1) == (0, None, None, None)


def test_d08_a_class_without_images_is_not_available_rather_than_zero():
    """Fault D08, also when it was wrongly called; a present class never called has recall 0."""
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 0]), 3)
    _, never_called, absent = class_metrics(confusion, ["a", "b", "c"])
    assert (never_called.precision, never_called.recall, never_called.f1) == (None, 0.0, 0.0)
    assert (absent.precision, absent.recall, absent.f1) == (None, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_against_sklearn(seed):
    logits, labels = some_logits(200, 7, seed)
    metrics = summarise(logits, labels, [f"c{k}" for k in range(7)])
    predictions = logits.argmax(axis=1)
    np.testing.assert_array_equal(
        metrics.confusion_KK, sklearn.metrics.confusion_matrix(labels, predictions)
    )
    precision, recall, f1, num_images = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(7)
    )
    assert [one.precision for one in metrics.per_class] == pytest.approx(precision)
    assert [one.recall for one in metrics.per_class] == pytest.approx(recall)
    assert [one.f1 for one in metrics.per_class] == pytest.approx(f1)
    assert [one.num_images for one in metrics.per_class] == num_images.tolist()
    expected_nll = sklearn.metrics.log_loss(labels, softmax(logits), labels=range(7))
    assert metrics.nll == pytest.approx(expected_nll, rel=1e-9)
    assert metrics.top1 == sklearn.metrics.accuracy_score(labels, predictions)
    top5 = sklearn.metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(7))
    assert metrics.top5 == pytest.approx(top5)
    assert metrics.top1_interval == wilson_interval(round(metrics.top1 * 200), 200)


def test_nll_by_hand_and_when_a_probability_underflows():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]])
    expected = (math.log(2) + math.log(4)) / 2
    assert negative_log_likelihood(probabilities, np.array([0, 0])) == pytest.approx(expected)
    assert negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(
        708.3964, abs=1e-3
    )


def test_calibration_error_by_hand():
    """Two images at 0.9 of which one is right, and two at 0.6 (another bin), both right.

    |0.5 - 0.9| * 2/4 + |1 - 0.6| * 2/4 = 0.4.
    """
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.4)


def test_calibration_within_a_bin_cancels_and_bins_include_their_upper_edge():
    """0.54, wrong, and 0.55, right, share bin (1/2, 1]: |1 - 1.09| / 2. Exactly 0.5 is below."""
    probabilities = np.array([[0.54, 0.46], [0.55, 0.45]])
    labels = np.array([1, 0])
    expected = abs(1 - 1.09) / 2
    assert expected_calibration_error(probabilities, labels, num_bins=2) == pytest.approx(expected)
    edge = np.array([[0.5, 0.5], [1.0, 0.0]])
    # Bin (0, 0.5] holds the first, wrong: 0.5; bin (0.5, 1] the second, right: 0.
    assert expected_calibration_error(edge, np.array([1, 0]), num_bins=2) == pytest.approx(0.25)


def test_a_perfectly_calibrated_coin_has_no_calibration_error():
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == 0.0


def test_summary_is_plain_json_and_top5_needs_six_classes():
    logits, labels = some_logits(20, 5)
    metrics = summarise(logits, labels, list("abcde"))
    assert metrics.top5 is None and metrics.top5_interval is None
    found = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert found["num_images"] == 20 and found["top5"] is None
    assert found["top1_interval"] == list(metrics.top1_interval)
    assert found["per_class"][0]["name"] == "a"
    assert np.sum(found["confusion"]) == 20
    six = summarise(*some_logits(20, 6), list("abcdef"))
    assert six.top5_interval[0] < six.top5 <= 1.0


def test_float32_extremes_give_finite_metrics():
    """Sure and right, sure and wrong: 0 and 708 nats."""
    largest = np.finfo(np.float32).max
    logits = np.array([[largest, -largest], [largest, -largest]], dtype=np.float32)
    metrics = summarise(logits, np.array([0, 1]), ["a", "b"])
    assert metrics.top1 == 0.5 and metrics.ece == pytest.approx(0.5)
    assert metrics.nll == pytest.approx(708.3964 / 2, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(bad):
    """NaN compares as smaller than everything and would count as a hit."""
    logits, labels = some_logits(4, 3)
    logits[2, 1] = bad
    with pytest.raises(ModelFileError, match="1 of 4 images") as caught:
        summarise(logits, labels, list("abc"))
    assert caught.value.code == "MODEL_OUTPUT"


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no images"):
        summarise(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), list("abc"))


def test_macro_accuracy_counts_classes_alike():
    """8 of 10, 1 of 5 and a class without images: (0.8 + 0.2) / 2, as of 4 / (1/10 + 1/5) = 40/3
    images; classes of one size have Wilson's interval of all."""
    mean, interval = macro_accuracy(np.array([[8, 2, 0], [4, 1, 0], [0, 0, 0]]))
    assert mean == pytest.approx(0.5)
    assert interval == pytest.approx(wilson_interval(20 / 3, 40 / 3))
    mean, interval = macro_accuracy(np.array([[15, 5], [1, 19]]))
    assert (mean, *interval) == pytest.approx((34 / 40, *wilson_interval(34, 40)))
    assert macro_accuracy(np.diag([7, 2]))[1][1] == 1.0

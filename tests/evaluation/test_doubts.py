"""How doubtful a label is, by hand, and that planted errors come first."""

# Shapes: N images, K classes.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.evaluation.doubts import doubts, ranked


def test_one_judge_by_hand():
    """0.7 for another class against 0.2 for the label; sure of the label; a tie; wholly against."""
    judge = np.array([[0.2, 0.7, 0.1], [0.1, 0.0, 0.9], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    found = doubts(np.array([0, 2, 1, 0]), [judge])
    np.testing.assert_allclose(found, [0.5, -0.8, 0.0, 1.0])


def test_two_judges_by_hand():
    """Their probabilities are averaged first. Both for class 1: (0.8 + 0.6) / 2 - (0.1 + 0.3) / 2 =
    0.5. One for class 1, one for class 2: no class is likelier than 0.45, the label has 0.1. One
    for the label: nothing to doubt."""
    student = np.array([[0.1, 0.8, 0.1], [0.1, 0.9, 0.0], [0.1, 0.9, 0.0]])
    teacher = np.array([[0.3, 0.6, 0.1], [0.1, 0.0, 0.9], [0.95, 0.05, 0.0]])
    found = doubts(np.zeros(3, int), [student, teacher])
    np.testing.assert_allclose(found, [0.5, 0.35, -0.05])
    assert ranked(found).tolist() == [0, 1, 2]


def test_equal_doubts_stay_in_their_order():
    assert ranked(np.array([0.1, 0.5, 0.1, 0.5, 0.1])).tolist() == [1, 3, 0, 2, 4]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(1, 20),
    num_classes=st.integers(2, 6),
    num_judges=st.integers(1, 3),
)
@settings(max_examples=80)
def test_it_is_the_formula_image_by_image(seed, num_images, num_classes, num_judges):
    """And -1 to 1, above 0 exactly where the averaged judges say another class."""
    rng = np.random.default_rng(seed)
    judges = [rng.dirichlet(np.full(num_classes, 0.5), num_images) for _ in range(num_judges)]
    labels_N = rng.integers(0, num_classes, num_images)
    before = [judge.copy() for judge in judges]
    found = doubts(labels_N, judges)
    for n, label in enumerate(labels_N.tolist()):
        mean = [sum(judge[n, k] for judge in judges) / num_judges for k in range(num_classes)]
        others = [value for k, value in enumerate(mean) if k != label]
        assert found[n] == pytest.approx(max(others) - mean[label], abs=1e-12)
        assert -1 <= found[n] <= 1
        if abs(found[n]) > 1e-9:
            assert (found[n] > 0) == (int(np.argmax(mean)) != label)
    assert all(np.array_equal(judge, old) for judge, old in zip(judges, before, strict=True))


def test_planted_errors_come_first_and_a_second_judge_helps():
    """300 images, 30 under a wrong label, judges who are right on 80 % by chance of their own:
    two find more among the first 30 than either alone."""
    rng = np.random.default_rng(0)
    truth_N = rng.integers(0, 5, 300)
    labels_N = truth_N.copy()
    labels_N[:30] = (truth_N[:30] + rng.integers(1, 5, 30)) % 5

    def judge() -> np.ndarray:
        said_N = np.where(rng.random(300) < 0.8, truth_N, rng.integers(0, 5, 300))
        scores_NK = rng.random((300, 5)) + 4 * rng.random((300, 1)) * np.eye(5)[said_N]
        return scores_NK / scores_NK.sum(axis=1, keepdims=True)

    first, second = judge(), judge()
    alone = [int((ranked(doubts(labels_N, [one]))[:30] < 30).sum()) for one in (first, second)]
    both = int((ranked(doubts(labels_N, [first, second]))[:30] < 30).sum())
    assert min(alone) > 3 * 3, "three times what chance would find"
    assert both > max(alone)

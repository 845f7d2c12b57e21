"""A teacher that guesses is refused, with what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from deitkit.errors import ModelFileError
from deitkit.teachers.teacher_check import binomial_tail, check_teacher


def test_the_tail_by_hand():
    """Four coins: P(X >= 3) = (4 + 1) / 16."""
    assert binomial_tail(3, 4, 0.5) == pytest.approx(5 / 16, rel=1e-12)
    assert binomial_tail(0, 4, 0.5) == 1.0
    assert binomial_tail(4, 4, 0.1) == pytest.approx(1e-4, rel=1e-12)


@given(num_images=st.integers(1, 3000), share=st.floats(0, 1), chance=st.floats(1e-3, 0.95))
def test_the_tail_is_scipys(num_images, share, chance):
    num_correct = round(share * num_images)
    expected = binom.sf(num_correct - 1, num_images, chance)
    assert binomial_tail(num_correct, num_images, chance) == pytest.approx(
        expected, rel=1e-6, abs=1e-290
    )


@pytest.mark.parametrize(
    "num_correct, num_images, num_classes, share",
    [
        (100, 1000, 10, 0.0),  # exactly what guessing scores
        (116, 1000, 10, 0.0),  # p = 0.054
        (0, 50, 2, 0.0),
        (850, 1000, 10, 0.85),  # always says the largest class
        (6, 10, 2, 0.0),
    ],
)
def test_a_guessing_teacher_is_refused_with_its_accuracy(
    num_correct, num_images, num_classes, share
):
    with pytest.raises(ModelFileError) as caught:
        check_teacher(
            "runs/t",
            num_correct=num_correct,
            num_images=num_images,
            num_classes=num_classes,
            largest_share=share,
        )
    assert caught.value.code == "TEACHER_CHANCE"
    assert f"{num_correct / num_images:.1%} of {num_images:,} images" in caught.value.why
    assert "teacher=auto" in caught.value.do


@pytest.mark.parametrize("num_correct, num_images", [(120, 1000), (990, 1000), (9, 10), (8, 8)])
def test_a_teacher_that_knows_something_passes_without_a_word(num_correct, num_images):
    check = check_teacher("t", num_correct=num_correct, num_images=num_images, num_classes=10)
    assert check.warning is None and check.p_value < 0.05
    assert check.accuracy == num_correct / num_images


def test_too_few_images_to_tell_are_a_warning():
    """3 of 3 with two classes: guessing does that 1 time in 8."""
    check = check_teacher("t", num_correct=3, num_images=3, num_classes=2)
    assert check.p_value == pytest.approx(1 / 8)
    assert "too few images" in check.warning


def test_a_weaker_teacher_is_warned_about():
    check = check_teacher(
        "t", num_correct=700, num_images=1000, num_classes=10, student_accuracy=0.8
    )
    assert "weaker than the student: 70.0% of 1,000 images right, the student's 80.0%" in (
        check.warning
    )
    better = check_teacher(
        "t", num_correct=900, num_images=1000, num_classes=10, student_accuracy=0.8
    )
    assert better.warning is None

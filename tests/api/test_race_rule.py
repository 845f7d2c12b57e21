"""Who is tried, goes on and wins in a race: every decision on numbers made up for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deitkit.api.race_arms import FROM_SCRATCH, TITLES, list_arms
from deitkit.api.race_rule import (
    Score,
    final_s,
    finalist_of,
    fine_tuning_side,
    linear_s,
    num_trials,
    order_of,
    trial_s,
    why_hopeless,
    why_untaught,
    winner_of,
)

ORDER = ("fine_tuned", "fine_tuned_taught", "scratch_taught", "scratch")


def score(num_right: int, num_images: int = 100, parameters: int = 10, ms: float = 1.0) -> Score:
    return Score(num_right=num_right, num_images=num_images, parameters=parameters, latency_ms=ms)


def test_the_highest_accuracy_wins_also_of_the_linear_classifier():
    assert winner_of({"linear": score(88), "fine_tuned": score(87), "scratch": score(40)}) == (
        "linear"
    )


def test_of_equal_ones_the_smaller_then_the_faster_then_the_first_wins():
    scores = {"a": score(90, parameters=20), "b": score(90, ms=3), "c": score(90, ms=2)}
    assert winner_of(scores) == "c"
    assert winner_of({**scores, "d": score(90, ms=2)}) == "c"


def test_accuracies_of_different_numbers_of_images_are_compared_as_shares():
    assert winner_of({"a": score(90), "b": score(46, 50)}) == "b"


@given(
    st.dictionaries(
        st.sampled_from(list(TITLES)),
        st.builds(score, st.integers(0, 100), parameters=st.integers(1, 3)),
        min_size=1,
    )
)
def test_no_arm_is_better_than_the_winner(scores):
    best = scores[winner_of(scores)]
    assert all(one.accuracy <= best.accuracy for one in scores.values())


def test_the_best_trial_goes_on_and_the_first_of_equal_ones():
    assert finalist_of(ORDER, {"fine_tuned": score(70), "scratch": score(71)}) == "scratch"
    assert finalist_of(ORDER, {"scratch": score(70), "fine_tuned_taught": score(70)}) == (
        "fine_tuned_taught"
    )


def test_without_trials_the_first_one_goes_on():
    assert finalist_of(ORDER[2:], {}) == "scratch_taught"


def test_from_scratch_is_hopeless_where_the_linear_classifier_errs_half_as_often():
    """Pixels err on 60 %: 13 and 29 % are less than half of that, 31 % are not."""
    why = why_hopeless(score(87), 0.4)
    assert why is not None and "13.0 %" in why and "60.0 %" in why
    assert why_hopeless(score(71), 0.4) is not None
    assert why_hopeless(score(69), 0.4) is None
    assert why_hopeless(score(98), 0.97) is None, "pixels know nearly as much"


def test_from_scratch_comes_first_where_pixels_say_more_than_the_start():
    assert order_of(ORDER, FROM_SCRATCH, score(84), 0.83) == list(ORDER)
    assert order_of(ORDER, FROM_SCRATCH, score(84), 0.98) == [*ORDER[2:], *ORDER[:2]]
    assert order_of(ORDER[2:], FROM_SCRATCH, None, 0.0) == list(ORDER[2:])


def test_a_teacher_that_surely_knows_less_than_the_linear_classifier_teaches_no_start():
    """Of 100 images, Wilson: 50 right is 40.4 to 59.6 %, 70 right 60.4 to 78.1 %."""
    assert why_untaught(score(70), score(50)) is not None
    assert why_untaught(score(69), score(50)) is None


def test_the_first_answer_takes_90_seconds_and_its_share_of_short_and_long_budgets():
    assert [linear_s(budget) for budget in (60, 240, 900, 7200)] == [24, 90, 90, 360]


def test_trials_take_four_percent_each_and_a_quarter_of_what_is_left_in_all():
    assert trial_s(900) == pytest.approx(36)
    assert trial_s(60) == 5
    assert num_trials(4, budget_s=900, left_s=860) == 4
    assert num_trials(4, budget_s=240, left_s=120) == 3
    assert num_trials(4, budget_s=30, left_s=20) == 0, "one alone decides nothing"
    assert num_trials(1, budget_s=900, left_s=860) == 0


def test_fine_tuning_keeps_most_of_the_size_the_head_was_fitted_at():
    """0.7 of 224 are 156.8 pixels, which whole patches of 16 make 160."""
    assert fine_tuning_side(224, 96, patch=16) == 160
    assert fine_tuning_side(224, 192, patch=16) == 192
    assert fine_tuning_side(192, 96, patch=16) == 160, "ten patches"
    assert fine_tuning_side(128, 96, patch=16) == 128
    assert fine_tuning_side(16, 16, patch=4) == 16


def test_the_finalist_gets_the_rest_but_for_the_end():
    assert final_s(900, 100) == pytest.approx(791)
    assert final_s(30, 10) == pytest.approx(19)
    assert final_s(30, 40) == 1.0


def test_arms_share_what_was_asked_and_differ_in_start_and_teacher():
    asked = {
        "data.path": "photos",
        "run.seed": 3,
        "distill.kind": "hard",
        "schedule.budget": "1m",
        "distill.teacher": "auto",
    }
    arms = list_arms(asked, start="timm:x", start_why="said", has_teacher=True)
    assert list(arms) == list(TITLES) and all(arm.why_not is None for arm in arms.values())
    assert arms["fine_tuned"].settings == {"run.seed": 3, "model.init": "timm:x"}
    assert arms["scratch_taught"].settings == {
        "run.seed": 3,
        "distill.kind": "hard",
        "model.init": "scratch",
    }


def test_arms_that_cannot_be_say_why():
    arms = list_arms({}, start=None, start_why="small images", has_teacher=False)
    assert [name for name, arm in arms.items() if arm.why_not is None] == ["scratch"]
    assert arms["linear"].why_not == "no trained start: small images"
    assert "teacher=auto" in (arms["scratch_taught"].why_not or "")

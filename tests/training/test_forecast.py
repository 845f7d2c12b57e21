"""The arithmetic of a forecast, by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from deitkit.training import forecast as forecast_module
from deitkit.training.forecast import Costs, Forecast, Work, in_order, later_seconds
from deitkit.training.forecast import needed_budget_s as needed
from deitkit.training.spending import CHOOSING, READING, STEPS, TEACHER, Spending

COSTS = Costs(step_s=0.5, teacher_step_s=0.25, evaluation_s=8.0, best_s=0.75, checkpoint_s=2.0)
WORK = Work(
    steps=100,
    batch_size=10,
    asked_steps=40,
    eval_interval=30,
    checkpoint_interval=50,
    num_models=2,
    num_val=40,
    num_pictures=16,
    num_compared=5,
)


def test_later_seconds_by_hand(monkeypatch):
    """100 steps of 0.5 s and 40 answers of 0.25 s: 60 s. Evaluations after 30, 60, 90 and 100
    steps: 4 x 8.75 s. Checkpoints after 50 and 100: 2 x 2 s. At the end one model answers 40
    images in 4 s, so a lone one in 3 x 0.1 s; 16 pictures take 3 passes each (14.4 s), and 5 single
    answers of the teacher (3 x 0.025 s) and of the student 1.875 s."""
    monkeypatch.setattr(forecast_module, "PAGE_S", 0.5)
    got = later_seconds(COSTS, WORK)
    assert got == pytest.approx(
        {
            "steps": 60.0,
            "evaluations": 35.0,
            "checkpoints": 4.0,
            "conclusion": 0.5 + 4.0 + 14.4 + 1.875,
        }
    )


@pytest.mark.parametrize(
    ("evaluation_s", "expected_s"),
    [(8.0, 5 + 2 * 22.0), (0.5, 5 + 2 * 7.0), (0.1, 5 + 2 * 6 / 0.95), (0.001, 5 + 2 * 6.02)],
    ids=["the fewest", "the fewest too", "a twentieth", "the most"],
)
def test_needed_budget_by_hand(evaluation_s, expected_s):
    """5 s pass before the first step; an epoch is 8 steps of 0.75 s, so 6 s; two evaluations at
    least, twenty at most, else a twentieth of the time; all of it may be half of what is left."""
    costs = replace(COSTS, evaluation_s=evaluation_s)
    got = needed(before_s=5.0, steps_per_epoch=8, costs=costs, share=0.5)
    assert got == pytest.approx(expected_s)


def test_parts_stand_in_the_order_they_come_and_add_up():
    seconds = in_order({STEPS: 9.0, READING: 2.0, TEACHER: 0.001, CHOOSING: 1.5})
    assert list(seconds) == [READING, CHOOSING, STEPS]
    forecast = Forecast(seconds=seconds, memory_bytes=7, rests_on=("a guess",))
    assert forecast.total_s == 12.5
    assert forecast.to_dict() == {
        "total_s": 12.5,
        "seconds": {READING: 2.0, CHOOSING: 1.5, STEPS: 9.0},
        "memory_bytes": 7,
        "rests_on": ["a guess"],
    }


def test_every_second_is_given_to_one_part(monkeypatch):
    """Began at 100; marks at 103, 107 and 108; what is expected counts as elapsed too."""
    clock = iter([103.0, 107.0, 108.0, 110.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    spending = Spending(100.0)
    assert spending.mark(READING) == 3.0
    assert spending.mark(CHOOSING) == 4.0
    spending.expect(TEACHER, 20.0)
    assert spending.mark(CHOOSING) == 1.0
    assert spending.seconds == {READING: 3.0, CHOOSING: 5.0, TEACHER: 20.0}
    assert spending.elapsed_s() == 30.0

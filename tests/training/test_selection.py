"""Which weights are kept, by hand."""

from __future__ import annotations

import pytest

from deitkit.training.selection import better_of, is_kept, num_stale, standard_error


def scores(right: int, num: int, nll: float = 1.0) -> dict[str, float]:
    return {"top1": right / num, "nll": nll, "num_images": num}


def test_standard_error_by_hand():
    """98 of 98 counts as 99 of 100: sqrt(.99 x .01 / 98) = .010051; 50 of 100 as 51 of 102: .05."""
    assert standard_error(scores(98, 98)) == pytest.approx(0.010051, abs=1e-6)
    assert standard_error(scores(50, 100)) == pytest.approx(0.05)


def test_one_image_of_a_hundred_is_luck_and_ten_are_not():
    peak = {"top1": 0.99, "peak_top1": 0.99}
    assert is_kept(scores(98, 100), peak)
    assert not is_kept(scores(89, 100), peak)
    assert not is_kept(scores(9800, 10000), peak)
    assert is_kept(scores(1, 100), {})


def test_a_slow_decline_is_not_followed():
    """What is kept is measured against the highest ever, not against the last kept."""
    best: dict[str, float] = {}
    kept = []
    for right in (90, 88, 86, 84, 82):
        new = scores(right, 100)
        kept.append(is_kept(new, best))
        if kept[-1]:
            best = new | {"peak_top1": max(new["top1"], best.get("peak_top1", 0.0))}
    assert kept == [True, True, False, False, False]


def test_of_weights_and_average_the_likelier_unless_one_is_clearly_more_accurate():
    assert better_of({"raw": scores(91, 100, 0.9), "ema": scores(90, 100, 0.5)}) == "ema"
    assert better_of({"raw": scores(91, 100, 0.4), "ema": scores(90, 100, 0.5)}) == "raw"
    assert better_of({"raw": scores(95, 100, 0.9), "ema": scores(80, 100, 0.5)}) == "raw"


def test_patience_counts_evaluations_that_are_better_in_nothing():
    """Higher accuracy, then only likelier, then neither twice; the average counts as well."""
    history = [
        {"scores": {"raw": scores(50, 100, 1.0)}},
        {"scores": {"raw": scores(60, 100, 1.2)}},
        {"scores": {"raw": scores(59, 100, 1.1), "ema": scores(58, 100, 0.9)}},
        {"scores": {"raw": scores(60, 100, 0.9), "ema": scores(10, 100, 2.0)}},
        {"scores": {"raw": scores(55, 100, 1.5)}},
    ]
    assert [num_stale(history[:n]) for n in range(6)] == [0, 0, 0, 0, 1, 2]

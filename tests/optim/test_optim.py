"""The schedule and the average: known answers of FACTS A.19 to A.21."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deitkit.optim import (
    Schedule,
    WeightAverage,
    cosine_with_warmup,
    decay_from_half_life,
    scaled_lr,
)


def test_learning_rate_follows_the_global_batch():
    assert scaled_lr(5e-4, batch_size=1024) == pytest.approx(1e-3)
    assert scaled_lr(5e-4, batch_size=768) == pytest.approx(7.5e-4)


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0, 1e-6),
        (1, 2.008e-4),
        (4, 8.002e-4),
        (5, 9.993216e-4),
        (10, 9.972883e-4),
        (75, 8.550179e-4),
        (150, 5.05e-4),
        (225, 1.549821e-4),
        (299, 1.002714e-5),
        (300, 1e-5),
        (1000, 1e-5),
    ],
)
def test_cosine_of_the_paper(t, expected):
    got = cosine_with_warmup(t, total=300, peak=1e-3, end=1e-5, warmup=5, start=1e-6)
    assert got == pytest.approx(expected, rel=1e-6)


def test_schedule_equals_timm_per_step():
    from timm.scheduler import CosineLRScheduler

    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    theirs = CosineLRScheduler(
        optimizer, t_initial=100, lr_min=1e-5, warmup_t=7, warmup_lr_init=1e-6, t_in_epochs=False
    )
    ours = Schedule(total_steps=100, warmup_steps=7, peak_lr=1e-3, end_lr=1e-5, start_lr=1e-6)
    for step in range(100):
        theirs.step_update(step)
        assert ours.lr(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_average_from_zero_to_constant_one():
    """1 - d^n: d = .99, n = 100 gives .633968."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = WeightAverage(model, decay=0.99, warmup=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for n in range(100):
        average.update(model, num_updates=n)
    assert float(average.model.weight) == pytest.approx(0.633968, abs=1e-5)


@pytest.mark.parametrize(("decay", "steps"), [(0.99996, 17_328), (0.9996, 1_733), (0.9999, 6_931)])
def test_half_lives(decay, steps):
    assert round(math.log(0.5) / math.log(decay)) == steps
    assert decay_from_half_life(steps) == pytest.approx(decay, rel=1e-6)


def test_average_warm_up_decay():
    """1 - (1 + n)^(-2/3) at the n-th update: .79782, .953891, .990007 for 10, 100, 1000."""
    average = WeightAverage(nn.Linear(1, 1), decay=1.0, warmup=True)
    for n, expected in ((10, 0.79782), (100, 0.953891), (1000, 0.990007)):
        assert average.decay_at(n - 1) == pytest.approx(expected, abs=1e-5)
    assert WeightAverage(nn.Linear(1, 1), decay=0.9, warmup=True).decay_at(10**6) == 0.9


def test_average_copies_batch_norm_statistics():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.9, warmup=True)
    model(torch.randn(8, 2))
    average.update(model, num_updates=0)
    torch.testing.assert_close(average.model.running_mean, model.running_mean)

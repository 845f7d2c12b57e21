"""Targets and losses of the labels: cross entropy and its binary sister (FACTS A.9, A.13)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from deitkit.errors import ConfigError
from deitkit.flow import StudentOutput
from deitkit.losses import (
    DISTILL_KINDS,
    LABEL_LOSSES,
    DistillationLoss,
    binary_cross_entropy,
    label_targets,
    multi_hot,
    smooth_targets,
    soft_cross_entropy,
)


def mixed(lam_B: list[float]):
    """A mix of each row with its neighbour: 0 with 1, 2 with 3."""
    lam_B1 = torch.tensor(lam_B)[:, None]
    return lambda t_BK: (
        lam_B1 * t_BK + (1 - lam_B1) * t_BK.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    )


def test_a_thousand_classes_and_zero_logits_cost_ln_2():
    """A.13: whatever the targets are."""
    logits = torch.zeros(4, 1000)
    for targets in (torch.rand(4, 1000), smooth_targets(torch.arange(4), 1000, 0.1)):
        assert binary_cross_entropy(logits, targets).item() == pytest.approx(math.log(2), rel=1e-6)


def test_binary_cross_entropy_by_hand():
    """Logits (ln 3, 0), target (1, 0): sigmoid 3/4 and 1/2, so -(ln 3/4 + ln 1/2) / 2."""
    got = binary_cross_entropy(torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert got.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2, rel=1e-6)
    turned = binary_cross_entropy(torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert turned.item() == pytest.approx(-(math.log(1 / 4) + math.log(1 / 2)) / 2, rel=1e-6)


def test_binary_cross_entropy_is_that_of_torch_also_for_half_logits_and_far_out():
    torch.manual_seed(0)
    logits, targets = 30 * torch.randn(9, 7), torch.rand(9, 7)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(binary_cross_entropy(logits, targets), expected)
    half = binary_cross_entropy(logits.bfloat16(), targets)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, binary_cross_entropy(logits.bfloat16().float(), targets))


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_its_gradient_is_the_sigmoid_less_the_target(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    binary_cross_entropy(logits, targets).backward()
    torch.testing.assert_close(logits.grad, (logits.detach().sigmoid() - targets) / 12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unmixed_targets_and_loss_are_timms(smoothing):
    from timm.loss import BinaryCrossEntropy

    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    targets = label_targets(
        labels, 5, smoothing=smoothing, label_loss="binary", mix=lambda targets: targets
    )
    expected = BinaryCrossEntropy(smoothing=smoothing)(logits, labels)
    torch.testing.assert_close(binary_cross_entropy(logits, targets), expected)


def test_mixed_targets_and_loss_are_timms_with_a_threshold_of_zero():
    from timm.loss import BinaryCrossEntropy

    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 2])
    mix = mixed([0.7, 0.3, 0.4, 0.6])
    targets = label_targets(labels, 5, smoothing=0.0, label_loss="binary", mix=mix)
    theirs = BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)
    expected = theirs(logits, mix(F.one_hot(labels, 5).float()))
    torch.testing.assert_close(binary_cross_entropy(logits, targets), expected)


def test_an_image_is_of_both_its_classes_and_of_no_other():
    """Smoothing .1 over 4 classes: on .925, off .025. Smoothed before, all would be positive."""
    labels = torch.tensor([0, 1, 2, 2, 3, 0])
    mix = mixed([0.7, 0.3, 0.5, 0.5, 1.0, 1.0])
    targets = label_targets(labels, 4, smoothing=0.1, label_loss="binary", mix=mix)
    on = torch.tensor(
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    )
    torch.testing.assert_close(targets, 0.025 + 0.9 * on)
    assert torch.equal(multi_hot(mix(smooth_targets(labels, 4, 0.0))), on.float())
    assert multi_hot(smooth_targets(labels, 4, 0.1)).all()


@given(
    lam=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    smoothing=st.floats(0, 1),
)
@settings(deadline=None)
def test_for_cross_entropy_smoothing_and_mixing_change_places(lam, smoothing):
    labels, mix = torch.tensor([0, 1, 2, 2]), mixed(lam)
    got = label_targets(labels, 5, smoothing=smoothing, label_loss="cross_entropy", mix=mix)
    mixed_first = smooth_targets(mix(F.one_hot(labels, 5).float()), 5, smoothing)
    torch.testing.assert_close(got, mixed_first)
    torch.testing.assert_close(got.sum(1), torch.ones(4))


def output_and_teacher(token: bool) -> tuple[StudentOutput, Tensor, Tensor]:
    torch.manual_seed(0)
    cls_logits = torch.randn(6, 5, requires_grad=True)
    dist_logits = torch.randn(6, 5, requires_grad=True) if token else None
    targets = smooth_targets(torch.arange(6) % 5, 5, 0.1)
    return StudentOutput(cls_logits, dist_logits), targets, torch.randn(6, 5)


TERMS = {"cross_entropy": soft_cross_entropy, "binary": binary_cross_entropy}


@pytest.mark.parametrize("label_loss", LABEL_LOSSES)
def test_both_heads_learn_the_labels_by_the_loss_that_is_named(label_loss):
    (cls_logits, dist_logits), targets, _ = output_and_teacher(token=True)
    loss = DistillationLoss("none", label_loss=label_loss)
    terms = loss(StudentOutput(cls_logits, dist_logits), targets, None)
    by_head = [TERMS[label_loss](logits, targets) for logits in (cls_logits, dist_logits)]
    torch.testing.assert_close(terms.total, sum(by_head) / 2)


@pytest.mark.parametrize("label_loss", LABEL_LOSSES)
@pytest.mark.parametrize("kind", DISTILL_KINDS)
@pytest.mark.parametrize("token", [True, False])
def test_micro_batches_of_every_label_loss_add_up(label_loss, kind, token):
    output, targets, teacher = output_and_teacher(token)
    loss = DistillationLoss(kind, weight=0.3, temperature=2.0, label_loss=label_loss)
    whole = loss(output, targets, teacher)
    parts = []
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        piece = StudentOutput(*(None if x is None else x[part] for x in output))
        parts.append(loss(piece, targets[part], teacher[part], normalizer=6))
    for name in whole._fields:
        torch.testing.assert_close(sum(getattr(p, name) for p in parts), getattr(whole, name))
    if kind != "none":
        torch.testing.assert_close(whole.label, TERMS[label_loss](output.cls_logits, targets))
        torch.testing.assert_close(whole.total, 0.7 * whole.label + 0.3 * whole.distill)


def test_the_teachers_term_does_not_change_with_the_label_loss():
    output, targets, teacher = output_and_teacher(token=True)
    terms = [
        DistillationLoss("soft", label_loss=name)(output, targets, teacher) for name in LABEL_LOSSES
    ]
    assert torch.equal(terms[0].distill, terms[1].distill)
    assert not torch.equal(terms[0].label, terms[1].label)


def test_an_unknown_label_loss_is_refused_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"LABEL_LOSS.*'bce' is not known; choose cross_entropy or binary"
    ):
        DistillationLoss("none", label_loss="bce")

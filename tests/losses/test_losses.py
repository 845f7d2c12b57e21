"""Losses with answers that can be worked out by hand (FACTS A.9 to A.12)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deitkit.errors import ConfigError
from deitkit.flow import StudentOutput
from deitkit.losses import (
    DISTILL_KINDS,
    DistillationLoss,
    hard_distillation,
    smooth_targets,
    soft_cross_entropy,
    soft_distillation,
    standardised_distillation,
)


@pytest.mark.parametrize(("num_classes", "on", "off"), [(10, 0.91, 0.01), (1000, 0.9001, 0.0001)])
def test_label_smoothing_shares_eps_over_all_classes(num_classes, on, off):
    targets = smooth_targets(torch.tensor([3]), num_classes, 0.1)
    expected = torch.full((1, num_classes), off)
    expected[0, 3] = on
    torch.testing.assert_close(targets, expected)
    one_hot = F.one_hot(torch.tensor([3]), num_classes).float()
    torch.testing.assert_close(smooth_targets(one_hot, num_classes, 0.1), expected)


def test_cross_entropy_by_hand():
    """Logits (2, 1, 0), class 0: CE .407606; with eps .1 .507606."""
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    labels = torch.tensor([0])
    plain = soft_cross_entropy(logits, smooth_targets(labels, 3, 0.0))
    smoothed = soft_cross_entropy(logits, smooth_targets(labels, 3, 0.1))
    assert plain.item() == pytest.approx(0.407606, abs=1e-6)
    assert smoothed.item() == pytest.approx(0.507606, abs=1e-6)


@given(eps=st.floats(0, 1), num_classes=st.integers(2, 50))
def test_uniform_logits_cost_ln_k_whatever_the_smoothing(eps, num_classes):
    targets = smooth_targets(torch.tensor([1, 0]), num_classes, eps)
    torch.testing.assert_close(targets.sum(1), torch.ones(2))
    loss = soft_cross_entropy(torch.zeros(2, num_classes), targets)
    assert loss.item() == pytest.approx(math.log(num_classes), rel=1e-5)


def test_cross_entropy_is_that_of_torch():
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 7), torch.randint(7, (9,))
    ours = soft_cross_entropy(logits, smooth_targets(labels, 7, 0.1))
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=0.1))
    mixed = torch.randn(9, 7).softmax(1)
    torch.testing.assert_close(soft_cross_entropy(logits, mixed), F.cross_entropy(logits, mixed))


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(4, 1000).bfloat16()
    targets = smooth_targets(torch.arange(4), 1000, 0.1)
    loss = soft_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, soft_cross_entropy(logits.float(), targets))
    kl = soft_distillation(logits, -logits, temperature=2.0)
    torch.testing.assert_close(
        kl, soft_distillation(logits.float(), -logits.float(), temperature=2)
    )


def test_soft_distillation_is_the_kl_divergence_by_hand():
    """Teacher (3/4, 1/4), student (1/4, 3/4): KL = (ln 3) / 2."""
    student = torch.tensor([[0.0, math.log(3)]])
    teacher = torch.tensor([[math.log(3), 0.0]])
    got = soft_distillation(student, teacher, temperature=1.0)
    torch.testing.assert_close(got, torch.tensor(math.log(3) / 2))


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "expected"),
    [
        ([0, 0], [math.log(3), 0], 1.0, 0.130812),
        ([0, 0], [math.log(3), 0], 2.0, 0.145363),
        ([0, 0], [math.log(3), 0], 3.0, 0.148377),
        ([math.log(3), 0], [0, 0], 1.0, 0.143841),  # The other direction is another number.
        ([2, 1, 0], [0, 3, 1], 1.0, 0.955524),
        ([2, 1, 0], [0, 3, 1], 3.0, 1.364889),
    ],
)
def test_soft_distillation_known_values(student, teacher, temperature, expected):
    student, teacher = (torch.tensor([row], dtype=torch.float64) for row in (student, teacher))
    got = soft_distillation(student, teacher, temperature=temperature)
    assert got.item() == pytest.approx(expected, abs=2e-6)


def test_the_divisor_of_the_authors_is_images_times_classes():
    """Three classes: 1.364889 / 3 = .454963."""
    student, teacher = torch.tensor([[2.0, 1, 0]]), torch.tensor([[0.0, 3, 1]])
    got = soft_distillation(student, teacher, temperature=3.0, reduction="numel")
    assert got.item() == pytest.approx(0.454963, abs=1e-6)


def test_soft_distillation_agrees_with_torch_on_a_batch():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    expected = 4 * F.kl_div(
        (student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean"
    )
    torch.testing.assert_close(soft_distillation(student, teacher, temperature=2.0), expected)


def test_at_high_temperature_the_gradient_is_the_difference_of_centred_logits():
    """d / ds of tau^2 KL -> ((s - mean s) - (t - mean t)) / K for large tau."""
    student = torch.tensor([[2.0, 1, 0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 3, 1]], dtype=torch.float64)
    soft_distillation(student, teacher, temperature=1e4).backward()
    centred = (student - student.mean()) - (teacher - teacher.mean())
    torch.testing.assert_close(student.grad, centred.detach() / 3, atol=1e-4, rtol=1e-3)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 10), shift=st.floats(-5, 5))
def test_kl_is_not_negative_zero_for_a_copy_and_blind_to_a_shift(seed, temperature, shift):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    kl = soft_distillation(student, teacher, temperature=temperature)
    assert kl >= 0
    shifted = soft_distillation(student + shift, teacher, temperature=temperature)
    torch.testing.assert_close(shifted, kl)
    copy = soft_distillation(teacher, teacher, temperature=temperature)
    assert copy.item() == pytest.approx(0, abs=1e-9)


def test_hard_distillation_is_cross_entropy_with_the_decision():
    """Teacher says class 1: -log softmax(2, 1, 0)_1 = 1.407606."""
    student = torch.tensor([[2.0, 1.0, 0.0]])
    got = hard_distillation(student, torch.tensor([[0.0, 3.0, 1.0]]))
    assert got.item() == pytest.approx(1.407606, abs=1e-6)


def output_and_teacher(num_images=6, num_classes=5, token=True):
    torch.manual_seed(0)
    cls_logits = torch.randn(num_images, num_classes, requires_grad=True)
    dist_logits = torch.randn(num_images, num_classes, requires_grad=True) if token else None
    teacher = torch.randn(num_images, num_classes, requires_grad=True)
    targets = smooth_targets(torch.arange(num_images) % num_classes, num_classes, 0.1)
    return StudentOutput(cls_logits, dist_logits), targets, teacher


def test_hard_with_token_is_the_equation_of_the_paper():
    """.5 CE(class head, y) + .5 CE(distillation head, y_t)."""
    output, targets, teacher = output_and_teacher()
    terms = DistillationLoss("hard", weight=0.5)(output, targets, teacher)
    label = F.cross_entropy(output.cls_logits, targets)
    distill = F.cross_entropy(output.dist_logits, teacher.argmax(1))
    torch.testing.assert_close(terms.label, label)
    torch.testing.assert_close(terms.distill, distill)
    torch.testing.assert_close(terms.total, 0.5 * label + 0.5 * distill)


def test_each_head_hears_only_its_own_term():
    output, targets, teacher = output_and_teacher()
    terms = DistillationLoss("soft", weight=0.1)(output, targets, teacher)
    label_grads = torch.autograd.grad(
        terms.label, [output.cls_logits, output.dist_logits], allow_unused=True, retain_graph=True
    )
    assert label_grads[0].abs().max() > 0 and label_grads[1] is None
    distill_grads = torch.autograd.grad(
        terms.distill, [output.cls_logits, output.dist_logits], allow_unused=True
    )
    assert distill_grads[0] is None and distill_grads[1].abs().max() > 0


def test_without_the_token_both_terms_are_on_the_class_head():
    """Equation 2: (1 - .1) CE + .1 tau^2 KL, tau 3."""
    output, targets, teacher = output_and_teacher(token=False)
    terms = DistillationLoss("soft", weight=0.1, temperature=3.0)(output, targets, teacher)
    expected = 0.9 * soft_cross_entropy(output.cls_logits, targets)
    expected = expected + 0.1 * soft_distillation(output.cls_logits, teacher, temperature=3.0)
    torch.testing.assert_close(terms.total, expected)


def test_without_a_teacher_both_heads_learn_the_labels_equally():
    output, targets, _ = output_and_teacher()
    terms = DistillationLoss("none", weight=0.7)(output, targets, None)
    by_head = [F.cross_entropy(logits, targets) for logits in output]
    torch.testing.assert_close(terms.total, (by_head[0] + by_head[1]) / 2)
    torch.testing.assert_close(terms.total, terms.label)
    assert terms.distill == 0
    single, targets, _ = output_and_teacher(token=False)
    terms = DistillationLoss("none")(single, targets, None)
    torch.testing.assert_close(terms.total, F.cross_entropy(single.cls_logits, targets))


@pytest.mark.parametrize("kind", DISTILL_KINDS)
@pytest.mark.parametrize("reduction", ["batchmean", "numel"])
@pytest.mark.parametrize("token", [True, False])
def test_every_kind_keeps_the_contract(kind, reduction, token):
    """Finite scalars; uneven micro-batches add up to the big batch; no gradient to the teacher."""
    loss = DistillationLoss(kind, weight=0.3, temperature=2.0, reduction=reduction)
    output, targets, teacher = output_and_teacher(token=token)
    whole = loss(output, targets, teacher)
    assert all(term.shape == () and term.isfinite() for term in whole)
    parts = []
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        piece = StudentOutput(*(None if x is None else x[part] for x in output))
        parts.append(loss(piece, targets[part], teacher[part], normalizer=6))
    for name in whole._fields:
        torch.testing.assert_close(sum(getattr(p, name) for p in parts), getattr(whole, name))
    whole.total.backward()
    assert teacher.grad is None
    assert all(logits.grad.abs().max() > 0 for logits in output if logits is not None)


def test_a_copy_of_the_teacher_costs_nothing():
    output, targets, _ = output_and_teacher()
    terms = DistillationLoss("soft")(output, targets, output.dist_logits.detach().clone())
    assert terms.distill.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sfot"}, "'sfot' is not known; choose soft or standardised or hard or none"),
        ({"kind": "soft", "reduction": "sum"}, "choose batchmean or numel"),
        ({"kind": "soft", "weight": 1.5}, "1.5 is not in 0 to 1"),
        ({"kind": "soft", "weight": math.nan}, "weight"),
        ({"kind": "soft", "temperature": 0.0}, "temperature"),
        ({"kind": "soft", "temperature": math.nan}, "temperature"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DistillationLoss(**options)


def test_a_teacher_that_is_missing_or_of_other_classes_is_named():
    output, targets, teacher = output_and_teacher()
    with pytest.raises(ConfigError, match="needs a teacher"):
        DistillationLoss("soft")(output, targets, None)
    with pytest.raises(ConfigError, match=r"TEACHER_CLASSES.*\[6, 4\].*\[6, 5\]"):
        DistillationLoss("hard")(output, targets, teacher[:, :4])


@given(scale=st.floats(0.1, 20), shift=st.floats(-50, 50), own=st.booleans())
def test_standardised_kind_ignores_scale_and_shift_of_either_logits(scale, shift, own):
    """FACTS A.12: z-scores do not change under a positive affine change."""
    student = torch.tensor([[2.0, 1.0, 0.0], [0.5, -1.0, 3.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 3.0, 1.0], [1.0, 1.5, 2.5]], dtype=torch.float64)
    changed = (student * scale + shift, teacher) if own else (student, teacher * scale + shift)
    got = standardised_distillation(*changed, temperature=2.0)
    torch.testing.assert_close(got, standardised_distillation(student, teacher, temperature=2.0))


def test_standardised_kind_by_hand_and_with_two_classes():
    """z of (2, 1, 0) is (a, 0, -a), of (0, 3, 1) (-4, 5, -1) / sqrt(14), a = sqrt(3/2)."""
    a = math.sqrt(1.5)
    student = torch.tensor([[2.0, 1.0, 0.0]])
    teacher = torch.tensor([[0.0, 3.0, 1.0]])
    expected = soft_distillation(
        torch.tensor([[a, 0.0, -a]]),
        torch.tensor([[-4.0, 5.0, -1.0]]) / math.sqrt(14),
        temperature=1.0,
    )
    got = standardised_distillation(student, teacher, temperature=1.0)
    torch.testing.assert_close(got, expected)
    two = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
    assert standardised_distillation(*two, temperature=1.0).item() == pytest.approx(
        0.130812, abs=1e-6
    )
    flat = torch.zeros(1, 3, requires_grad=True)
    standardised_distillation(flat, teacher, temperature=1.0).backward()
    assert torch.isfinite(flat.grad).all()


def test_logit_adjustment_by_hand():
    """Logits 0 and priors 3/4, 1/4: the loss of class 1 is ln 4 instead of ln 2; the gradient
    pulls it up three times as much as class 0; the teacher's term stays as it is."""
    shift_K = torch.tensor([0.75, 0.25]).log()
    plain = DistillationLoss("soft", weight=0.5, temperature=1.0)
    shifted = DistillationLoss("soft", weight=0.5, temperature=1.0, label_shift_K=shift_K)
    logits = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[math.log(3), 0.0]])
    for label, wanted in ((1, math.log(4)), (0, math.log(4 / 3))):
        target = torch.nn.functional.one_hot(torch.tensor([label]), 2).float()
        terms = shifted(StudentOutput(logits, None), target, teacher)
        torch.testing.assert_close(terms.label, torch.tensor(wanted))
        (pull,) = torch.autograd.grad(terms.label, logits, retain_graph=True)
        torch.testing.assert_close(pull[0, label], torch.tensor(-0.75 if label else -0.25))
        was = plain(StudentOutput(logits, None), target, teacher)
        torch.testing.assert_close(terms.distill, was.distill, rtol=0, atol=0)


def test_binary_loss_has_no_priors():
    with pytest.raises(ConfigError, match=r"use data\.balance=sampling"):
        DistillationLoss("none", label_loss="binary", label_shift_K=torch.zeros(2))

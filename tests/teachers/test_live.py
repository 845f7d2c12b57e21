"""A live teacher: frozen, asked in blocks of one size, columns by name, its own pixels."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from deitkit.augmentation import ViewPolicy
from deitkit.flow import StudentOutput
from deitkit.models import create_model
from deitkit.teachers import LiveTeacher, NoTeacher
from deitkit.teachers.outputs import fused_logits
from deitkit.training.step import train_step
from tests.training.toy import ConvTeacher, bits, live_teacher, toy_images, toy_model, toy_run

MIXED = ViewPolicy(scale=(0.3, 1.0), mixup=0.8, cutmix=1.0)


def some_images(num: int, side: int = 16) -> torch.Tensor:
    return torch.rand((num, 3, side, side), generator=torch.Generator().manual_seed(num))


def distilled_run(teacher: LiveTeacher):
    return toy_run(
        toy_images(21),
        batch_size=8,
        policy=MIXED,
        model=toy_model(distilled=True),
        teacher=teacher,
        kind="soft",
    )


def test_training_leaves_the_teacher_as_it_was():
    """A.11: eval mode, no gradient, batch-norm statistics and weights the same bits."""
    teacher = live_teacher(ConvTeacher().train())
    before = bits(teacher.classifier.module.state_dict())
    state, parts, steps = distilled_run(teacher)
    for step in range(5):
        train_step(state, steps[step], parts)
        assert not any(module.training for module in teacher.classifier.module.modules())
    assert bits(teacher.classifier.module.state_dict()) == before
    parameters = teacher.classifier.module.parameters()
    assert all(p.grad is None and not p.requires_grad for p in parameters)
    assert not teacher(some_images(2)).requires_grad


def test_a_teacher_in_training_mode_is_our_mistake():
    teacher = live_teacher(ConvTeacher())
    teacher.classifier.module.train()
    with pytest.raises(AssertionError, match="training mode"):
        teacher(some_images(2))


def test_the_teacher_sees_the_very_pixels_of_the_student():
    """A.11: bit-identical mixed images, whatever the micro-batch (no normalisation on either)."""
    inner = ConvTeacher()
    teacher = live_teacher(inner, mean=(0.0,) * 3, std=(1.0,) * 3, block_size=64)
    state, parts, steps = distilled_run(teacher)
    parts = copy.copy(parts)
    object.__setattr__(parts, "device_batch_size", 4)
    student_saw: list[torch.Tensor] = []

    class Listening(nn.Module):
        def forward(self, images, noise):
            student_saw.append(images * torch.tensor(parts.std).view(3, 1, 1))
            return state.model(images, noise)

    object.__setattr__(parts, "student", Listening())
    object.__setattr__(parts, "mean", (0.0,) * 3)
    object.__setattr__(parts, "std", (1.0,) * 3)
    batch = steps[1]
    assert (batch.views.lam_B < 1).any()
    train_step(state, batch, parts)
    assert len(student_saw) == len(inner.seen) == -(-len(batch) // 4)
    for mine, theirs in zip(student_saw, inner.seen, strict=True):
        assert torch.equal(mine, theirs[: len(mine)])
        assert not theirs[len(mine) :].any()


def test_another_size_shows_the_same_view_mixed_at_that_size():
    """The teacher's image is the student's view at 32 pixels; shrunk again it is about the same."""
    inner = ConvTeacher()
    teacher = live_teacher(inner, side=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    state, parts, steps = distilled_run(teacher)
    batch = steps[0]
    assert tuple(batch.teacher_images_BCHW.shape[2:]) == (32, 32)
    images, _ = parts.mix(batch)
    teacher_images = parts.teacher_images(batch, images)
    shrunk = nn.functional.avg_pool2d(teacher_images, 2)
    apart = (shrunk - images).abs().mean(dim=(1, 2, 3))
    mismatched = (shrunk.roll(1, 0) - images).abs().mean(dim=(1, 2, 3))
    assert (apart < mismatched).all()
    train_step(state, batch, parts)
    assert tuple(inner.seen[0].shape[2:]) == (32, 32)


@pytest.mark.parametrize("model_name", ["conv", "transformer"])
@pytest.mark.parametrize("num", [1, 7, 64, 65])
def test_an_images_logits_are_the_same_bits_in_any_batch(num, model_name):
    """K14: blocks of one fixed size. One at a time, all at once, and in another order."""
    torch.manual_seed(0)
    inner = (
        ConvTeacher()
        if model_name == "conv"
        else create_model("deit_nano_distilled_patch4_16", num_classes=3, depth=2)
    )
    teacher = live_teacher(inner)
    images = some_images(num)
    together = teacher(images)
    alone = torch.cat([teacher(images[i : i + 1]) for i in range(num)])
    assert together.numpy().tobytes() == alone.numpy().tobytes()
    reverse = teacher(images.flip(0)).flip(0)
    assert together.numpy().tobytes() == reverse.numpy().tobytes()


def test_logits_are_those_of_the_plain_module():
    """Normalised with the teacher's own numbers, against the module itself."""
    inner = ConvTeacher()
    teacher = live_teacher(inner, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    images = some_images(9)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    with torch.no_grad():
        expected = inner.eval()((images - mean) / std)
    torch.testing.assert_close(teacher(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [[0, 1, 2], [2, 0, 1], [4, 1], [3]])
def test_columns_are_picked_by_the_users_classes(columns):
    """A teacher of five classes for a user of some, in any order."""
    inner = ConvTeacher(num_classes=5)
    all_classes = live_teacher(inner, class_columns=range(5))(some_images(4))
    picked = live_teacher(inner, class_columns=columns)(some_images(4))
    assert picked.shape == (4, len(columns))
    for k, column in enumerate(columns):
        assert torch.equal(picked[:, k], all_classes[:, column])


def test_heads_are_fused_by_their_mean():
    cls, dist = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, -1.0]])
    assert fused_logits(StudentOutput(cls, dist)).tolist() == [[2.0, 2.0]]
    assert torch.equal(fused_logits(StudentOutput(cls, None)), cls)
    assert fused_logits(cls) is cls


def test_no_teacher_says_nothing_and_wants_nothing():
    assert NoTeacher()(some_images(2)) is None
    assert NoTeacher().image_size is None


def test_a_teacher_that_is_the_student_teaches_nothing_new():
    """A.24: the KL to a copy of oneself is 0, and its hard choice is one's own."""
    model = toy_model(embed_dim=24).eval()
    state, parts, steps = toy_run(
        toy_images(12),
        batch_size=12,
        policy=ViewPolicy(mixup=0.8),
        model=model,
        teacher=live_teacher(copy.deepcopy(model), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
        kind="soft",
    )
    done = train_step(state, steps[0], parts)
    assert float(done.losses.distill) == pytest.approx(0.0, abs=1e-6)
    assert float(done.losses.label) > 0.1
    assert np.isfinite(done.loss)

"""The teacher's numbers before training, and teacher and student side by side after it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deitkit.api import teacher_report
from deitkit.api.teacher_report import compare_with_student, right_on_views, teacher_facts
from deitkit.augmentation import ViewPolicy
from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.evaluation.paired import Share
from deitkit.teachers import Classifier
from deitkit.training.step import train_step
from deitkit.training.teacher_ready import ReadyTeacher, prepare_teacher
from tests.training.toy import (
    MEAN,
    SIDE,
    STD,
    ConvTeacher,
    live_teacher,
    toy_images,
    toy_model,
    toy_run,
)

NAMES = ("a", "b", "c")
CENTRES = (74.5, 114.5, 154.5)
"""Of the levels of the toy's classes: 40 k to 149 + 40 k."""
ERASING = {"erasing_fill": "pixel", "mean": MEAN, "std": STD}
SPEC = Preprocessing(image_size=(SIDE, SIDE), crop_ratio=1.0, mean=MEAN, std=STD)


@pytest.fixture(autouse=True)
def blocks_of_64(monkeypatch):
    """The numbers here are of one block size, as teachers have on a device."""
    monkeypatch.setattr("deitkit.teachers.live.CPU_BLOCK_SIZE", 64)


class Brightness(nn.Module):
    """An image's mean level told apart by the centres of three classes, "c" first."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor(CENTRES[2:] + CENTRES[:2]))

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        levels_B1 = 255 * images_BCHW.mean(dim=(1, 2, 3))[:, None]
        return -((levels_B1 - self.centres) ** 2) / 100


def ready_teacher(val, *, side: int = SIDE, **more) -> ReadyTeacher:
    classifier = Classifier.from_callable(
        Brightness(),
        name="mine",
        version="1",
        image_size=side,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        class_names=("c", "a", "b"),
    )
    settings = {"channels": 3, "seed": 0, "max_seconds": None} | more
    return prepare_teacher(classifier, val, val, **settings)


def facts_of(ready: ReadyTeacher, val, steps, **more):
    settings = {
        "name": "timm:mine",
        "live": ready.live(autocast_dtype=None),
        "steps": steps,
        "val_labels_N": val.labels,
        **ERASING,
        "student_step_s": 0.2,
        "teacher_step_s": 0.3,
        "num_epochs": 60.0,
        "num_view_epochs": 20,
        "until": 1.0,
        "storage": "disk",
        "storage_reason": "2 MB",
        "notes": ("a note",),
    }
    return teacher_facts(ready, **(settings | more))


def test_facts_by_hand():
    """Four validation labels are wrong, and the "b" of the training images; mixing, which would
    blur brightness, is off; 1 + 0.3 / 0.2 x 20 / 60 = 1.5."""
    val = toy_images(40, seed=3)
    val.labels[:4] = (val.labels[:4] + 1) % 3
    train = toy_images(30, seed=4)
    train.labels[train.labels == 1] = 2
    _, _, steps = toy_run(train, batch_size=8, policy=ViewPolicy(crop="none", flip=1.0, mixup=0.8))
    told = []
    ready = ready_teacher(val)
    facts = facts_of(ready, val, steps, progress=lambda *done: told.append(done))
    assert facts.clean == Share(36, 40)
    counts = np.bincount(val.labels, minlength=3)
    wrong = np.bincount(val.labels[:4], minlength=3)
    assert list(facts.per_class) == [
        Share(int(n - w), int(n)) for n, w in zip(counts, wrong, strict=True)
    ]
    num_b = int((toy_images(30, seed=4).labels == 1).sum())
    assert facts.views == Share(30 - num_b, 30)
    assert told == [(30, 30)]
    assert facts.num_params == 3 and facts.image_size == (SIDE, SIDE)
    assert facts.classes == "all 3 classes matched by name"
    assert facts.notes == (*ready.notes, "a note")
    said = json.loads(json.dumps(facts.to_dict()))
    assert said["cost"]["cached_factor"] == pytest.approx(1.5)
    assert (said["name"], said["storage"], said["storage_reason"]) == ("timm:mine", "disk", "2 MB")


def test_facts_speak_of_the_images_that_were_asked_about():
    """With no time 256 of 300, whose labels are taken; the others' do not count."""
    val = toy_images(300, seed=5)
    ready = ready_teacher(val, max_seconds=0.0)
    _, _, steps = toy_run(toy_images(9), batch_size=8)
    facts = facts_of(ready, val, steps, num_view_epochs=None)
    assert facts.clean == Share(256, 256)
    assert sum(share.num_images for share in facts.per_class) == 256
    assert facts.to_dict()["cost"]["cached_factor"] is None
    assert "256 of 300" in facts.notes[0]


def test_views_are_the_very_pixels_of_training_but_for_the_mix():
    """Crops, flips, colours, erased boxes, at the teacher's own size: bit for bit as trained."""
    policy = {"scale": (0.3, 1.0), "color_jitter": 0.3, "erasing": 1.0, "auto_augment": "trivial"}
    images = toy_images(70, one_size=False)
    inner = ConvTeacher()
    teacher = live_teacher(inner, mean=(0.0,) * 3, std=(1.0,) * 3, side=24)
    state, parts, steps = toy_run(
        images,
        batch_size=32,
        policy=ViewPolicy(**policy),
        model=toy_model(distilled=True),
        teacher=teacher,
        kind="soft",
    )
    trained = {}
    for step in range(steps.steps_per_epoch):
        batch = steps[step]
        train_step(state, batch, parts)
        seen = inner.seen[-1][: len(batch)]
        trained |= dict(zip(batch.views.sample_ids_B.tolist(), seen, strict=True))
    inner.seen.clear()
    mixed = ViewPolicy(**policy, mixup=0.8, cutmix=1.0)
    _, _, steps = toy_run(images, batch_size=16, policy=mixed, teacher=teacher)
    assert right_on_views(teacher, steps, **ERASING, max_images=66).num_images == 66
    seen = torch.cat(inner.seen)
    lowest = np.sort(images.sample_ids)[:66]
    assert seen.shape == (128, 3, 24, 24)
    shown = torch.cat([seen[:64], seen[64:66]])
    for sample_id, pixels in zip(lowest.tolist(), shown, strict=True):
        assert torch.equal(pixels, trained[sample_id])


def test_views_of_images_without_a_label_are_not_asked_about():
    images = toy_images(20)
    _, _, steps = toy_run(images, batch_size=8, policy=ViewPolicy(crop="none"))
    teacher = ready_teacher(images).live(autocast_dtype=None)
    images.labels[5:] = -1
    assert right_on_views(teacher, steps, **ERASING) == Share(5, 5)
    images.labels[:] = -1
    assert right_on_views(teacher, steps, **ERASING) is None


def scripted_clock(monkeypatch, seconds: list[float]) -> None:
    """The clock is read at the start, and then before, between and after each pair of runs."""
    ticks = iter(np.cumsum([0.0, *seconds]).tolist())
    monkeypatch.setattr(teacher_report, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))


def comparison(ready: ReadyTeacher, val, student_NK: np.ndarray, **more):
    settings = {
        "teacher_name": "mine",
        "student": toy_model(),
        "student_name": "runs/a",
        "student_spec": SPEC,
        "student_NK": student_NK,
        "val": val,
        "device": torch.device("cpu"),
    }
    return compare_with_student(ready, **(settings | more))


def one_hot(decisions_N: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[decisions_N]


def test_a_smaller_faster_better_teacher_is_to_be_used(monkeypatch):
    """3 parameters; 2 ms against 5 ms, the median of three rounds; all right against 30 of 60."""
    val = toy_images(60, seed=6)
    ready = ready_teacher(val)
    decisions = val.labels.copy()
    decisions[::2] = (decisions[::2] + 1) % 3
    monkeypatch.setattr(teacher_report, "NUM_LATENCY_RUNS", 3)
    scripted_clock(monkeypatch, [0, 2e-3, 9e-3, 0, 1e-3, 5e-3, 0, 7e-3, 4e-3])
    student = toy_model().train()
    found = comparison(ready, val, one_hot(decisions), student=student)
    assert found.advice.startswith("use your teacher: it is more accurate, smaller and faster")
    assert found.teacher.latency_ms == pytest.approx(2.0)
    assert found.student.latency_ms == pytest.approx(5.0)
    assert found.teacher.num_params == 3
    assert found.student.num_params == sum(p.numel() for p in student.parameters())
    assert (found.gain.share, found.gain.other) == (Share(30, 60), Share(60, 60))
    assert found.gain.difference == -0.5
    assert found.measured_on == "all 60 validation images"
    assert "threads; one image at a time, from the decoded image" in found.latency_on
    assert student.training
    json.dumps(found.to_dict())


def test_a_slower_teacher_is_not_advised(monkeypatch):
    val = toy_images(60, seed=6)
    decisions = (val.labels + 1) % 3
    monkeypatch.setattr(teacher_report, "NUM_LATENCY_RUNS", 1)
    scripted_clock(monkeypatch, [0, 6e-3, 5e-3])
    assert comparison(ready_teacher(val), val, one_hot(decisions)).advice is None


def test_slow_networks_are_run_a_few_times_only(monkeypatch):
    """Six seconds a round: after two of them 12 have gone, and a third is made all the same."""
    val = toy_images(9, seed=6)
    scripted_clock(monkeypatch, [0, 1.0, 5.0] * 4)
    student, calls = toy_model(), []
    student.register_forward_hook(lambda *_: calls.append(1))
    found = comparison(ready_teacher(val), val, one_hot(val.labels), student=student)
    assert found.teacher.latency_ms == pytest.approx(1000.0)
    assert len(calls) == 1 + 3


def test_the_images_are_those_the_teacher_was_asked_about(monkeypatch):
    """256 of 300; the student is right where val_indices says, whatever the others' labels."""
    val = toy_images(300, seed=5)
    ready = ready_teacher(val, max_seconds=0.0)
    found = comparison(ready, val, one_hot(val.labels[ready.val_indices]))
    assert found.gain.share == found.gain.other == Share(256, 256)
    assert found.measured_on.startswith("the 256 of 300 validation images")


@pytest.mark.parametrize("distilled", [False, True])
def test_each_reads_one_image_in_its_own_way(monkeypatch, distilled):
    """Decoded once; each at its own size and normalised by itself; the student in eval mode."""
    val = toy_images(6, one_size=False)
    ready = ready_teacher(val, side=24)
    seen = {"teacher": [], "student": []}
    student = toy_model(distilled=distilled).train()

    def listen(who):
        def hook(module, inputs):
            seen[who].append((inputs[0].clone(), module.training))

        return hook

    ready.classifier.module.register_forward_pre_hook(listen("teacher"))
    student.register_forward_pre_hook(listen("student"))
    decoded = []
    image = val.image
    monkeypatch.setattr(val, "image", lambda index: decoded.append(index) or image(index))
    comparison(ready, val, one_hot(val.labels), student=student)
    assert decoded == [0]
    for who, spec in (
        (
            "teacher",
            Preprocessing(image_size=(24, 24), crop_ratio=1.0, mean=(0.0,) * 3, std=(1.0,) * 3),
        ),
        ("student", SPEC),
    ):
        assert len(seen[who]) == 1 + teacher_report.NUM_LATENCY_RUNS
        for pixels, is_training in seen[who]:
            assert not is_training
            np.testing.assert_array_equal(pixels, preprocess(image(0), spec)[None])

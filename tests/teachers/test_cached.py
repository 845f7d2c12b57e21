"""A cached teacher: the live one's bits, asked once for each mixed view of real batches."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy
from deitkit.augmentation.view_words import record_ids, view_words
from deitkit.errors import CheckpointError, ModelFileError
from deitkit.teachers.cache import TeacherCache
from deitkit.teachers.cached import CachedTeacher
from deitkit.training.loader import TrainSteps
from deitkit.training.sizes import one_size
from tests.training.toy import (
    MEAN,
    NUM_CLASSES,
    SIDE,
    STD,
    ConvTeacher,
    live_teacher,
    toy_images,
    toy_run,
)

CPU = torch.device("cpu")
POLICY = ViewPolicy(
    mixup=0.8, cutmix=1.0, mix_prob=0.8, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.4
)
IMAGES = toy_images(21)
DECODING = {"channels": 3, "background": [255, 255, 255]}
NUM_EPOCHS = 2


class CountingTeacher:
    """Asks a live teacher and counts the images."""

    def __init__(self, module: torch.nn.Module | None = None) -> None:
        self.live = live_teacher(module or ConvTeacher())
        self.image_size = self.live.image_size
        self.num_asked = 0

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.num_asked += len(images_BCHW)
        return self.live(images_BCHW)


def opened(root: Path | None, images=IMAGES, **changed: Any) -> TeacherCache:
    given_ = {
        "teacher_digest": "a",
        "teacher_name": "conv",
        "class_names": images.class_names,
        "policy_digest": "b",
        "sample_ids": record_ids(images.sample_ids),
        "num_view_epochs": NUM_EPOCHS,
        "mode": "memory" if root is None else "disk",
    }
    return TeacherCache.open(root, **(given_ | changed))


def run(
    teacher: CachedTeacher,
    images=IMAGES,
    *,
    batch_size: int = 8,
    student_side: int = SIDE,
    repeats: int = 1,
    stop_after: int | None = None,
) -> list[bytes]:
    """What the teacher says in each step of two epochs, as training asks it."""
    _, parts, _ = toy_run(images, batch_size=batch_size, policy=POLICY, teacher=teacher.live.live)
    steps = TrainSteps(
        images,
        policy=POLICY,
        view_seed=0,
        batch_size=batch_size,
        sizes=one_size((student_side, student_side)),
        teacher_size=(SIDE, SIDE),
        rank=0,
        world_size=1,
        repeats=repeats,
        op_fill=parts.op_fill,
    )
    ids_N = record_ids(images.sample_ids)
    said = []
    for step in range(NUM_EPOCHS * steps.steps_per_epoch)[:stop_after]:
        batch = steps[step]
        words_B = view_words(
            batch.views,
            teacher_size=(SIDE, SIDE),
            erasing_fill="pixel",
            mean=MEAN,
            std=STD,
            op_fill=parts.op_fill,
            decoding=DECODING,
        )
        logits = teacher(
            lambda batch=batch: parts.teacher_images(batch, parts.mix(batch)[0]),
            view_epoch=batch.epoch,
            repeat_B=batch.views.repeat_B,
            sample_ids_B=ids_N[steps.indices(step)],
            words_B=words_B,
        )
        assert logits.dtype == torch.float32 and logits.shape == (len(batch), NUM_CLASSES)
        said.append(logits.numpy().tobytes())
    return said


def live_run(dtype: str = "float32", **more: Any) -> list[bytes]:
    """The same without any stored answer."""
    with opened(None, dtype=dtype) as cache:
        return run(CachedTeacher(CountingTeacher(), cache, device=CPU), **more)


def test_k14_float32_gives_the_live_teachers_bits(tmp_path):
    """K14: against the live teacher itself, when it is filled and when it is read."""
    live = CountingTeacher()
    direct: list[bytes] = []

    class Listening(CountingTeacher):
        def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            direct.append(live(images_BCHW).numpy().tobytes())
            return super().__call__(images_BCHW)

    with opened(tmp_path, dtype="float32") as cache:
        teacher = CachedTeacher(Listening(), cache, device=CPU)
        first = run(teacher)
        assert first == direct and len(first) == 6
        assert (teacher.num_hits, teacher.num_misses) == (0, 42)
        assert run(teacher) == first
        assert (teacher.num_hits, teacher.num_misses) == (42, 42)
        assert teacher.live.num_asked == 42


@pytest.mark.parametrize("top_k", [None, 1])
def test_k14_float16_says_the_same_fresh_and_replayed(tmp_path, top_k):
    """K14: within the stored precision of the live teacher, and the same bits every time."""
    with opened(tmp_path, top_k=top_k) as cache:
        teacher = CachedTeacher(CountingTeacher(), cache, device=CPU)
        first, second = run(teacher), run(teacher)
    assert first == second
    said, live = (np.frombuffer(b"".join(r), np.float32) for r in (first, live_run()))
    assert not np.array_equal(said, live)
    if top_k is None:
        np.testing.assert_allclose(said, live, rtol=2.0**-11, atol=2.0**-25)


def first_answers(images=IMAGES):
    """Arguments of one call: the first twelve views of an epoch."""
    rng = np.random.default_rng(0)
    ids = record_ids(images.sample_ids)[:12]
    return torch.from_numpy(rng.random((12, 3, SIDE, SIDE), dtype=np.float32)), {
        "view_epoch": 0,
        "repeat_B": np.zeros(12, np.int64),
        "sample_ids_B": ids,
        "words_B": ids + np.uint64(1),
    }


@given(known=st.lists(st.sampled_from(range(12)), unique=True))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_k14_only_what_is_missing_is_asked(known):
    """K14: whatever is there already, the answer has the same bits."""
    images, views = first_answers()
    with opened(None, dtype="float32") as cache:
        teacher = CachedTeacher(CountingTeacher(), cache, device=CPU)
        if known:
            part = {k: v[known] if isinstance(v, np.ndarray) else v for k, v in views.items()}
            teacher(images[known], **part)
        asked = teacher.live.num_asked
        logits = teacher(images, **views)
        assert teacher.live.num_asked - asked == 12 - len(known)
        expected = live_teacher(ConvTeacher())(images)
        assert logits.numpy().tobytes() == expected.numpy().tobytes()


def test_images_are_not_made_where_nothing_is_missing():
    images, views = first_answers()
    with opened(None) as cache:
        teacher = CachedTeacher(CountingTeacher(), cache, device=CPU)
        assert teacher.image_size == (SIDE, SIDE)
        first = teacher(lambda: images, **views)

        def fail() -> torch.Tensor:
            raise AssertionError("nothing is missing")

        assert torch.equal(teacher(fail, **views), first)
        assert not first.requires_grad


@pytest.mark.parametrize(
    "other",
    [{"batch_size": 5}, {"batch_size": 21}, {"student_side": 24}, {"student_side": 32}],
    ids=str,
)
def test_k05_other_students_read_all(tmp_path, other):
    """K05: another batch size or student's image size: 100 % hits.

    Weight seed, temperature and loss never come near the cache.
    """
    with opened(tmp_path) as cache:
        run(CachedTeacher(CountingTeacher(), cache, device=CPU))
    with opened(tmp_path) as cache:
        teacher = CachedTeacher(CountingTeacher(), cache, device=CPU)
        run(teacher, **other)
        assert (teacher.num_hits, teacher.num_misses) == (42, 0)


def test_copies_of_an_image_are_stored_each(tmp_path):
    """Files of one content have other partners: with a place for each, all are hits."""
    rows = np.array([*range(12), 0, 1, 1, 3, 3, 3])
    images = IMAGES.subset(rows, "train")
    with opened(tmp_path, images) as cache:
        teacher = CachedTeacher(CountingTeacher(), cache, device=CPU)
        run(teacher, images)
        assert teacher.num_misses == 36 and cache.is_complete(1)
        run(teacher, images)
        assert teacher.num_misses == 36
        shuffled = IMAGES.subset(np.random.default_rng(0).permutation(rows), "train")
        run(teacher, shuffled)
        assert teacher.num_misses == 36, "K06: the order of the files does not matter"


def test_repeated_augmentation_is_stored_whole(tmp_path):
    """Two epochs show each image once, twice; the second time all of it is read."""
    with opened(tmp_path, num_repeats=2) as cache:
        teacher = CachedTeacher(CountingTeacher(), cache, device=CPU)
        first = run(teacher, repeats=2)
        assert teacher.num_misses == 42 and cache.is_complete(0) and cache.is_complete(1)
        assert run(teacher, repeats=2) == first
        assert teacher.num_misses == 42


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_k16_removed_mid_run_and_begun_anew_says_the_same(tmp_path, dtype):
    """K16: CACHE_GONE; the run resumes at an earlier step with another cache, SAME."""
    uninterrupted = live_run(dtype)
    with opened(tmp_path, dtype=dtype) as cache:
        teacher = CachedTeacher(CountingTeacher(), cache, device=CPU)
        before = run(teacher, stop_after=4)
        shutil.rmtree(tmp_path)
        with pytest.raises(CheckpointError, match="CACHE_GONE"):
            run(teacher)
    assert before == uninterrupted[:4]
    with opened(tmp_path, dtype=dtype) as cache:
        assert run(CachedTeacher(CountingTeacher(), cache, device=CPU)) == uninterrupted


def test_k16_interrupted_and_resumed_within_the_stored_steps(tmp_path):
    """What is read after a resume is what the uninterrupted run had: rounded the first time too."""
    with opened(tmp_path) as cache:
        run(CachedTeacher(CountingTeacher(), cache, device=CPU), stop_after=3)
    with opened(tmp_path) as cache:
        assert run(CachedTeacher(CountingTeacher(), cache, device=CPU)) == live_run("float16")


class Broken(torch.nn.Module):
    """Finite where it is looked at first, then not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, NUM_CLASSES)
        self.broken = False

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        logits = self.linear(images_BCHW.mean(dim=(2, 3)))
        return torch.log(-logits.abs()) if self.broken else logits


def test_k11_a_teacher_that_breaks_ends_the_run_before_anything_is_stored(tmp_path):
    """K11."""
    module = Broken()
    images, views = first_answers()
    with opened(tmp_path) as cache:
        teacher = CachedTeacher(CountingTeacher(module), cache, device=CPU)
        module.broken = True
        with pytest.raises(ModelFileError, match=r"\[TEACHER_OUTPUT\] conv"):
            teacher(images, **views)
        assert cache.coverage(0) == 0.0
        module.broken = False
        assert torch.isfinite(teacher(images, **views)).all()

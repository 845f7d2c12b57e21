"""The documented format read from the outside: examples/read_teacher_cache.py, run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from deitkit.augmentation import ViewPolicy
from deitkit.augmentation.view_words import (
    policy_digest,
    record_ids,
    view_settings,
    view_words,
)
from deitkit.data import open_dataset
from deitkit.teachers.cache import TeacherCache
from deitkit.teachers.cached import CachedTeacher
from deitkit.training.loader import TrainSteps
from deitkit.training.sizes import one_size
from tests.teachers.toy_cache import answers_to
from tests.training.toy import SIDE, ConvTeacher, live_teacher, toy_run, write_photos

POLICY = ViewPolicy(mixup=0.8, cutmix=1.0)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "read_teacher_cache.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("read_teacher_cache", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numpy_and_json_read_what_was_stored(tmp_path, example, dtype):
    """Also logits beyond float16's range, and nothing where nothing was written."""
    ids = np.array([2**63 + 1, 5, 9], dtype=np.uint64)
    with TeacherCache.open(
        tmp_path,
        teacher_digest="a",
        teacher_name="t",
        class_names=("x", "y"),
        policy_digest="b",
        sample_ids=ids,
        num_view_epochs=1,
        dtype=dtype,
    ) as cache:
        logits = 1e6 * answers_to(ids[:2], 2)
        cache.write(0, np.zeros(2, int), ids[:2], ids[:2], logits)
        expected = cache.stored(logits)
        assert cache.folder is not None
        found = example.stored_logits(cache.folder, 0)
    assert sorted(found) == [5, 2**63 + 1]
    for sample_id, row in zip(ids.tolist(), expected, strict=False):
        np.testing.assert_array_equal(found[sample_id], row)


def test_timms_model_learns_from_it(tmp_path, example, photos):
    """The views it renders are those the teacher was asked for, and the loss falls."""
    images = open_dataset(photos).train
    settings = view_settings(
        POLICY,
        view_seed=0,
        aspect=1.0,
        teacher_size=(SIDE, SIDE),
        erasing_fill="pixel",
        decoding={"channels": 3},
    )
    rules = {"teacher_size": (SIDE, SIDE), "erasing_fill": "pixel", "decoding": {"channels": 3}}
    rules |= {"mean": (0.5,) * 3, "std": (0.5,) * 3, "op_fill": 0}
    live = live_teacher(ConvTeacher())
    _, parts, _ = toy_run(images, batch_size=len(images), policy=POLICY, teacher=live)
    steps = TrainSteps(
        images,
        policy=POLICY,
        view_seed=0,
        batch_size=len(images),
        sizes=one_size((SIDE, SIDE)),
        teacher_size=(SIDE, SIDE),
        rank=0,
        world_size=1,
    )
    with TeacherCache.open(
        tmp_path,
        teacher_digest="a",
        teacher_name="conv",
        class_names=images.class_names,
        policy_digest=policy_digest(settings),
        sample_ids=record_ids(images.sample_ids),
        num_view_epochs=1,
        about=settings,
    ) as cache:
        batch = steps[0]
        said = CachedTeacher(live, cache, device=torch.device("cpu"))(
            lambda: parts.teacher_images(batch, parts.mix(batch)[0]),
            view_epoch=0,
            repeat_B=batch.views.repeat_B,
            sample_ids_B=record_ids(images.sample_ids)[steps.indices(0)],
            words_B=view_words(batch.views, **rules),
        )
        assert cache.is_complete(0) and cache.folder is not None
        folder = cache.folder
    assert json.loads((folder / "header.json").read_text())["about"] == settings

    torch.manual_seed(0)
    student = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=3, img_size=SIDE, patch_size=4, depth=2
    )
    student.train()
    student.set_distilled_training(True)
    shown: list[torch.Tensor] = []
    student.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    losses = [loss for _ in range(12) for loss in example.train(folder, str(photos), student, SIDE)]
    with torch.no_grad():
        again = live(shown[0] * 0.5 + 0.5)
    torch.testing.assert_close(again, said, rtol=2e-3, atol=2e-3)
    assert losses[-1] < 0.7 * losses[0]

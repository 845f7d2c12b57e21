"""Agreement, tokens and gains by hand, and on a student that really had a teacher."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deitkit.augmentation import ViewPolicy
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.diagnostics import (
    diagnose,
    head_agreement,
    token_cosines,
    token_gain,
)
from deitkit.evaluation.logits import HeadLogits, collect_logits, prepare_batch
from deitkit.evaluation.paired import Share
from deitkit.models import ImageModel
from deitkit.training.step import train_step
from tests.training.toy import MEAN, STD, ConvTeacher, live_teacher, toy_images, toy_model, toy_run

SPEC = Preprocessing(image_size=(16, 16), crop_ratio=1.0, mean=MEAN, std=STD)
CPU = torch.device("cpu")


def heads(cls: list[list[float]], dist: list[list[float]] | None) -> HeadLogits:
    return HeadLogits(
        indices=np.arange(len(cls)),
        cls_NK=np.array(cls),
        dist_NK=None if dist is None else np.array(dist),
    )


# The teacher says 0, 1, 0, 1.
TEACHER = np.array([[9.0, 1], [0, 1], [2, 1], [1, 2]])
CLS = [[0.0, 1], [0, 1], [1, 0], [1, 0]]  # 1, 1, 0, 0: agrees on two
DIST = [[3.0, 0], [0, 1], [1, 0], [3, 0]]  # 0, 1, 0, 0: on three
# Their mean says 0, 1, 0, 0; with all weight on the class head, 1, 1, 0, 0.


def test_agreement_by_hand():
    found = head_agreement(TEACHER, heads(CLS, DIST), fusion="mean")
    assert found == {"fused": Share(3, 4), "cls": Share(2, 4), "dist": Share(3, 4)}
    found = head_agreement(TEACHER, heads(CLS, DIST), fusion="fitted", weight=0.0)
    assert found["fused"] == found["cls"]
    assert head_agreement(TEACHER, heads(CLS, None), fusion="mean") == {"fused": Share(2, 4)}


def test_the_heads_agreements_are_compared_image_by_image():
    gain = token_gain(TEACHER, heads(CLS, DIST))
    assert (gain.share, gain.other, gain.difference) == (Share(3, 4), Share(2, 4), 0.25)
    assert gain.p_value == 1.0
    assert token_gain(TEACHER, heads(CLS, None)) is None


def test_a_copy_of_the_teacher_agrees_always():
    """A.24."""
    teacher = np.random.default_rng(0).normal(size=(50, 7))
    found = head_agreement(
        teacher,
        HeadLogits(indices=np.arange(50), cls_NK=teacher, dist_NK=teacher),
        fusion="softmax",
    )
    assert all(share == Share(50, 50) for share in found.values())


def test_diagnostics_as_json():
    labels, other = np.array([0, 1, 0, 0]), np.array([1, 1, 1, 1])
    found = diagnose(
        heads(CLS, DIST), TEACHER, labels, ("a", "b"), fusion="mean", other_decisions_N=other
    )
    said = json.loads(json.dumps(found.to_dict()))
    assert said["agreement"]["dist"]["value"] == 0.75
    # 0, 1, 0, 0 are all right; the other run has one of four: class a gained 3 of 3, class b none.
    assert (said["gain"]["share"]["value"], said["gain"]["difference"]) == (1.0, 0.75)
    assert [row["gain"]["difference"] for row in said["class_gains"]] == [1.0, 0.0]
    assert [row["name"] for row in said["class_gains"]] == ["a", "b"]
    # The other run says 1, 1, 1, 1, the teacher 0, 1, 0, 1.
    assert found.agreement["other"] == Share(2, 4)
    untaught = diagnose(
        heads(CLS, DIST), None, labels, ("a", "b"), fusion="mean", other_decisions_N=other
    )
    assert (untaught.agreement, untaught.token_gain) == ({}, None)
    assert (untaught.gain, untaught.class_gains) == (found.gain, found.class_gains)
    alone = diagnose(heads(CLS, None), TEACHER, labels, ("a", "b"), fusion="mean").to_dict()
    for key in ("token_gain", "tokens", "gain", "class_gains"):
        assert alone[key] is None, key


@pytest.fixture(scope="module")
def images():
    return toy_images(70, seed=2)


def plain_cosines(model: ImageModel, images, indices: list[int]) -> tuple[float, float]:
    """With numpy, image by image."""
    batch = torch.from_numpy(prepare_batch(images, np.array(indices), SPEC))
    with torch.no_grad():
        entering = (
            model.cls_token[0, 0] + model.pos_embed[0, 0],
            model.dist_token[0, 0] + model.pos_embed[0, 1],
        )
        leaving = model.eval().forward_features(batch).numpy()

    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / np.sqrt((u @ u) * (v @ v)))

    return cosine(*(token.numpy() for token in entering)), float(
        np.mean([cosine(tokens[0], tokens[1]) for tokens in leaving])
    )


@pytest.mark.parametrize("max_images", [256, 7])
def test_cosines_against_numpy(images, max_images):
    model = toy_model(distilled=True, drop_path=0.5).train()
    with torch.no_grad():
        for token in (model.cls_token, model.dist_token):
            token.normal_(generator=torch.Generator().manual_seed(token.numel()))
        model.dist_token.add_(torch.randn(24, generator=torch.Generator().manual_seed(5)))
    found = token_cosines(model, images, SPEC, device=CPU, max_images=max_images)
    assert model.training, "it comes back in its mode"
    chosen = list(range(70)) if max_images > 70 else [0, 10, 20, 30, 40, 50, 60]
    assert found.num_images == len(chosen)
    assert (found.input, found.output) == pytest.approx(
        plain_cosines(model, images, chosen), abs=1e-5
    )
    assert -1 < found.input < 0.99


def test_two_equal_tokens_leave_equal(images):
    """The control of the paper: two class tokens alike are one."""
    model = toy_model(distilled=True)
    with torch.no_grad():
        model.dist_token.copy_(model.cls_token)
        model.pos_embed[:, 1] = model.pos_embed[:, 0]
    found = token_cosines(model, images, SPEC, device=CPU)
    assert (found.input, found.output) == pytest.approx((1.0, 1.0), abs=1e-6)


def test_one_token_has_no_cosine_and_stop_is_heard(images):
    assert token_cosines(toy_model(), images, SPEC, device=CPU) is None
    distilled = toy_model(distilled=True)
    nothing = images.subset(np.arange(0), "none")
    assert token_cosines(distilled, nothing, SPEC, device=CPU) is None
    assert token_cosines(distilled, images, SPEC, device=CPU, stop=lambda: True) is None


def test_a_teacher_is_heard_by_the_distillation_token():
    """A.25, A.26: a teacher that says otherwise than a quarter of the labels is followed by the
    distillation head, the labels by the class head. The tokens enter unlike and leave alike."""
    images = toy_images(64, seed=1)
    model = toy_model(distilled=True, depth=2)
    teacher = live_teacher(ConvTeacher())
    state, parts, steps = toy_run(
        images,
        batch_size=32,
        policy=ViewPolicy(crop="padded"),
        model=model,
        teacher=teacher,
        kind="hard",
        total_steps=60,
        peak_lr=3e-3,
    )
    before = token_cosines(model, images, SPEC, device=CPU)
    for step in range(60):
        train_step(state, steps[step], parts)
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float() / 255
    teacher_NK = teacher(pixels).numpy()
    logits = collect_logits(model, images, SPEC, device=CPU)
    after = token_cosines(model, images, SPEC, device=CPU)
    found = diagnose(
        logits, teacher_NK, images.labels, images.class_names, fusion="mean", tokens=after
    )
    assert found.token_gain.difference > 0.1 and found.token_gain.p_value < 0.01
    assert found.agreement["dist"].value > 0.95
    assert (logits.cls_NK.argmax(axis=1) == images.labels).mean() > 0.95
    assert abs(before.input) < 0.3
    assert 0.5 < found.tokens.output < 0.999

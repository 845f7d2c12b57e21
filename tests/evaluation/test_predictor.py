"""A bundle that answers: the same numbers from evaluate, predict and plain torch."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation import predictor as predictor_module
from deitkit.evaluation.diagnostics import token_cosines
from deitkit.evaluation.evaluation import OtherAnswers
from deitkit.evaluation.logits import prepare_batch
from deitkit.evaluation.predictor import Predictor
from tests.training.toy import toy_images, toy_model

SPEC = Preprocessing(image_size=(16, 16), crop_ratio=1.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
NUM = 70


def make_bundle(*, distilled: bool = True, **settings) -> Bundle:
    model = toy_model(distilled=distilled, seed=4).eval()
    pixels = torch.from_numpy(prepare_batch(toy_images(50, seed=8), np.arange(50), SPEC))
    with torch.no_grad():
        # Heads with opinions, and different ones, on all three classes.
        for logits, head in zip(model(pixels), (model.head, model.head_dist), strict=True):
            if head is not None:
                head.bias -= 200 * logits.mean(dim=0)
                head.weight *= 200
    return Bundle(
        model_config=model.config,
        class_names=("a", "b", "c"),
        preprocessing=SPEC,
        provenance={},
        state_dict=model.state_dict(),
        **settings,
    )


@pytest.fixture(scope="module")
def images():
    return toy_images(NUM, seed=3)


def plain_probabilities(bundle: Bundle, images) -> dict[str, np.ndarray]:
    """With torch alone: images of the model's size need no resizing, only normalising."""
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(SPEC.mean).view(3, 1, 1), torch.tensor(SPEC.std).view(3, 1, 1)
    with torch.no_grad():
        cls, dist = bundle.build_model()((pixels - mean) / std)
    heads = {"cls": cls}
    if dist is not None:
        heads |= {"dist": dist, "mean": (cls + dist) / 2}
    found = {name: (z / bundle.temperature).softmax(1).numpy() for name, z in heads.items()}
    if dist is not None:
        t, w = bundle.temperature, bundle.fusion_weight
        if w is not None:
            found["fitted"] = (((1 - w) * cls + w * dist) / t).softmax(1).numpy()
        found["softmax"] = (((cls / t).softmax(1) + (dist / t).softmax(1)) / 2).numpy()
    return found


@pytest.mark.parametrize(
    ("fusion", "temperature"),
    [("mean", 1.0), ("mean", 2.5), ("softmax", 0.7), ("dist", 1.0), ("fitted", 1.5)],
)
def test_evaluate_and_predict_are_plain_torch(images, fusion, temperature):
    weight = 0.2 if fusion == "fitted" else None
    bundle = make_bundle(fusion=fusion, temperature=temperature, fusion_weight=weight)
    predictor = Predictor(bundle, device=torch.device("cpu"))
    expected = plain_probabilities(bundle, images)
    pictures = [(f"picture {i}", images.image(i)) for i in range(NUM)]
    predictions = [prediction for prediction, _ in predictor.predict(iter(pictures))]
    got = np.stack([p.probabilities for p in predictions])
    np.testing.assert_allclose(got, expected[fusion], atol=2e-6)
    best = expected[fusion].argmax(axis=1)
    assert [p.class_name for p in predictions] == ["abc"[k] for k in best]
    assert [p.source for p in predictions] == [name for name, _ in pictures]
    assert [p.probability for p in predictions] == pytest.approx(
        expected[fusion].max(axis=1), abs=2e-6
    )

    evaluation = predictor.evaluate(images, source="toys")
    assert list(evaluation.heads) == ["fused", "cls", "dist"]
    for name, kind in (("fused", fusion), ("cls", "cls"), ("dist", "dist")):
        right = expected[kind].argmax(axis=1) == images.labels
        assert evaluation.heads[name].top1 == right.mean()
        own = expected[kind][np.arange(NUM), images.labels]
        assert evaluation.heads[name].nll == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert evaluation.accuracy == (best == images.labels).mean()
    assert len(set(best)) == 3 and 0 < evaluation.accuracy < 1
    said = json.loads(json.dumps(evaluation.to_dict()))
    assert (said["data"], said["fusion"]) == ("toys", fusion)


def test_a_model_with_one_head_reports_one(images):
    bundle = make_bundle(distilled=False, fusion="mean")
    evaluation = Predictor(bundle, device=torch.device("cpu")).evaluate(images, source="x")
    assert list(evaluation.heads) == ["fused"]
    right = plain_probabilities(bundle, images)["cls"].argmax(axis=1) == images.labels
    assert evaluation.accuracy == right.mean()


@pytest.mark.parametrize("fusion", ["mean", "fitted"])
def test_diagnostics_are_of_the_same_logits(images, fusion, monkeypatch):
    """The heads are asked once; the fused ones decide as the bundle's fusion has it."""
    asked = []
    collect = predictor_module.collect_logits

    def counted(*args, **options):
        asked.append(args)
        return collect(*args, **options)

    monkeypatch.setattr(predictor_module, "collect_logits", counted)
    bundle = make_bundle(fusion=fusion, fusion_weight=0.9 if fusion == "fitted" else None)
    predictor = Predictor(bundle, device=torch.device("cpu"))
    expected = plain_probabilities(bundle, images)
    teacher_NK = np.log(expected[fusion])
    decisions_N = np.random.default_rng(0).integers(0, 3, NUM)
    others = OtherAnswers(teacher_NK=teacher_NK, decisions_N=decisions_N, said=("who",))
    evaluation = predictor.evaluate(images, source="toys", others=others)
    assert len(asked) == 1
    found = evaluation.diagnostics
    for head, kind in (("fused", fusion), ("cls", "cls"), ("dist", "dist")):
        agrees = expected[kind].argmax(axis=1) == teacher_NK.argmax(axis=1)
        assert found.agreement[head].num_right == agrees.sum()
        assert agrees.all() == (head == "fused")
    agrees = decisions_N == teacher_NK.argmax(axis=1)
    assert found.agreement["other"].num_right == agrees.sum()
    right = (expected[fusion].argmax(axis=1) == images.labels).mean()
    other_right = (decisions_N == images.labels).mean()
    assert found.gain.difference == pytest.approx(right - other_right)
    assert found.tokens == token_cosines(predictor.model, images, SPEC, device=torch.device("cpu"))
    said = json.loads(json.dumps(evaluation.to_dict()))
    assert said["asked"] == ["who"]
    assert said["diagnostics"] == json.loads(json.dumps(found.to_dict()))


def test_nothing_to_diagnose(images):
    """Without a distillation token, teacher or other run; the tokens alone where there are two."""
    plain = Predictor(make_bundle(distilled=False), device=torch.device("cpu"))
    evaluation = plain.evaluate(images, source="x")
    assert evaluation.diagnostics is None and evaluation.to_dict()["diagnostics"] is None
    distilled = Predictor(make_bundle(), device=torch.device("cpu"))
    found = distilled.evaluate(images, source="x").diagnostics
    assert found.tokens is not None and found.tokens.num_images == NUM
    assert (found.agreement, found.token_gain, found.gain) == ({}, None, None)


@pytest.mark.parametrize("fusion", ["mean", "softmax", "dist"])
def test_fused_logits_are_what_predict_says(images, fusion):
    bundle = make_bundle(fusion=fusion, temperature=2.0)
    predictor = Predictor(bundle, device=torch.device("cpu"))
    logits = torch.from_numpy(predictor.fused_logits(images))
    np.testing.assert_allclose(
        logits.softmax(dim=1).numpy(), plain_probabilities(bundle, images)[fusion], atol=2e-6
    )


def test_embeddings_are_what_the_heads_read(images):
    """The mean of both tokens; the head applied to a one-token model's vector is its logits."""
    bundle = make_bundle(distilled=False)
    predictor = Predictor(bundle, device=torch.device("cpu"))
    pictures = [("x", images.image(i)) for i in range(5)]
    found = list(predictor.predict(iter(pictures), embeddings=True))
    model = bundle.build_model()
    vectors = torch.from_numpy(np.stack([vector for _, vector in found]))
    with torch.no_grad():
        probabilities = model.head(vectors).softmax(dim=1).numpy()
    got = np.stack([prediction.probabilities for prediction, _ in found])
    np.testing.assert_allclose(got, probabilities, atol=1e-6)
    assert all(vector is None for _, vector in predictor.predict(iter(pictures)))


@pytest.mark.parametrize("num", [0, 1, 64, 65])
def test_every_picture_gets_one_answer_in_order(images, num):
    predictor = Predictor(make_bundle(), device=torch.device("cpu"))
    pictures = [(str(i), images.image(i)) for i in range(num)]
    assert [p.source for p, _ in predictor.predict(iter(pictures))] == [str(i) for i in range(num)]


def test_answers_come_before_the_last_picture_is_read(images):
    """A million pictures are not all in memory: after 64 the first answers come."""
    predictor = Predictor(make_bundle(), device=torch.device("cpu"))
    read: list[int] = []

    def pictures():
        for i in range(NUM):
            read.append(i)
            yield str(i), images.image(i)

    next(iter(predictor.predict(pictures())))
    assert len(read) == 64


def test_an_evaluation_is_frozen(images):
    evaluation = Predictor(make_bundle(), device=torch.device("cpu")).evaluate(images, source="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluation.source = "y"

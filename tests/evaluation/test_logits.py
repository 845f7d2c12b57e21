"""Fusing two heads by hand, and collecting logits: each image once, in any share of ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deitkit.data import ImageSet
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.logits import collect_logits, fuse, prepare_batch
from deitkit.evaluation.metrics import softmax
from deitkit.models import ImageModel
from tests.training.toy import toy_images, toy_model

SPEC = Preprocessing(image_size=(16, 16), crop_ratio=1.0, mean=(0.4, 0.5, 0.6))
CPU = torch.device("cpu")


def test_mean_of_logits_and_of_probabilities_can_disagree():
    """A.4: heads (0, 3, -9) and (2, -2, 2).

    The logits' mean is (1, 1/2, -7/2), so class 0. The heads' probabilities, e^z over their sum,
    are (0.047, 0.953, 0.000) and (0.495, 0.009, 0.495): the mean (0.271, 0.481, 0.248) says 1.
    """
    cls, dist = np.array([[0.0, 3.0, -9.0]]), np.array([[2.0, -2.0, 2.0]])
    mean = fuse(cls, dist, fusion="mean")
    np.testing.assert_allclose(mean, [[1.0, 0.5, -3.5]])
    fused = fuse(cls, dist, fusion="softmax")
    np.testing.assert_allclose(np.exp(fused), [[0.2715, 0.4808, 0.2478]], atol=1e-4)
    assert (mean.argmax(), fused.argmax()) == (0, 1)


def test_one_head_alone():
    cls, dist = np.array([[1.0, 2.0]]), np.array([[5.0, 4.0]])
    np.testing.assert_array_equal(fuse(cls, dist, fusion="cls"), cls)
    np.testing.assert_array_equal(fuse(cls, dist, fusion="dist"), dist)
    for fusion in ("mean", "softmax", "fitted", "cls", "dist"):
        np.testing.assert_array_equal(fuse(cls, None, fusion=fusion), cls)


def test_a_weight_between_the_heads_by_hand():
    """A quarter of (5, 4) and three of (1, 2), divided by 2."""
    cls, dist = np.array([[1.0, 2.0]]), np.array([[5.0, 4.0]])
    fused = fuse(cls, dist, fusion="fitted", weight=0.25, temperature=2.0)
    np.testing.assert_array_equal(fused, [[1.0, 1.25]])
    for weight, fusion in ((0.0, "cls"), (0.5, "mean"), (1.0, "dist")):
        expected = fuse(cls, dist, fusion=fusion)
        np.testing.assert_array_equal(fuse(cls, dist, fusion="fitted", weight=weight), expected)
    for weight in (None, -0.1, 1.1, math.nan):
        with pytest.raises(AssertionError):
            fuse(cls, dist, fusion="fitted", weight=weight)


def test_temperature_divides_each_head_before_they_are_fused():
    """T = 2: logits (0, 2 ln 3) are (1/4, 3/4); after the fusion it would be something else."""
    cls, dist = np.array([[0.0, 2 * math.log(3)]]), np.array([[0.0, 0.0]])
    fused = fuse(cls, dist, fusion="softmax", temperature=2.0)
    np.testing.assert_allclose(np.exp(fused), [[3 / 8, 5 / 8]])
    np.testing.assert_allclose(
        fuse(cls, dist, fusion="mean", temperature=2.0), [[0.0, math.log(3) / 2]]
    )
    np.testing.assert_allclose(
        softmax(fuse(cls, None, fusion="mean", temperature=2.0)), [[0.25, 0.75]]
    )


def test_an_unknown_fusion_is_named():
    with pytest.raises(ValueError, match="mean, softmax, fitted, cls, dist, not 'max'"):
        fuse(np.zeros((1, 2)), np.zeros((1, 2)), fusion="max")


@given(hnp.arrays(np.float64, (5, 3), elements=st.floats(-200, 200)))
def test_fusing_a_head_with_itself_changes_no_probability(logits):
    for fusion in ("mean", "softmax"):
        fused = softmax(fuse(logits, logits, fusion=fusion))
        np.testing.assert_allclose(fused, softmax(logits), atol=1e-12)


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return toy_model(distilled=True, drop_path=0.5)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return toy_images(131, one_size=False)


def test_logits_are_those_of_single_images(model, images):
    """Blocks, their size and what else is in them change nothing but the last bits."""
    found = collect_logits(model, images, SPEC, device=CPU, embeddings=True)
    assert found.indices.tolist() == list(range(131))
    batch = torch.from_numpy(prepare_batch(images, np.arange(131), SPEC))
    with torch.no_grad():
        expected = model.eval().embed(batch).numpy()
    np.testing.assert_allclose(found.embeddings_ND, expected, atol=1e-5)
    for i in (0, 63, 64, 130):
        one = collect_logits(model, images.subset(np.array([i]), "one"), SPEC, device=CPU)
        np.testing.assert_allclose(found.cls_NK[i], one.cls_NK[0], atol=1e-5)
        np.testing.assert_allclose(found.dist_NK[i], one.dist_NK[0], atol=1e-5)


@pytest.mark.parametrize("world_size", [1, 2, 3, 200])
def test_ranks_share_the_images_without_copies(model, images, world_size):
    """T38: 131 images over 2, 3 or 200 ranks; gathered they are each there once, in order."""
    whole = collect_logits(model, images, SPEC, device=CPU)
    shares = [
        collect_logits(model, images, SPEC, device=CPU, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    fields = iter(("indices", "cls_NK", "dist_NK"))
    gathered = shares[0].gathered(
        lambda rows: (lambda name: np.concatenate([getattr(s, name) for s in shares]))(next(fields))
    )
    assert gathered.indices.tolist() == list(range(131))
    np.testing.assert_allclose(gathered.cls_NK, whole.cls_NK, atol=1e-5)
    np.testing.assert_allclose(gathered.dist_NK, whole.dist_NK, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_in_its_mode(model, images, training):
    model.train(training)
    first = collect_logits(model, images, SPEC, device=CPU)
    assert model.training is training
    second = collect_logits(model, images, SPEC, device=CPU)
    assert np.array_equal(first.cls_NK, second.cls_NK)  # no path was dropped
    assert collect_logits(model, images, SPEC, device=CPU, stop=lambda: True) is None
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_stop_is_asked_between_blocks(model, images):
    asked = iter([False, True])
    told: list[tuple[int, int]] = []
    found = collect_logits(
        model,
        images,
        SPEC,
        device=CPU,
        stop=lambda: next(asked),
        progress=lambda done, total: told.append((done, total)),
    )
    assert found is None
    assert told == [(64, 131)]


def test_a_failing_image_leaves_the_mode_as_it_was(model, images):
    model.train()
    with pytest.raises(ZeroDivisionError):
        collect_logits(model, images, SPEC, device=CPU, stop=lambda: bool(1 / 0))
    assert model.training

"""A linear classifier on frozen features answers exactly as the regression on them does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deitkit.data import ImageSet, open_dataset
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.logits import collect_logits, prepare_batch
from deitkit.models import create_model
from deitkit.teachers.refit import fit_head
from deitkit.training.linear import LOOSE, NUM_FOLDS, TIGHT, fit_linear, put_heads

CPU = torch.device("cpu")
SPEC = Preprocessing(image_size=(16, 16), crop_ratio=1.0, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """60 pictures of noise in three classes that differ in one channel."""
    chance = np.random.default_rng(0)
    pairs = []
    for number in range(60):
        picture = chance.integers(0, 150, (16, 16, 3)).astype(np.uint8)
        picture[..., number % 3] += 60
        pairs.append((picture, f"class {number % 3}"))
    return open_dataset(pairs, val_fraction=0.1).train


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("deit_nano_patch4_16", {"depth": 1}),
        ("deit_nano_distilled_patch4_16", {"depth": 1}),
        ("small_cnn", {"image_size": 16}),
    ],
)
def test_answers_are_those_of_logistic_regression_on_the_features(images, name, own):
    """Features [N, D] taken here with hooks of our own; of both tokens side by side [N, 2 D]."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **own)
    frozen = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("head")}
    head = fit_linear(model, images, SPEC, device=CPU, seed=0)
    heard: list[torch.Tensor] = []
    layers = [part for key, part in model.named_modules() if key in ("head", "head_dist")]
    for layer in layers:
        layer.register_forward_hook(lambda layer, given, out: heard.append(given[0]))
    with torch.no_grad():
        model(torch.from_numpy(prepare_batch(images, np.arange(len(images)), SPEC)))
    features_ND = torch.cat(heard, dim=1)
    same = {"num_folds": NUM_FOLDS, "seed": 0, "loose": LOOSE, "tight": TIGHT}
    rows = np.argsort(images.sample_ids, kind="stable")
    wanted = fit_head(features_ND[rows], torch.from_numpy(images.labels[rows]), 3, **same)
    assert head.l2 == wanted.l2 and head.cv_accuracy == wanted.cv_accuracy
    expected_NK = features_ND @ wanted.weight_KD.T + wanted.bias_K
    logits = collect_logits(model, images, SPEC, device=CPU)
    assert logits is not None
    np.testing.assert_allclose(logits.fused("mean"), expected_NK, atol=1e-3)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in frozen.items())


def test_two_heads_answer_as_one_by_hand():
    """W = (1 2 | 3), b = 4 on x = (1, 1 | 2): 13. The heads say 2 (1 + 2) + 4 = 10 and
    2 * 3 * 2 + 4 = 16, whose mean is 13."""
    layers: list[nn.Module] = [nn.Linear(2, 1), nn.Linear(1, 1)]
    put_heads(layers, torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([4.0]))
    first = layers[0](torch.tensor([1.0, 1.0]))
    second = layers[1](torch.tensor([2.0]))
    assert (first.item(), second.item()) == (10.0, 16.0)

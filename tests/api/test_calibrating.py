"""The fitted weight lands in the bundle, and whoever predicts uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deitkit.api.calibrating import calibrate_bundle
from deitkit.artifacts.bundle import Bundle, load_bundle, save_bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.fusion import fit_fusion
from deitkit.evaluation.logits import collect_logits
from deitkit.evaluation.predictor import Predictor
from deitkit.runtime.world import World
from tests.training.toy import SIDE, toy_images, toy_model

CPU = torch.device("cpu")


def saved(folder, model):
    bundle = Bundle(
        model_config=model.config,
        class_names=["a", "b", "c"],
        preprocessing=Preprocessing(
            image_size=(SIDE, SIDE),
            resize="squash",
            crop_ratio=1.0,
            channels=3,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
        ),
        fusion="mean",
        temperature=1.0,
        provenance={"steps": 7},
        state_dict=model.state_dict(),
    )
    save_bundle(folder, bundle)
    return bundle


def test_a_head_that_knows_nothing_gets_no_weight(tmp_path):
    """The class head is trained, the distillation head is loud noise: the likeliest weight of the
    latter is near 0, and `Predictor` answers as the class head does."""
    images = toy_images(90, seed=3)
    model = toy_model(distilled=True)
    with torch.no_grad():
        model.head_dist.weight.normal_(std=30.0)
    before = saved(tmp_path / "best", model)
    logits = collect_logits(model, images, before.preprocessing, device=CPU)
    # Labels that the class head gets right.
    images.labels[:] = logits.cls_NK.argmax(axis=1)
    expected = fit_fusion(logits.cls_NK, logits.dist_NK, images.labels)
    calibrated = calibrate_bundle(tmp_path / "best", images, world=World(), fits_fusion=True)
    fitted = calibrated.fusion
    assert fitted == expected and fitted.weight < 0.2
    bundle = load_bundle(tmp_path / "best")
    assert (bundle.fusion, bundle.fusion_weight) == ("fitted", fitted.weight)
    assert bundle.provenance == {
        "steps": 7,
        "fusion": fitted.to_dict(),
        "calibration": calibrated.to_dict(),
    }
    assert bundle.temperature == calibrated.temperature.temperature != 1, "labels it always hits"
    for key, value in before.state_dict.items():
        assert torch.equal(bundle.state_dict[key], value)
    evaluation = Predictor(bundle, device=CPU).evaluate(images, source="toy")
    fused = (1 - fitted.weight) * logits.cls_NK + fitted.weight * logits.dist_NK
    assert evaluation.accuracy == pytest.approx(np.mean(fused.argmax(axis=1) == images.labels))


def test_a_second_time_gives_the_same_bytes(tmp_path):
    """K: a kill between bundle and result.json is made good by doing it again."""
    images = toy_images(90, seed=3)
    saved(tmp_path / "best", toy_model())
    files = []
    for _ in range(2):
        calibrated = calibrate_bundle(tmp_path / "best", images, world=World(), fits_fusion=True)
        assert calibrated.fusion is None, "one head"
        files.append({path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()})
    assert files[0] == files[1]

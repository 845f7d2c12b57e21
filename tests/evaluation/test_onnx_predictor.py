"""An exported file that answers: numbers by hand, every picture in its place, and no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deitkit.artifacts.bundle import load_bundle, save_bundle
from deitkit.errors import ConfigError, DataError, ModelFileError
from deitkit.evaluation import onnx_predictor
from deitkit.evaluation.metrics import softmax
from deitkit.evaluation.onnx_predictor import OnnxPredictor
from deitkit.evaluation.predictor import Predictor
from tests.evaluation.toy_export import (
    NAMES,
    SPEC,
    by_a_stranger,
    by_hand,
    swap_classes,
    toy_bundle,
    toy_content,
)
from tests.exporters.plain_networks import noise, pictures
from tests.training.toy import toy_images


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "model.onnx").write_bytes(toy_content())
    return tmp_path / "model.onnx"


def opened(path: Path, way: str) -> OnnxPredictor:
    if way == "together":
        return OnnxPredictor(path)
    if way == "quick":
        return OnnxPredictor.for_pictures(path, 1)
    return OnnxPredictor(path, num_threads=1, num_runs=3)


@pytest.mark.parametrize("way", ["together", "quick", "a core each"])
@pytest.mark.parametrize("num", [0, 1, 2, 7, 33])
def test_pictures_of_many_sizes_keep_their_order(path, num, way):
    """X03: whatever is grouped into a batch, each picture gets the answer that it gets alone."""
    sizes = [(20, 24), (20, 24), (9, 40), (33, 16)]
    shown = [pictures(1, *sizes[k % 4], 3, seed=k)[0] for k in range(num)]
    predictor = opened(path, way)
    got = predictor.probabilities(shown)
    assert got.shape == (num, 3)
    if num:
        np.testing.assert_allclose(got, by_hand(shown), atol=1e-5)
        assert num < 3 or got.std(axis=0).min() > 0.01
        np.testing.assert_allclose(softmax(predictor.logits(shown)), got, atol=1e-6)
        alone = np.concatenate([predictor.probabilities([one]) for one in shown])
        np.testing.assert_allclose(alone, got, atol=1e-6)
    said = list(predictor.predict((str(k), one) for k, one in enumerate(shown)))
    assert [one.source for one, _ in said] == [str(k) for k in range(num)]
    assert [one.class_name for one, _ in said] == [NAMES[k] for k in got.argmax(axis=1)]
    assert [one.abstains for one, _ in said] == [row.max() < 0.5 for row in got]


def test_how_many_pictures_decide_how_they_are_computed(path, monkeypatch):
    monkeypatch.setattr(onnx_predictor, "usable_cores", lambda: 5)
    found = [OnnxPredictor.for_pictures(path, num).num_runs for num in (1, 2, 1000)]
    assert found == [1, 5, 5]


@pytest.mark.parametrize("way", ["quick", "a core each"])
def test_an_answer_that_is_no_number_is_refused_when_it_is_given(path, monkeypatch, way):
    """M06, where the file was not asked when it was opened, or answers so to one picture only."""
    predictor = opened(path, way)
    real = predictor._run

    def spoilt(output: str, images_NHWC: np.ndarray) -> np.ndarray:
        found_NK = real(output, images_NHWC)
        return np.where(images_NHWC.max() == 0, np.nan, found_NK)

    monkeypatch.setattr(predictor, "_run", spoilt)
    assert next(predictor.predict(iter([("noise", noise(8, 8, 3))])))[0].source == "noise"
    with pytest.raises(ModelFileError, match="NOT_FINITE") as caught:
        next(predictor.predict(iter([("black", np.zeros((8, 8, 3), np.uint8))])))
    assert caught.value.exit_code == 5


def test_evaluation_is_arithmetic(path):
    """Accuracy of the fused answer, over more images than one block."""
    images = toy_images(50, one_size=False, seed=2)
    evaluation = OnnxPredictor(path).evaluate(images, source="toys")
    expected = by_hand([images.image(k) for k in range(50)])
    assert evaluation.accuracy == (expected.argmax(axis=1) == images.labels).mean()
    assert 0 < evaluation.accuracy < 1
    nll = -np.log(expected[np.arange(50), images.labels]).mean()
    assert evaluation.heads["fused"].nll == pytest.approx(nll, rel=1e-4)
    assert list(evaluation.heads) == ["fused"] and evaluation.fusion == "mean"


def test_it_says_what_it_is(path):
    """X04, X09: names, preprocessing and origin, exactly."""
    predictor = OnnxPredictor(path)
    assert predictor.class_names == NAMES
    assert predictor.preprocessing == SPEC
    assert predictor.threshold == 0.5
    assert predictor.metadata["provenance"] == {"lineage": "abc"}
    assert predictor.name == "deit_nano_distilled_patch4_16 (model.onnx)"
    assert predictor.decode_policy.channels == 3


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (8, 8, 1), (0, 8, 3), (3, 8, 8)])
def test_what_is_no_picture_is_refused(path, shape):
    with pytest.raises(DataError) as caught:
        OnnxPredictor(path).probabilities([noise(*shape)])
    assert caught.value.code == "CHANNELS"


def test_there_are_no_embeddings_in_it(path):
    with pytest.raises(ConfigError) as caught:
        list(OnnxPredictor(path).predict(iter([("x", noise(8, 8, 3))]), embeddings=True))
    assert caught.value.code == "ONNX_ONLY"


def test_the_file_can_change_while_it_answers(path, tmp_path):
    """M14: overwritten in place and replaced; a bundle's folder too."""
    shown = list(pictures(5, 20, 24, 3))
    save_bundle(tmp_path / "best", toy_bundle())
    opened = [
        OnnxPredictor(path),
        Predictor(load_bundle(tmp_path / "best"), device=torch.device("cpu")),
    ]
    before = [predictor.probabilities(shown) for predictor in opened]
    for file in (path, tmp_path / "best" / "model.safetensors"):
        with file.open("r+b") as stream:
            stream.write(os.urandom(file.stat().st_size))
    for predictor, expected in zip(opened, before, strict=True):
        np.testing.assert_array_equal(predictor.probabilities(shown), expected)
    path.with_suffix(".next").write_bytes(by_a_stranger(swap_classes))
    path.with_suffix(".next").replace(path)
    np.testing.assert_array_equal(opened[0].probabilities(shown), before[0])
    assert np.abs(OnnxPredictor(path).probabilities(shown) - before[0]).max() > 0.01
    with pytest.raises(ModelFileError):
        load_bundle(tmp_path / "best")


def test_asking_needs_no_torch(path):
    """In a process of its own, and with everything that the answer takes."""
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from deitkit.evaluation.onnx_predictor import OnnxPredictor\n"
        "print(OnnxPredictor(Path(sys.argv[1])).probabilities([np.full((9, 8, 3), 70, 'u1')]))\n"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = np.array(done.stdout.decode().strip(" []\n").split(), float)
    np.testing.assert_allclose(found, by_hand([np.full((9, 8, 3), 70, np.uint8)])[0], atol=1e-4)

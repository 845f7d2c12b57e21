"""Pictures answered together, each as if it were alone: S14, S35."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deitkit.api.model_card import model_card
from deitkit.evaluation.onnx_predictor import OnnxPredictor
from deitkit.evaluation.predictor import Predictor
from tests.exporters.conftest import make_bundle  # noqa: F401 (a fixture)
from tests.serving.client import wait_until
from tests.serving.running import Running, running
from tests.serving.toy import Toy, encoded, lightness, picture_bytes

SIZES = [(16, 16), (16, 16), (40, 24), (16, 16), (24, 40), (40, 24), (9, 200), (16, 16)]
"""Of pictures asked together: some alike, since those are stacked."""


def noise(number: int) -> bytes:
    width, height = SIZES[number]
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3))
    return encoded(Image.fromarray(pixels.astype(np.uint8)))


def ask_together(here: Running, toy: Toy, pictures: Sequence[bytes]) -> list[Any]:
    """All of them while the model is busy with one, so that they wait for it together."""
    toy.gate.clear()
    before = len(toy.batches)
    with ThreadPoolExecutor(len(pictures) + 1) as threads:
        first = threads.submit(here.ask, picture_bytes())
        wait_until(lambda: len(toy.batches) == before + 1)
        asked = [threads.submit(here.ask, content) for content in pictures]
        wait_until(lambda: here.metric("deitkit_pictures_waiting") == len(pictures))
        toy.gate.set()
        assert first.result().status_code == 200
        return [one.result() for one in asked]


def probabilities(answer: Any) -> dict[str, float]:
    (said,) = answer.json()["predictions"]
    return {row["class"]: row["probability"] for row in said["top"]}


def test_s14_each_answer_is_of_its_own_picture():
    toy = Toy()
    with running(toy) as here:
        levels = list(range(0, 255, 15))
        answers = ask_together(here, toy, [picture_bytes(level) for level in levels])
        light = [probabilities(answer)["light"] for answer in answers]
        assert light == pytest.approx([level / 255 for level in levels], abs=1e-12)
        assert toy.batches[2:] == [16, 1], "seventeen waited; at most sixteen go together"
        assert here.metric('deitkit_batch_pictures_bucket{le="+Inf"}') == 4


def test_s14_pictures_of_many_pixels_do_not_go_together(monkeypatch):
    monkeypatch.setattr("deitkit.serving.batching.MAX_BATCH_BYTES", 100 * 100 * 3 + 1)
    toy = Toy()
    with running(toy) as here:
        large = picture_bytes(51, size=(100, 100))
        answers = ask_together(here, toy, [large] * 4)
        assert [probabilities(answer)["light"] for answer in answers] == pytest.approx([0.2] * 4)
        assert toy.batches[2:] == [2, 2], "the second goes over the limit, so it is the last"


def poisoned(pictures: Sequence[np.ndarray]) -> np.ndarray:
    if any((picture == 13).all() for picture in pictures):
        raise ValueError("thirteen")
    return lightness(pictures)


def nan_at_13(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.where(lightness(pictures) == 13 / 255, np.nan, lightness(pictures))


@pytest.mark.parametrize("answers", [poisoned, nan_at_13])
def test_s14_a_picture_that_the_model_fails_on_fails_alone(answers):
    toy = Toy(answers)
    with running(toy) as here:
        said = ask_together(here, toy, [picture_bytes(level) for level in (51, 13, 204)])
        assert [one.status_code for one in said] == [200, 500, 200]
        assert probabilities(said[0])["light"] == pytest.approx(0.2)
        assert probabilities(said[2])["light"] == pytest.approx(0.8)


def test_s14_a_file_of_several_that_is_no_picture_fails_alone(server: Running):
    answer = server.send(("a", picture_bytes(51)), ("b", b"text"), ("c", picture_bytes(204)))
    assert answer.status_code == 200
    first, second, third = answer.json()["predictions"]
    assert (first["probability"], third["probability"]) == (0.8, 0.8)
    assert second["error"]["code"] == "not_an_image"
    assert (first["name"], second["name"], third["name"]) == ("a", "b", "c")


class Gated:
    """A real model behind a toy's gate."""

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor
        self.toy = Toy(predictor.probabilities)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.predictor, name)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self.toy.probabilities(pictures)


@pytest.fixture(scope="module")
def real(make_bundle, tmp_path_factory) -> dict[str, Any]:  # noqa: F811
    """A small network as a bundle, and as the file exported from it."""
    pytest.importorskip("onnxruntime")
    from deitkit.exporters.onnx_graph import onnx_bytes

    names = {"class_names": ("cat", "dog", "hen")}
    bundle = make_bundle("deit_nano_distilled_patch4_16", bundle=names, depth=1)
    path: Path = tmp_path_factory.mktemp("real") / "model.onnx"
    path.write_bytes(onnx_bytes(bundle, subject="a test"))
    device = torch.device("cpu")
    return {"bundle": Predictor(bundle, device=device), "file": OnnxPredictor(path, num_threads=1)}


@pytest.mark.parametrize("kind", ["bundle", "file"])
def test_s14_a_real_model_answers_the_same_in_a_batch_and_alone(real, kind: str):
    gated = Gated(real[kind])
    with running(gated, card=model_card(real[kind], explains=False)) as here:
        pictures = [noise(number) for number in range(len(SIZES))]
        alone = [probabilities(here.ask(content)) for content in pictures]
        batches = len(gated.toy.batches)
        together = [probabilities(one) for one in ask_together(here, gated.toy, pictures)]
        assert gated.toy.batches[batches:] == [1, len(SIZES)]
        assert together == [pytest.approx(expected, abs=1e-5) for expected in alone]
        assert len({max(one, key=one.get) for one in alone} | {str(one) for one in alone}) > 3


@pytest.mark.parametrize("kind", ["bundle", "file"])
def test_s35_the_same_picture_asked_at_once_has_one_answer(real, kind: str):
    gated = Gated(real[kind])
    with running(gated, card=model_card(real[kind], explains=False)) as here:
        (first, *others) = ask_together(here, gated.toy, [noise(2)] * 12)
        expected = probabilities(first)
        for other in others:
            assert list(probabilities(other)) == list(expected)
            assert probabilities(other) == pytest.approx(expected, abs=1e-5)


def test_s14_bundle_and_file_give_one_answer(real):
    """The picture that is served is the picture that was trained on: 1e-4 between engines."""
    found = []
    for kind in ("bundle", "file"):
        with running(real[kind], card=model_card(real[kind], explains=False)) as here:
            found.append([probabilities(here.ask(noise(n))) for n in range(len(SIZES))])
    assert found[1] == [pytest.approx(expected, abs=1e-4) for expected in found[0]]

"""Transformers opens what we export and says the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file

from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.errors import ModelFileError
from deitkit.exporters.hf_format import export_hf
from tests.exporters.conftest import NAMES, answers

transformers = pytest.importorskip("transformers")

NANO, DISTILLED = "deit_nano_patch4_16", "deit_nano_distilled_patch4_16"
ODD = {"num_heads": 2, "mlp_ratio": 2.5, "qkv_bias": False, "norm_eps": 1e-3, "in_channels": 1}
DEIT3 = {"layer_scale": 0.1, "pos_embed_cls": False}
CASES = {
    "deit_tiny": ("deit_tiny_patch16_224", {}),
    "deit_tiny_distilled": ("deit_tiny_distilled_patch16_224", {}),
    "nano": (NANO, {}),
    "nano_distilled": (DISTILLED, {}),
    "another_size": (NANO, {"image_size": 32}),
    "not_square": (NANO, {"image_size": (16, 24)}),
    "not_square_distilled": (DISTILLED, {"image_size": (24, 16)}),
    "odd_arguments": (NANO, ODD),
    "layer_scale": (NANO, {"layer_scale": 0.1}),
    "deit3": (NANO, DEIT3),
    "deit3_distilled": (DISTILLED, DEIT3),
    "tutorial": ("deit_tutorial_depth3_patch16_224", {"image_size": 32, "embed_dim": 64}),
}


def opened(folder: Path) -> torch.nn.Module:
    """What the printed line opens; no key is missing or left over."""
    model, report = transformers.AutoModelForImageClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_transformers_gives_the_same_logits(case, make_bundle, tmp_path):
    """X02: in eval mode, with both heads."""
    name, arguments = CASES[case]
    bundle = make_bundle(name, **arguments)
    export_hf(bundle, tmp_path / "out")
    theirs = opened(tmp_path / "out")
    images_BCHW, expected_BK = answers(bundle)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images_BCHW).logits, expected_BK, atol=1e-5, rtol=1e-5)
    assert expected_BK.std() > 0.05
    distilled = bundle.build_model().config["distilled"]
    kind = "DeiTForImageClassificationWithTeacher" if distilled else "ViTForImageClassification"
    assert type(theirs).__name__ == kind


def test_both_heads_keep_their_places(make_bundle, tmp_path):
    bundle = make_bundle(DISTILLED)
    export_hf(bundle, tmp_path / "out")
    images_BCHW, _ = answers(bundle)
    with torch.no_grad():
        ours = bundle.build_model()(images_BCHW)
        theirs = opened(tmp_path / "out")(images_BCHW)
    torch.testing.assert_close(theirs.cls_logits, ours.cls_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs.distillation_logits, ours.dist_logits, atol=1e-5, rtol=1e-5)


def test_the_printed_lines_open_it_and_know_the_classes(make_bundle, tmp_path):
    """X09."""
    exported = export_hf(make_bundle(NANO), tmp_path / "o'ut \"")
    namespace: dict = {}
    exec(exported.code, namespace)
    config = namespace["model"].config
    assert [config.id2label[index] for index in range(3)] == list(NAMES)
    assert config.label2id == {name: index for index, name in enumerate(NAMES)}
    assert exported.notes == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layer_scale": 0.1}, "LayerScale is multiplied into the layers it follows"),
        ({"pos_embed_cls": False}, "position rows, which are zeros here"),
        ({"bundle": {"temperature": 2.0}}, "divide Transformers's logits by 2 before the softmax"),
    ],
)
def test_what_differs_is_said(arguments, said, make_bundle, tmp_path):
    exported = export_hf(make_bundle(NANO, **arguments), tmp_path / "out")
    assert len(exported.notes) == 1
    assert said in exported.notes[0]
    assert exported.notes[0] in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_query_key_and_value_are_the_thirds_of_qkv(make_bundle, tmp_path):
    bundle = make_bundle(NANO)
    export_hf(bundle, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    parts = [
        written[f"vit.encoder.layer.1.attention.attention.{kind}.weight"]
        for kind in ("query", "key", "value")
    ]
    assert torch.equal(torch.cat(parts), bundle.state_dict["blocks.1.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deit_nano_conv_patch4_16", "stem=conv, mlp_conv=true; train it with"),
        ("small_cnn", "it is no transformer; export a deit_"),
        ("regnety_002", "it is no transformer; use to=timm"),
    ],
)
def test_what_transformers_cannot_hold_is_refused(name, said, make_bundle, tmp_path):
    with pytest.raises(ModelFileError) as caught:
        export_hf(make_bundle(name), tmp_path / "out")
    assert caught.value.code == "EXPORT"
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def processed(folder: Path, image: Image.Image) -> np.ndarray:
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(images=image, return_tensors="np")["pixel_values"][0]


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (160, 200, 3)).astype(np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6))


@pytest.mark.parametrize(
    ("size", "resize", "crop_ratio"),
    [
        ((64, 64), "shorter", 0.8),
        ((64, 64), "squash", 0.8),
        ((32, 32), "shorter", 1.0),
        ((48, 80), "squash", 1.0),
    ],
)
def test_the_processor_does_our_preprocessing(
    size, resize, crop_ratio, photo, make_bundle, tmp_path
):
    """X04: one grey level for rounding, where the crop is even on both sides."""
    facts = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    spec = Preprocessing(image_size=size, resize=resize, crop_ratio=crop_ratio, **facts)
    export_hf(make_bundle(NANO, image_size=size, bundle={"preprocessing": spec}), tmp_path / "out")
    levels = processed(tmp_path / "out", photo) - preprocess(np.asarray(photo), spec)
    assert np.abs(levels * np.array(spec.std)[:, None, None] * 255).max() < 1.2


def test_where_the_processor_cannot_the_card_says_so(photo, make_bundle, tmp_path):
    """A crop of another shape than square, from an image that keeps its own."""
    spec = Preprocessing(image_size=(48, 80), crop_ratio=0.8)
    bundle = make_bundle(NANO, image_size=(48, 80), bundle={"preprocessing": spec})
    export_hf(bundle, tmp_path / "out")
    assert processed(tmp_path / "out", photo).shape == (3, 48, 80)
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_bytes())
    assert processor["size"] == {"shortest_edge": 100}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "resizes the shorter side to 100 pixels, and so crops more" in card

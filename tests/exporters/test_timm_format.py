"""timm opens what we export and says the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file

from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.errors import ModelFileError
from deitkit.exporters.timm_format import export_timm
from deitkit.exporters.timm_names import DISTILLED, PLAIN
from tests.exporters.conftest import NAMES, answers

timm = pytest.importorskip("timm")

NANO = "deit_nano_patch4_16"
CASES = {
    "deit_tiny": ("deit_tiny_patch16_224", {}, "deit_tiny_patch16_224", set()),
    "deit_tiny_distilled": (
        "deit_tiny_distilled_patch16_224",
        {},
        "deit_tiny_distilled_patch16_224",
        set(),
    ),
    "nano": (
        NANO,
        {},
        "deit_tiny_patch16_224",
        {"img_size", "patch_size", "embed_dim", "depth", "num_heads"},
    ),
    "nano_distilled": (
        "deit_nano_distilled_patch4_16",
        {},
        "deit_tiny_distilled_patch16_224",
        {"img_size", "patch_size", "embed_dim", "depth", "num_heads"},
    ),
    "another_size": (
        "deit_tiny_patch16_224",
        {"image_size": 64, "depth": 2},
        "deit_tiny_patch16_224",
        {"img_size", "depth"},
    ),
    "not_square": (
        "deit_tiny_distilled_patch16_224",
        {"image_size": (32, 48), "depth": 2},
        "deit_tiny_distilled_patch16_224",
        {"img_size", "depth"},
    ),
    "layer_scale": (
        "deit_small_patch16_224",
        {"image_size": 32, "depth": 2, "layer_scale": 0.1},
        "deit_small_patch16_224",
        {"img_size", "depth", "init_values"},
    ),
    "deit3": (
        "deit_small_patch16_224",
        {"layer_scale": 1e-6, "pos_embed_cls": False, "depth": 2},
        "deit3_small_patch16_224",
        {"depth"},
    ),
    "deit3_distilled": (
        "deit_small_distilled_patch16_224",
        {"image_size": 32, "depth": 2, "layer_scale": 0.1, "pos_embed_cls": False},
        "deit_small_distilled_patch16_224",
        {"img_size", "depth", "init_values"},
    ),
    "no_positions_for_tokens": (
        "deit_small_patch16_224",
        {"image_size": 32, "depth": 2, "pos_embed_cls": False},
        "deit_small_patch16_224",
        {"img_size", "depth", "no_embed_class"},
    ),
    "no_layer_scale_though_deit3_has_one": (
        "deit_small_patch16_384",
        {"depth": 1, "pos_embed_cls": False},
        "deit_small_patch16_224",
        {"img_size", "depth", "no_embed_class"},
    ),
    "grey": (
        "deit_tiny_patch16_224",
        {
            "image_size": 32,
            "depth": 1,
            "in_channels": 1,
            "qkv_bias": False,
            "mlp_ratio": 2.5,
            "num_heads": 4,
        },
        "deit_tiny_patch16_224",
        {"img_size", "depth", "in_chans", "qkv_bias", "mlp_ratio", "num_heads"},
    ),
    "regnety": ("regnety_002", {"image_size": 64}, "regnety_002", set()),
    "regnety_grey": (
        "regnety_002",
        {"image_size": (64, 96), "in_channels": 1},
        "regnety_002",
        {"in_chans"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_timm_gives_the_same_logits(case, make_bundle, tmp_path):
    """X02: in eval mode and with both heads, through the printed line and through config.json."""
    name, arguments, architecture, changed = CASES[case]
    bundle = make_bundle(name, **arguments)
    exported = export_timm(bundle, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["architecture"] == architecture
    assert set(config["model_args"]) == changed
    images_BCHW, expected_BK = answers(bundle)
    opened: dict = {}
    exec(exported.code, opened)
    by_folder = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    for theirs in (opened["model"], by_folder.eval()):
        with torch.no_grad():
            torch.testing.assert_close(theirs(images_BCHW), expected_BK, atol=1e-5, rtol=1e-5)
    assert expected_BK.std() > 0.05
    assert opened["model"].num_features == config["num_features"]
    assert by_folder.pretrained_cfg["label_names"] == list(NAMES)
    assert by_folder.pretrained_cfg["classifier"] == opened["model"].default_cfg["classifier"] or (
        tuple(by_folder.pretrained_cfg["classifier"]) == opened["model"].default_cfg["classifier"]
    )


@pytest.mark.parametrize("architecture", [*PLAIN, *DISTILLED])
def test_the_table_is_timms(architecture):
    """Each architecture built by timm has the shapes that our table says."""
    shape = {**PLAIN, **DISTILLED}[architecture]
    with torch.device("meta"):
        bare = timm.create_model(architecture)
        told = timm.create_model(architecture, **shape)
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (bare, told)]
    assert shapes[0] == shapes[1]
    assert bare.blocks[0].attn.num_heads == shape["num_heads"]
    assert bare.no_embed_class == shape["no_embed_class"]
    assert (architecture in DISTILLED) == ("dist_token" in shapes[0])


def test_weights_are_the_bundles_bit_for_bit(make_bundle, tmp_path):
    """X08."""
    bundle = make_bundle(NANO)
    export_timm(bundle, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(bundle.state_dict)
    assert all(torch.equal(written[key], bundle.state_dict[key]) for key in written)


def test_rows_of_zeros_are_said(make_bundle, tmp_path):
    bundle = make_bundle("deit_nano_distilled_patch4_16", pos_embed_cls=False)
    exported = export_timm(bundle, tmp_path / "out")
    assert exported.notes == ("the special tokens have position rows, which are zeros here",)
    rows_1MD = load_file(tmp_path / "out" / "model.safetensors")["pos_embed"]
    assert rows_1MD.shape[1] == 18
    assert torch.equal(rows_1MD[:, :2], torch.zeros(1, 2, 64))
    assert torch.equal(rows_1MD[:, 2:], bundle.state_dict["pos_embed"])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("deit_nano_conv_patch4_16", {}, "stem=conv, mlp_conv=true; train it with model.stem="),
        (NANO, {"mlp_conv": True}, "network: mlp_conv=true;"),
        (NANO, {"norm_eps": 1e-5}, "norm_eps is 1e-05 and not 1e-06; use to=hf"),
        ("small_cnn", {}, "this family is deitkit's own; export a deit_"),
        ("regnety_002", {"stem_width": 16}, "stem_width is 16; train regnety_002 as it is"),
    ],
)
def test_what_timm_cannot_hold_is_refused(name, arguments, said, make_bundle, tmp_path):
    with pytest.raises(ModelFileError) as caught:
        export_timm(make_bundle(name, **arguments), tmp_path / "out")
    assert caught.value.code == "EXPORT"
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("distilled", "fusion", "temperature", "said"),
    [
        ("_distilled", "mean", 1.0, []),
        ("_distilled", "softmax", 1.0, ["fuse them by 'softmax'"]),
        ("_distilled", "dist", 2.5, ["fuse them by 'dist'", "logits by 2.5 before the softmax"]),
        ("_distilled", "fitted", 1.0, ["fuse them by 'fitted' with 0.7 of the distillation head"]),
        # One head: there is nothing to fuse.
        ("", "softmax", 1.0, []),
    ],
)
def test_another_answer_is_said(distilled, fusion, temperature, said, make_bundle, tmp_path):
    facts = {"fusion": fusion, "temperature": temperature}
    if fusion == "fitted":
        facts["fusion_weight"] = 0.7
    bundle = make_bundle(f"deit_nano{distilled}_patch4_16", bundle=facts)
    exported = export_timm(bundle, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert len(exported.notes) == len(said)
    for note, words in zip(exported.notes, said, strict=True):
        assert words in note
        assert f"- {note}" in card


@pytest.mark.parametrize(
    ("size", "resize", "crop_ratio"),
    [
        ((64, 64), "shorter", 0.8),
        ((64, 64), "squash", 0.8),
        ((48, 80), "shorter", 0.8),
        ((48, 80), "squash", 1.0),
    ],
)
def test_timms_preprocessing_is_ours(size, resize, crop_ratio, make_bundle, tmp_path):
    """X04: one grey level for rounding, where the crop is even on both sides."""
    from timm.data import create_transform, resolve_data_config

    spec = Preprocessing(
        image_size=size,
        resize=resize,
        crop_ratio=crop_ratio,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )
    bundle = make_bundle(
        NANO, image_size=size, depth=1, patch_size=16, bundle={"preprocessing": spec}
    )
    export_timm(bundle, tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}")
    transform = create_transform(**resolve_data_config({}, model=theirs))
    noise = np.random.default_rng(0).integers(0, 256, (160, 200, 3)).astype(np.uint8)
    image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6))
    got = transform(image).numpy()
    expected = preprocess(np.asarray(image), spec)
    levels = np.abs(got - expected) * np.array(spec.std)[:, None, None] * 255
    assert levels.max() < 1.2

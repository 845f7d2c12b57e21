"""A trained start for another task: new heads, other grids, other channels, one token more."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from deitkit.errors import ModelFileError
from deitkit.models import create_model, load_weights
from deitkit.models.adapt import start_from
from deitkit.models.weight_source import describe_source
from tests.models.test_weight_formats import saved_hf, shaken

SHAPE = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def deit(seed=0, image_size=16, **overrides):
    torch.manual_seed(seed)
    arguments = {**SHAPE, "image_size": image_size, **overrides}
    return shaken(create_model("deit_nano_patch4_16", **arguments))


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def check_unchanged(model, before):
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_same_shape_is_the_identity():
    theirs, ours = deit(1, distilled=True), deit(2, distilled=True)
    report = start_from(ours, theirs.state_dict())
    assert report.used == tuple(theirs.state_dict())
    assert not (report.resized or report.replaced or report.missing or report.notes)
    check_unchanged(ours, theirs.state_dict())


# Heads


def test_other_classes_get_a_new_head_and_the_rest_is_taken():
    theirs, ours = deit(1, distilled=True), deit(2, distilled=True, num_classes=7)
    before = snapshot(ours)
    report = start_from(ours, theirs.state_dict())
    heads = {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    assert set(report.replaced) == heads and report.missing == ()
    assert report.notes == ("the head is new: 7 classes where the source has 5",)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, before[key] if key in heads else theirs.state_dict()[key]), key
    assert set(report.used) == set(before) - heads
    assert report.num_params == sum(theirs.state_dict()[key].numel() for key in report.used)


def folder_with_names(path, model, names):
    save_file(model.state_dict(), path / "model.safetensors")
    labels = {str(i): name for i, name in enumerate(names)}
    config = {"id2label": labels, "num_attention_heads": 3, "layer_norm_eps": 1e-6}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("names", "new_head", "taken"),
    [
        (("a", "b", "c", "d", "e"), None, True),
        (("a", "b", "c", "e", "d"), None, False),
        (("a", "b", "c"), None, False),
        (None, None, True),
        (("a", "b", "c", "d", "e"), True, False),
        (("a", "b", "c", "d", "e"), False, True),
    ],
)
def test_the_head_is_taken_where_the_classes_are_the_same(tmp_path, names, new_head, taken):
    theirs, ours = deit(1), deit(2)
    source = folder_with_names(tmp_path, theirs, "abcde")
    report = start_from(ours, source, new_head=new_head, class_names=names)
    assert torch.equal(ours.head.weight, theirs.head.weight) is taken
    assert ("head.weight" in report.used, "head.weight" in report.replaced) == (taken, not taken)
    if not taken:
        why = {None: "class 3 is 'e', in the source 'd'", True: "as asked"}[new_head]
        why = "3 class names where the source has 5" if len(names) == 3 else why
        assert report.notes[0] == f"the head is new: {why}"


def test_a_head_that_is_insisted_on_must_fit(tmp_path):
    theirs = deit(1)
    source = folder_with_names(tmp_path, theirs, "abcde")
    for ours, names in ((deit(2, num_classes=7), None), (deit(2), ("e", "d", "c", "b", "a"))):
        before = snapshot(ours)
        with pytest.raises(ModelFileError, match=r"\[HEAD\]"):
            start_from(ours, source, new_head=False, class_names=names)
        check_unchanged(ours, before)


@torch.no_grad()
def test_a_hugging_face_vit_without_a_head_gives_its_features(tmp_path):
    """transformers' last_hidden_state is what our head reads; the pooler is reported."""
    transformers = pytest.importorskip("transformers")
    theirs = saved_hf(transformers, "ViTModel", tmp_path)
    ours = create_model(**describe_source(tmp_path).architecture, num_classes=9).eval()
    report = start_from(ours, tmp_path)
    assert set(report.missing) == {"head.weight", "head.bias"} and report.replaced == ()
    assert set(report.unexpected) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert any(line.startswith("unexpected (2): pooler.dense.") for line in report.lines())
    images = torch.randn(2, 3, 24, 24)
    expected = theirs(images).last_hidden_state
    torch.testing.assert_close(ours.forward_features(images), expected, atol=1e-5, rtol=1e-5)


def test_a_convnet_gets_a_new_head_and_reads_grey():
    torch.manual_seed(0)
    theirs = create_model("regnety_002", num_classes=4)
    ours = create_model("regnety_002", num_classes=6, in_channels=1)
    report = start_from(ours, theirs.state_dict())
    assert set(report.replaced) == {"head.fc.weight", "head.fc.bias"}
    assert report.resized == ("stem.conv.weight",)
    assert torch.equal(ours.s4.b1.conv1.conv.weight, theirs.s4.b1.conv1.conv.weight)


# The distillation token


@torch.no_grad()
def test_a_missing_distillation_token_begins_as_the_class_token_on_request():
    """Two equal tokens at equal positions with equal heads say the same."""
    theirs, ours = deit(1), deit(2, distilled=True)
    report = start_from(ours, theirs.state_dict(), dist_token_from_cls=True)
    assert torch.equal(ours.pos_embed[:, 1], theirs.pos_embed[:, 0])
    assert torch.equal(ours.pos_embed[:, 2:], theirs.pos_embed[:, 1:])
    output = ours(torch.randn(3, 3, 16, 16))
    torch.testing.assert_close(output.dist_logits, output.cls_logits)
    assert set(report.missing) == {"dist_token", "head_dist.weight", "head_dist.bias"}
    assert "dist_token: begins as cls_token" in report.notes
    assert report.resized == ("pos_embed",)


def test_a_missing_distillation_token_stays_new_without():
    theirs, ours = deit(1), deit(2, distilled=True)
    before = snapshot(ours)
    report = start_from(ours, theirs.state_dict())
    for key in ("dist_token", "head_dist.weight", "head_dist.bias"):
        assert torch.equal(ours.state_dict()[key], before[key])
        assert key in report.missing
    assert torch.equal(ours.pos_embed[:, 0], theirs.pos_embed[:, 0])
    assert torch.equal(ours.pos_embed[:, 1], before["pos_embed"][:, 1])
    assert torch.equal(ours.pos_embed[:, 2:], theirs.pos_embed[:, 1:])
    assert torch.equal(ours.head.weight, theirs.head.weight)


def test_a_new_head_leaves_both_heads_new_even_so():
    theirs, ours = deit(1), deit(2, distilled=True, num_classes=7)
    before = snapshot(ours)
    report = start_from(ours, theirs.state_dict(), dist_token_from_cls=True)
    assert torch.equal(ours.head_dist.weight, before["head_dist.weight"])
    assert torch.equal(ours.dist_token, theirs.cls_token)
    assert set(report.replaced) == {"head.weight", "head.bias"}
    assert set(report.missing) == {"dist_token", "head_dist.weight", "head_dist.bias"}


def test_a_surplus_distillation_token_is_an_error_that_says_what_to_do():
    theirs, ours = deit(1, distilled=True), deit(2)
    before = snapshot(ours)
    with pytest.raises(ModelFileError, match=r"\[DIST_TOKEN\].*create the model distilled"):
        start_from(ours, theirs.state_dict())
    check_unchanged(ours, before)


# Positions (FACTS A.6)


@settings(max_examples=30, deadline=None)
@given(
    old=st.integers(1, 6),
    new=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kind=st.sampled_from(["plain", "distilled", "token new", "no rows", "no rows distilled"]),
    from_cls=st.booleans(),
)
def test_positions_agree_with_timm_on_any_grid(old, new, kind, from_cls):
    timm_layers = pytest.importorskip("timm.layers")
    options = {"pos_embed_cls": not kind.startswith("no rows"), "depth": 1}
    theirs = deit(1, image_size=4 * old, distilled="distilled" in kind, **options)
    distilled = "distilled" in kind or kind == "token new"
    ours = deit(2, image_size=(4 * new[0], 4 * new[1]), distilled=distilled, **options)
    fresh_row = ours.pos_embed[:, -1 if kind != "token new" else 1].clone()
    report = start_from(ours, theirs.state_dict(), dist_token_from_cls=from_cls)
    num_special = {"plain": 1, "distilled": 2, "token new": 1}.get(kind, 0)
    expected = timm_layers.resample_abs_pos_embed(
        theirs.pos_embed, list(new), [old, old], num_special, antialias=False
    )
    got = ours.pos_embed
    if kind == "token new":
        assert torch.equal(got[:, 1], got[:, 0] if from_cls else fresh_row)
        got = torch.cat([got[:, :1], got[:, 2:]], dim=1)
    torch.testing.assert_close(got, expected)
    assert torch.equal(got[:, :num_special], theirs.pos_embed[:, :num_special])
    if (old, old) == new:
        assert torch.equal(got, theirs.pos_embed)
    assert ("pos_embed" in report.used) is ((old, old) == new and kind != "token new")


@torch.no_grad()
def test_a_larger_image_says_what_timms_network_says_of_it():
    """From 16x16 to 24x32 pixels; timm's antialiasing has another kernel even when it enlarges."""
    timm = pytest.importorskip("timm")
    shape = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    torch.manual_seed(0)
    family = timm.models.vision_transformer.VisionTransformer
    theirs = shaken(family(img_size=16, **shape))
    ours = deit(2, image_size=(24, 32))
    start_from(ours, theirs.state_dict())
    state = theirs.state_dict()
    state["pos_embed"] = timm.layers.resample_abs_pos_embed(
        state["pos_embed"], [6, 8], [4, 4], 1, antialias=False
    )
    larger = family(img_size=(24, 32), **shape).eval()
    larger.load_state_dict(state)
    images = torch.randn(2, 3, 24, 32)
    torch.testing.assert_close(ours(images).cls_logits, larger(images), atol=1e-5, rtol=1e-5)


def test_a_grid_that_is_not_square_is_told_by_the_config_or_the_caller(tmp_path):
    theirs = deit(1, image_size=(8, 24))
    ours = deit(2, image_size=(16, 16))
    with pytest.raises(ModelFileError, match=r"\[GRID\].*13 rows are no square grid"):
        start_from(ours, theirs.state_dict())
    start_from(ours, theirs.state_dict(), source_image_size=(8, 24))
    told = ours.pos_embed.clone()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    for config in (
        {"image_size": [8, 24], "num_attention_heads": 3},
        {"model_args": {"img_size": [8, 24], "num_heads": 3}},
        {"architecture": "deit_tiny_patch4_8", "pretrained_cfg": {"input_size": [3, 8, 24]}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        again = deit(3, image_size=(16, 16))
        start_from(again, tmp_path)
        assert torch.equal(again.pos_embed, told)
    # The transposed grid has as many rows and another result.
    start_from(ours, theirs.state_dict(), source_image_size=(24, 8))
    assert not torch.allclose(ours.pos_embed, told, atol=1e-3)


@pytest.mark.parametrize("theirs_has", [True, False])
def test_position_rows_for_tokens_must_be_in_both_or_neither(theirs_has):
    theirs, ours = deit(1, pos_embed_cls=theirs_has), deit(2, pos_embed_cls=not theirs_has)
    with pytest.raises(ModelFileError, match=rf"\[POS_EMBED\].*pos_embed_cls={theirs_has}"):
        start_from(ours, theirs.state_dict())


# Channels and patches


@torch.no_grad()
def test_one_channel_from_three_is_their_sum():
    """A grey image then says what it said as three equal channels."""
    theirs, ours = deit(1), deit(2, in_channels=1)
    report = start_from(ours, theirs.state_dict())
    grey = torch.randn(2, 1, 16, 16)
    expected = theirs(grey.expand(-1, 3, -1, -1)).cls_logits
    torch.testing.assert_close(ours(grey).cls_logits, expected, atol=1e-5, rtol=1e-5)
    assert report.resized == ("patch_embed.proj.weight",)
    assert report.notes == ("patch_embed.proj.weight: channels 3 to 1",)


@torch.no_grad()
def test_three_channels_from_one_are_a_third_each():
    theirs, ours = deit(1, in_channels=1), deit(2)
    start_from(ours, theirs.state_dict())
    grey = torch.randn(2, 1, 16, 16)
    got = ours(grey.expand(-1, 3, -1, -1)).cls_logits
    torch.testing.assert_close(got, theirs(grey).cls_logits, atol=1e-5, rtol=1e-5)
    weight = ours.patch_embed.proj.weight
    assert torch.equal(weight[:, 0], weight[:, 2])


def test_other_numbers_of_channels_are_refused():
    theirs, ours = deit(1, in_channels=4), deit(2)
    with pytest.raises(ModelFileError, match=r"\[CHANNELS\].*reads 4 channels, the model 3"):
        start_from(ours, theirs.state_dict())


def test_another_patch_size_is_refused_with_both():
    theirs, ours = deit(1), deit(2, patch_size=8)
    with pytest.raises(ModelFileError, match=r"\[PATCH_SIZE\].*are 4x4 pixels.*model 8x8"):
        start_from(ours, theirs.state_dict())


@pytest.mark.parametrize(
    "other",
    [
        {"depth": 3},
        {"depth": 1},
        {"embed_dim": 48},
        {"mlp_ratio": 2.0},
        {"layer_scale": 0.1},
        {"qkv_bias": False},
        {"mlp_conv": True},
        {"stem": "conv"},
    ],
    ids=str,
)
def test_m05_half_matching_is_an_error_and_changes_nothing(other):
    theirs, ours = deit(1), deit(2, num_classes=7, **other)
    before = snapshot(ours)
    with pytest.raises(ModelFileError, match=r"\[MISMATCH\].*architecture of its source"):
        start_from(ours, theirs.state_dict())
    check_unchanged(ours, before)


def test_m06_weights_that_are_not_finite_start_nothing():
    state = deit(1).state_dict()
    state["blocks.1.norm1.bias"][3] = float("nan")
    with pytest.raises(ModelFileError, match=r"\[NOT_FINITE\].*blocks\.1\.norm1\.bias"):
        start_from(deit(2), state)


def test_halves_are_widened_before_they_are_resized():
    state = {key: value.half() for key, value in deit(1).state_dict().items()}
    ours = deit(2, image_size=24)
    report = start_from(ours, state)
    assert ours.pos_embed.dtype == torch.float32
    assert report.notes[0] == f"{len(state)} tensors widened from float16"


@torch.no_grad()
def test_the_public_deit_tiny_starts_students(shared_data):
    path = shared_data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    theirs = create_model("deit_tiny_patch16_224").eval()
    load_weights(theirs, path)
    source = describe_source(path)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 224, 224)
    plain = create_model("deit_tiny_patch16_224", num_classes=10).eval()
    report = start_from(plain, source)
    assert set(report.replaced) == {"head.weight", "head.bias"}
    torch.testing.assert_close(plain.embed(images), theirs.embed(images))
    # Two twin tokens stay twins through twelve blocks, and still lean as one did.
    distilled = create_model("deit_tiny_distilled_patch16_224", num_classes=10).eval()
    start_from(distilled, source, dist_token_from_cls=True)
    tokens = distilled.forward_features(images)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1])
    likeness = torch.cosine_similarity(tokens[:, 0], theirs.embed(images))
    assert (likeness > 0.5).all()
    small = create_model("deit_tiny_patch16_224", image_size=(96, 160), num_classes=10)
    report = start_from(small, source)
    assert report.notes[1] == "pos_embed: grid 14x14 to 6x10"
    assert torch.equal(small.pos_embed[:, 0], theirs.pos_embed[:, 0])

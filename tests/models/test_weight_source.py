"""What a source of weights says besides its tensors: facts in files, and the architecture."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from deitkit.errors import ModelFileError
from deitkit.models import create_model, load_weights
from deitkit.models.inferred import infer_architecture
from deitkit.models.weight_source import describe_source
from tests.models.test_weight_formats import saved_hf, shaken, small_deit


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def test_what_transformers_writes_about_preprocessing_is_read(transformers, tmp_path):
    """DeiT resizes to 256x256 and cuts 224x224 out; ViT squashes to 224x224."""
    saved_hf(transformers, "DeiTForImageClassification", tmp_path)
    assert describe_source(tmp_path).preprocessing is None
    transformers.DeiTImageProcessor().save_pretrained(tmp_path)
    found = describe_source(tmp_path).preprocessing
    assert (found.image_size, found.resize, found.crop_ratio) == ((224, 224), "squash", 0.875)
    assert (found.mean, found.filter) == ((0.5, 0.5, 0.5), "bicubic")
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    found = describe_source(tmp_path).preprocessing
    assert (found.image_size, found.resize, found.crop_ratio) == ((224, 224), "squash", 1.0)
    assert (found.std, found.filter) == ((0.5, 0.5, 0.5), "bilinear")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        # The spelling of transformers 4: numbers, and a shorter side.
        (
            {"size": 224, "image_mean": [0.1] * 3, "image_std": [0.2] * 3},
            ((224, 224), "squash", 1.0, 0.1),
        ),
        (
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 192, "width": 128},
                "image_mean": [0.1] * 3,
                "image_std": [0.2] * 3,
            },
            ((192, 128), "shorter", 0.75, 0.1),
        ),
        ({"size": 32, "do_normalize": False}, ((32, 32), "squash", 1.0, 0.0)),
        ({"size": 32, "do_resize": False}, None),
        ({"size": {"shortest_edge": 32}, "do_normalize": False}, None),
    ],
)
def test_other_spellings_of_preprocessing(tmp_path, processor, expected):
    save_file(small_deit().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = describe_source(tmp_path).preprocessing
    if expected is None:
        assert found is None
    else:
        assert (found.image_size, found.resize, found.crop_ratio, found.mean[0]) == expected


@torch.no_grad()
def test_a_folder_of_timms_hub_tells_everything(timm, tmp_path):
    from timm.models import save_for_hf

    theirs = shaken(
        timm.create_model(
            "deit_tiny_patch16_224", img_size=(32, 48), depth=2, num_classes=3, num_heads=6
        )
    )
    names = {"label_names": ["ant", "bee", "cow"]}
    save_for_hf(theirs, tmp_path, model_config=names, safe_serialization=True)
    (tmp_path / "README.md").write_text("---\ntags:\n- x\nlicense: mit\n---\nlicense: gpl\n")
    found = describe_source(tmp_path)
    arguments = found.architecture
    assert (arguments["image_size"], arguments["num_heads"]) == ([32, 48], 6)
    assert arguments["name"] == "deit_tiny_patch16_48"
    assert found.class_names == ("ant", "bee", "cow")
    assert found.licence == "apache-2.0" and "licence apache-2.0" in found.describe()
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert found.sha256 == hashlib.sha256(weights).hexdigest()
    facts = found.preprocessing
    assert (facts.image_size, facts.crop_ratio, facts.resize) == ((32, 48), 0.9, "shorter")
    assert (facts.mean, facts.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ours = create_model(**arguments).eval()
    assert load_weights(ours, found).licence == "apache-2.0"
    images = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(ours(images).cls_logits, theirs(images), atol=1e-5, rtol=1e-5)


def test_the_licence_of_a_model_card(tmp_path):
    save_file(small_deit().state_dict(), tmp_path / "model.safetensors")
    assert describe_source(tmp_path).licence is None
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: 'cc-by-nc-4.0'\n---\n# Model\n")
    assert describe_source(tmp_path).licence == "cc-by-nc-4.0"
    card.write_text("# Model\n---\nlicense: mit\n---\n")
    assert describe_source(tmp_path).licence is None


@pytest.mark.parametrize(
    "name",
    ["deit3_medium_patch16_224", "deit3_huge_patch14_224", "deit_base_distilled_patch16_384"],
)
def test_shapes_of_timm_are_inferred_from_tensors_alone(timm, name):
    """The heads of the huge one are 80 wide, all others 64."""
    with torch.device("meta"):
        theirs = timm.create_model(name)
        arguments = infer_architecture(theirs.state_dict())
        ours = create_model(**arguments)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert arguments["num_heads"] == theirs.blocks[0].attn.num_heads
    assert arguments["norm_eps"] == theirs.norm.eps


@pytest.mark.parametrize("name", ["regnety_002", "regnety_032", "regnety_160"])
def test_regnety_is_told_by_its_stages(timm, name):
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=7, in_chans=2).state_dict()
    assert infer_architecture(state) == {"name": name, "num_classes": 7, "in_channels": 2}
    # timm's regnety_320 is none of ours.
    with torch.device("meta"):
        state = timm.create_model("regnety_320").state_dict()
    with pytest.raises(ModelFileError, match="no RegNetY here"):
        infer_architecture(state)


@pytest.mark.parametrize(
    "name",
    [
        "deit_nano_patch4_32",
        "deit_micro_distilled_patch2_16",
        "deit_tiny_patch16_224",
        "deit_small_distilled_patch16_384",
        "deit_base_patch16_224",
    ],
)
def test_our_own_names_are_inferred_back(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=12)
        arguments = infer_architecture(model.state_dict())
        again = create_model(**arguments)
    assert arguments["name"] == name
    assert {k: v for k, v in again.config.items() if k != "norm_eps"} == {
        k: v for k, v in model.config.items() if k != "norm_eps"
    }


@settings(max_examples=25, deadline=None)
@given(
    grid=st.integers(1, 6),
    patch_size=st.sampled_from([1, 2, 4, 7]),
    heads=st.integers(1, 3),
    hidden=st.integers(1, 400),
    distilled=st.booleans(),
    pos_embed_cls=st.booleans(),
    in_channels=st.integers(1, 4),
    mlp_conv=st.booleans(),
)
def test_any_shape_is_inferred_back(
    grid, patch_size, heads, hidden, distilled, pos_embed_cls, in_channels, mlp_conv
):
    dim = 64 * heads
    arguments = {
        "image_size": [grid * patch_size] * 2,
        "patch_size": patch_size,
        "embed_dim": dim,
        "num_heads": heads,
        "depth": 1,
        "mlp_ratio": (hidden + 0.5) / dim,
        "distilled": distilled,
        "pos_embed_cls": pos_embed_cls,
        "in_channels": in_channels,
        "mlp_conv": mlp_conv,
        "num_classes": 3,
    }
    with torch.device("meta"):
        model = create_model("deit_nano_patch4_16", **arguments)
        found = infer_architecture(model.state_dict())
        again = create_model(**found)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, again)]
    assert shapes[0] == shapes[1]
    assert all(found[key] == arguments[key] for key in arguments if key != "mlp_ratio")


def test_m08_class_names_that_do_not_fit_the_head_are_refused(tmp_path):
    save_file(small_deit().state_dict(), tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"id2label": {str(i): f"c{i}" for i in range(5)}}))
    assert describe_source(tmp_path).class_names == ("c0", "c1", "c2", "c3", "c4")
    config.write_text(json.dumps({"id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(ModelFileError, match=r"\[CONFIG_LIES\].*names 2 classes, the head has 5"):
        describe_source(tmp_path)
    config.write_text(json.dumps({"id2label": {"0": "a", "7": "b"}}))
    with pytest.raises(ModelFileError, match=r"\[CONFIG_LIES\]"):
        describe_source(tmp_path)
    config.write_text(json.dumps({"id2label": {str(i): f"LABEL_{i}" for i in range(5)}}))
    assert describe_source(tmp_path).class_names is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[1, 2]", "JSON"),
        ('{"a": 1, "a": 2}', "JSON"),
        ('{"a": ' * 100_000, "JSON"),
        ('{"mean": [0.5], "std": [0.0], "input_size": [1, 8, 8]}', "BAD_CONFIG"),
        ('{"mean": [0.5], "std": "x", "input_size": [1, 8, 8]}', "BAD_CONFIG"),
        ('{"mean": [0.5], "std": [0.5], "input_size": 8}', "BAD_CONFIG"),
    ],
)
def test_m11_a_broken_config_is_refused(tmp_path, text, code):
    save_file(small_deit().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFileError) as caught:
        describe_source(tmp_path)
    assert caught.value.code == code


def test_folders_without_weights_and_with_shards(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"\[NOT_FOUND\].*model\.safetensors"):
        describe_source(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"\[SHARDED\]"):
        describe_source(tmp_path)


def test_a_file_alone_knows_nothing_but_its_tensors(tmp_path):
    save_file(small_deit().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    found = describe_source(tmp_path / "model.safetensors")
    assert (found.preprocessing, found.class_names, found.licence, found.config) == (
        None,
        None,
        None,
        {},
    )


def test_non_square_positions_need_a_config():
    state = small_deit(image_size=(8, 24)).state_dict()
    with pytest.raises(ModelFileError, match=r"\[GRID\].*13 rows"):
        infer_architecture(state, {"num_attention_heads": 3})
    found = infer_architecture(state, {"num_attention_heads": 3, "image_size": [8, 24]})
    assert found["image_size"] == [8, 24]
    # One that does not explain the rows is not believed.
    with pytest.raises(ModelFileError, match=r"\[GRID\]"):
        infer_architecture(state, {"num_attention_heads": 3, "image_size": [8, 20]})


def test_a_bundle_of_ours_keeps_its_own_arguments(tmp_path):
    model = small_deit(stem="conv", mlp_conv=True)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="stack of convolutions"):
        _ = describe_source(tmp_path).architecture
    (tmp_path / "config.json").write_text(json.dumps({"schema": 1, "model": model.config}))
    again = create_model(**describe_source(tmp_path).architecture)
    load_weights(again, tmp_path)
    assert torch.equal(again.head.weight, model.head.weight)
    with pytest.raises(ModelFileError, match="says 3 attention heads, the model has 2"):
        load_weights(create_model(**{**model.config, "num_heads": 2}), tmp_path)


def test_the_public_deit_tiny_describes_itself(shared_data):
    path = shared_data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    found = describe_source(path)
    named = create_model("deit_tiny_patch16_224").config
    assert create_model(**found.architecture).config == named
    assert found.format == "timm" and found.class_names is None


def test_heads_come_from_timms_name_where_its_arguments_do_not_tell():
    """96 wide with 3 heads of 32, which the width alone does not tell; model_args comes first."""
    state = small_deit(embed_dim=96).state_dict()
    named = {"architecture": "deit_tiny_patch16_224"}
    assert infer_architecture(state, named)["num_heads"] == 3
    assert infer_architecture(state, {**named, "model_args": {"num_heads": 8}})["num_heads"] == 8
    with pytest.raises(ModelFileError, match="number of heads is not known for a width of 96"):
        infer_architecture(state)
    with pytest.raises(ModelFileError, match="5 heads do not divide the width 96"):
        infer_architecture(state, {"num_attention_heads": 5})


def test_a_config_tells_the_grid_of_deit_iii_too():
    state = small_deit(image_size=(8, 24), pos_embed_cls=False).state_dict()
    found = infer_architecture(state, {"num_attention_heads": 3, "image_size": [8, 24]})
    assert found["image_size"] == [8, 24] and found["pos_embed_cls"] is False


def test_the_epsilon_that_no_tensor_tells_is_that_of_the_code_with_these_names():
    """facebookresearch and timm 1e-6, Hugging Face 1e-12 unless its config says otherwise."""
    state = small_deit(embed_dim=64, num_heads=1).state_dict()
    assert infer_architecture(state)["norm_eps"] == 1e-6
    assert infer_architecture(state, format="hf")["norm_eps"] == 1e-12
    assert infer_architecture(state, {"layer_norm_eps": 1e-5}, format="hf")["norm_eps"] == 1e-5


def test_a_ratio_that_rounds_down_still_gives_the_hidden_width():
    """448 * (61 / 448) is a hair under 61 in doubles."""
    assert int(448 * (61 / 448)) == 60
    shape = {"embed_dim": 448, "num_heads": 7, "depth": 1}
    with torch.device("meta"):
        model = create_model("deit_small_patch16_224", mlp_ratio=61.5 / 448, **shape)
        again = create_model(**infer_architecture(model.state_dict()))
    assert again.blocks[0].mlp.fc1.out_features == 61

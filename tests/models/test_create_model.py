"""Names, options, and what is refused before anything is allocated."""

from __future__ import annotations

import json
import math

import pytest
import torch

from deitkit.errors import ConfigError
from deitkit.flow import StudentOutput
from deitkit.models import ImageModel, create_model, list_models, model_names_like


@pytest.mark.parametrize("name", list_models())
def test_every_listed_model_keeps_the_contract(name):
    """Attributes, both outputs, and a config that survives JSON and rebuilds the same tensors."""
    options = {"depth": 1} if name.startswith("deit") else {}
    with torch.device("meta"):
        model = create_model(name, num_classes=7, in_channels=2, **options)
        rebuilt = create_model(**json.loads(json.dumps(model.config)))
        images = torch.empty(2, 2, *model.image_size)
    assert isinstance(model, ImageModel)
    assert (model.num_classes, model.in_channels, model.config["name"]) == (7, 2, name)
    output = model.eval()(images, None)
    assert isinstance(output, StudentOutput)
    assert output.cls_logits.shape == (2, 7)
    assert (output.dist_logits is not None) == ("distilled" in name or "tutorial" in name)
    assert model.embed(images).shape == (2, model.embed_dim)
    assert model.forward_features(images).shape[0] == 2
    assert rebuilt.config == model.config
    assert [(k, v.shape) for k, v in rebuilt.state_dict().items()] == [
        (k, v.shape) for k, v in model.state_dict().items()
    ]


def test_the_config_rebuilds_the_same_numbers():
    torch.manual_seed(0)
    model = create_model(
        "deit_nano_distilled_patch4_16", num_classes=3, image_size=(8, 16), layer_scale=0.1
    ).eval()
    rebuilt = create_model(**json.loads(json.dumps(model.config))).eval()
    rebuilt.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 8, 16)
    torch.testing.assert_close(rebuilt(images), model(images), atol=0, rtol=0)
    assert model.config["image_size"] == [8, 16]


def test_the_same_generator_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(create_model("deit_nano_patch4_16", num_classes=3).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_grammar_reaches_beyond_the_list():
    name = "deit_micro_distilled_patch5_35"
    assert name not in list_models()
    model = create_model(name, num_classes=2)
    assert model.grid_size == (7, 7) and model.num_special_tokens == 2


def test_the_list_holds_the_published_and_the_small_shapes():
    names = list_models()
    assert len(names) == len(set(names))
    for size in ("tiny", "small", "base"):
        for token in ("", "_distilled"):
            for side in (224, 384):
                assert f"deit_{size}{token}_patch16_{side}" in names
    for name in ("deit_nano_distilled_patch2_8", "deit_tiny_patch4_32", "deit_micro_patch8_64"):
        assert name in names
    assert {"regnety_002", "regnety_160", "small_cnn", "deit_tutorial_depth3_patch16_224"} <= {
        *names
    }


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("deit_tinny_patch16_224", "deit_tiny_patch16_224"),
        ("DeiT-small-patch16-224", "deit_small_patch16_224"),
        ("regnety_16", "regnety_016"),
        ("smallcnn", "small_cnn"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(typed, meant):
    assert meant in model_names_like(typed)
    with pytest.raises(ConfigError, match=rf"\[MODEL\] {typed}: .*did you mean .*{meant}"):
        create_model(typed)


def test_a_name_like_nothing_points_to_the_list():
    with pytest.raises(ConfigError, match=r"list_models\(\)"):
        create_model("xyzzy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 15}, "15 does not divide image height 224; choose patch_size among"),
        ({"image_size": (224, 225)}, "does not divide image width 225"),
        ({"patch_size": 448}, "does not divide"),
        ({"num_heads": 5}, "5 does not divide embed_dim 192; .* 3, 4, 6"),
        ({"embed_dim": 10**9}, r"1 to 65,536"),
        ({"embed_dim": -192}, r"1 to 65,536"),
        ({"depth": 10**6}, r"1 to 1,000"),
        ({"depth": 0}, r"1 to 1,000"),
        ({"depth": 2.5}, "2.5 is not a whole number"),
        ({"depth": True}, "True is not a whole number"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 10**9}, "in_channels"),
        ({"image_size": 10**9}, "image_size"),
        ({"image_size": (1, 2, 3)}, "is not one size"),
        ({"image_size": 65_536, "patch_size": 1}, "patches, more than"),
        ({"mlp_ratio": 1e9}, "mlp_ratio"),
        ({"mlp_ratio": math.nan}, "mlp_ratio"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"drop_path": 1.0}, "1.0 is not a probability"),
        ({"drop_path": math.nan}, "nan is not a probability"),
        ({"attn_drop": -0.1}, "attn_drop"),
        ({"proj_drop": "lots"}, "proj_drop"),
        ({"layer_scale": 0}, "layer_scale"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"distilled": "yes"}, "neither true nor false"),
        ({"drop_path_schedule": "cubic"}, "choose linear or constant"),
        ({"weight_init": "os.system"}, "choose trunc_normal or kaiming or identity or constant"),
        ({"class_token_init": "twos"}, "choose trunc_normal or ones or zeros"),
        ({"drop_pathe": 0.1}, "did you mean drop_path"),
        ({"blub": 0.1}, "has no such option"),
    ],
)
def test_m09_impossible_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        create_model("deit_tiny_patch16_224", **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_base_patch16_224", {"embed_dim": 16_384, "num_heads": 64, "depth": 100}),
        ("quick_cnn", {"width": 16_384}),
        ("regnety_160", {"initial_width": 32_768, "width_slope": 10.0}),
    ],
)
def test_m09_a_giant_is_refused_before_allocation(name, options):
    """Each would need more than 80 GB: the test would not survive an allocation."""
    with pytest.raises(ConfigError, match=r"MODEL_SIZE.*more than 2e\+10"):
        create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("regnety_002", {"depth": 10**6}, "depth"),
        ("regnety_002", {"width_slope": math.inf}, "width_slope"),
        ("regnety_002", {"width_slope": 60_000.0}, "stage_width"),
        ("regnety_002", {"width_ratio": 1.0}, "width_ratio"),
        ("small_cnn", {"width": 10**6}, "width"),
        ("small_cnn", {"patch_size": 4}, "no such option"),
    ],
)
def test_m09_convolutional_networks_too(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create_model(name, **options)

"""Recipes: files that load strictly, say what they reproduce, and hold the papers' numbers."""

from __future__ import annotations

import re

import pytest

from deitkit.api.request import read_request
from deitkit.config import build_config
from deitkit.config.recipes import (
    list_recipes,
    list_rungs,
    read_recipe,
    read_rung,
    recipe_text,
)
from deitkit.errors import ConfigError
from deitkit.models import create_model, family_of, model_cost
from deitkit.optim import Schedule, scaled_lr


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_and_its_header_says_what_it_reproduces(name):
    config = build_config(read_recipe(name))
    header = [line for line in recipe_text(name).splitlines() if line.startswith("#")]
    assert len(header) >= 3 and "Reproduces:" in " ".join(header)
    if config.model.name != "auto":
        family_of(config.model.name)
        assert str(config.data.image_size) in config.model.name


def test_deit_is_table_9_of_the_paper():
    """Touvron et al. 2021, table 9, column DeiT-B, and A.19: 5e-4 x 1024 / 512 = 1e-3."""
    for name in ("deit_tiny", "deit_small", "deit_base"):
        config = build_config(read_recipe(name))
        assert (config.schedule.epochs, config.optim.batch_size) == (300, 1024)
        assert scaled_lr(config.optim.lr, batch_size=1024) == 1e-3
        assert (config.optim.name, config.optim.weight_decay) == ("adamw", 0.05)
        assert (config.optim.label_smoothing, config.model.drop_path) == (0.1, 0.1)
        assert config.optim.clip_norm is None and config.model.proj_drop is None
        assert config.views.repeats == 3
        assert config.views.auto_augment == "rand-m9-mstd0.5-inc1"
        assert (config.views.mixup, config.views.cutmix, config.views.erasing) == (0.8, 1.0, 0.25)
        assert (config.views.mix_prob, config.views.switch_prob) == (1.0, 0.5)


def test_the_learning_rate_of_the_recipe_is_timms_cosine():
    """A.20: 300 epochs, 5 of warm-up from 1e-6, base 1e-3, minimum 1e-5; here of 100 steps each."""
    optim = build_config(read_recipe("deit_tiny")).optim
    schedule = Schedule(
        total_steps=30_000,
        warmup_steps=round(optim.warmup * 30_000),
        peak_lr=scaled_lr(optim.lr, batch_size=optim.batch_size),
        end_lr=optim.min_lr,
        start_lr=optim.warmup_lr,
    )
    known = {0: 1e-6, 1: 2.008e-4, 4: 8.002e-4, 5: 9.993216e-4, 10: 9.972883e-4, 75: 8.550179e-4}
    known |= {150: 5.05e-4, 225: 1.549821e-4, 299: 1.002714e-5}
    for epoch, lr in known.items():
        assert schedule.lr(100 * epoch) == pytest.approx(lr, rel=1e-6)


def test_vit_original_is_the_other_column():
    """Table 9, ViT-B: 0.003 at 4096, decay 0.3, warm-up 3.4 of 300 epochs, dropout 0.1, clipping,
    and none of DeiT's augmentation."""
    config = build_config(read_recipe("vit_original"))
    assert scaled_lr(config.optim.lr, batch_size=config.optim.batch_size) == pytest.approx(3e-3)
    assert config.optim.warmup * 300 == pytest.approx(3.4)
    assert (config.optim.weight_decay, config.optim.clip_norm) == (0.3, 1.0)
    assert (config.model.proj_drop, config.model.pos_drop, config.model.drop_path) == (0.1, 0.1, 0)
    assert config.views.auto_augment == "none" and config.views.repeats == 1
    assert (config.views.mixup, config.views.cutmix, config.views.erasing) == (0, 0, 0)
    assert config.optim.label_smoothing == 0


@pytest.mark.parametrize("name, num_params", [("deit3_small", 22_059_496), ("deit3_base", None)])
def test_deit_3_is_a_model_with_layer_scale_and_patch_positions_alone(name, num_params):
    """A.1: 22,059,496 and, at 224 px, 86,585,320 parameters."""
    config = build_config(read_recipe(name))
    model = create_model(
        config.model.name,
        image_size=224,
        layer_scale=config.model.layer_scale,
        pos_embed_cls=config.model.pos_embed_cls,
    )
    assert model_cost(model)[0] == (num_params or 86_585_320)
    assert config.optim.label_loss == "binary" and config.model.drop_path_schedule == "constant"


def test_the_ladder_climbs_from_vit_original_to_the_paper():
    """Base plus the rungs is the paper's recipe in every setting they name."""
    settings = read_recipe("vit_original")
    for rung in ("hyperparameters", "augment", "regularise"):
        settings |= read_rung(rung)
    paper = read_recipe("deit_base")
    climbed, wanted = build_config(settings), build_config(paper)
    assert set(list_rungs()) == {"hyperparameters", "augment", "regularise", "teacher", "stem"}
    assert climbed.views == wanted.views
    assert climbed.optim.lr == wanted.optim.lr and climbed.optim.clip_norm is None
    assert climbed.optim.weight_decay == wanted.optim.weight_decay
    assert climbed.optim.label_smoothing == wanted.optim.label_smoothing
    assert climbed.model.drop_path == wanted.model.drop_path


def test_what_is_typed_comes_before_the_file_and_that_before_the_recipe(tmp_path):
    data = tmp_path / "photos"
    data.mkdir()
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 0.002, weight_decay: 0.2}\n")
    request = read_request(
        {
            "data": data,
            "out": tmp_path / "run",
            "recipe": "deit_tiny",
            "config": file,
            "lr": "0.003",
        }
    )
    config = request.config
    assert (config.optim.lr, config.optim.weight_decay) == (0.003, 0.2)
    assert (config.optim.batch_size, config.model.name) == (1024, "deit_tiny_patch16_224")
    assert request.asked["optim.label_smoothing"] == 0.1


def test_a_recipe_may_be_a_file_that_extends_another(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nextends: deit_small\nschedule: {epochs: 7}\n")
    settings = read_recipe(str(path))
    assert (settings["schedule.epochs"], settings["model.name"]) == (7, "deit_small_patch16_224")


@pytest.mark.parametrize(
    "call", [lambda: read_recipe("deit_tny"), lambda: recipe_text("deit_tny")], ids=["read", "text"]
)
def test_an_unknown_recipe_is_told_with_what_was_meant(call):
    with pytest.raises(ConfigError, match=re.escape("deit_tiny")) as caught:
        call()
    assert (caught.value.code, caught.value.exit_code) == ("RECIPE", 2)


def test_a_typed_model_brings_its_own_size(tmp_path):
    """A recipe's 224 px does not stretch a model whose typed name says 16."""
    (tmp_path / "photos").mkdir()
    settings = {"data": tmp_path / "photos", "out": tmp_path / "run", "recipe": "deit_tiny"}
    config = read_request({**settings, "model": "deit_nano_patch4_16"}).config
    assert config.data.image_size == "auto"
    assert read_request(settings).config.data.image_size == 224


def test_a_recipe_that_extends_itself_is_an_error(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {path}\nlr: 0.1\n")
    with pytest.raises(ConfigError, match="never ends"):
        read_recipe(str(path))

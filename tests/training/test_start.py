"""Where weights begin: what auto finds, what a start decides, and what a run makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deitkit.config import build_config
from deitkit.data import open_dataset
from deitkit.errors import ConfigError, ModelFileError
from deitkit.models import create_model
from deitkit.runtime.world import World
from deitkit.training import start as start_module
from deitkit.training.assemble import assemble
from deitkit.training.resolve import resolve_from_clock, resolve_from_data
from deitkit.training.start import find_start, open_start


@pytest.fixture
def weights(tmp_path):
    """A small DeiT's weights as anybody saves them, 3 heads of 64, 32 px, 5 classes."""
    torch.manual_seed(3)
    model = create_model("deit_tiny_patch8_32", depth=2, num_classes=5)
    path = tmp_path / "trained.safetensors"
    save_file(model.state_dict(), path)
    return path


def photographs(side: int = 80, num: int = 24):
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(0, 200, (side, side, 3), dtype=np.uint8), ("cat", "dog")[i % 2])
        for i in range(num)
    ]
    return open_dataset(pairs, keep_bytes=2**30)


def find(asked=None, *, model=None, teacher=False, photographs=True, device_type="cpu"):
    return find_start(
        asked,
        model_name=model,
        has_teacher=teacher,
        photographs=photographs,
        device_type=device_type,
    )


@pytest.mark.parametrize(
    "situation, said",
    [
        ({"asked": "scratch"}, "asked for"),
        ({"photographs": False}, "small or grey images"),
        ({"model": "small_cnn"}, "small_cnn has no public weights"),
        ({"model": "deit_micro_patch8_64"}, "has no public weights"),
    ],
    ids=str,
)
def test_auto_stays_at_scratch_and_says_why(situation, said, monkeypatch):
    monkeypatch.setattr(start_module, "open_start", lambda *a, **k: pytest.fail("it looked"))
    start, reason = find(**situation)
    assert start is None and said in reason


@pytest.mark.parametrize(
    "situation, name",
    [
        ({}, "timm:deit_tiny_patch16_224"),
        ({"device_type": "cuda"}, "timm:deit_small_patch16_224"),
        ({"teacher": True}, "timm:deit_tiny_distilled_patch16_224"),
        ({"model": "deit_base_patch16_96"}, "timm:deit_base_patch16_224"),
        ({"model": "deit_tiny_distilled_patch16_64"}, "timm:deit_tiny_distilled_patch16_224"),
    ],
    ids=str,
)
def test_auto_asks_for_the_public_weights_of_that_shape(situation, name, monkeypatch):
    asked = []

    def offline(text, **_):
        asked.append(text)
        raise ModelFileError("OFFLINE", text, "no network is there", "give a file")

    monkeypatch.setattr(start_module, "open_start", offline)
    start, reason = find(**situation)
    assert asked == [name] and start is None
    assert "no network is there" in reason and "init= names one" in reason


def test_a_start_that_was_asked_for_and_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ModelFileError):
        find(str(tmp_path / "nothing.pth"))


def resolved(settings: dict, data, start):
    r = resolve_from_data(
        build_config(settings),
        data,
        device_type="cpu",
        num_cores=2,
        start=start,
        start_reason="" if start is None else start.said,
    )
    resolve_from_clock(r, step_s=0.1, evaluation_s=0.1, steps_per_epoch=1, seconds_left=20.0)
    return r


def test_what_a_start_decides(weights):
    """Model, sizes, normalisation and a gentle recipe; no mixing, slower lower layers."""
    r = resolved({"init": str(weights)}, photographs(), open_start(str(weights)))
    config = r.config
    assert config.model.name == "deit_tiny_patch8_32" and config.model.depth == 2
    assert config.data.image_size == (32, 32)
    assert config.data.mean == (0.485, 0.456, 0.406)
    assert config.optim.lr * config.optim.batch_size / 512 == pytest.approx(5e-4)
    assert (config.optim.layer_decay, config.optim.warmup) == (0.75, 0.1)
    assert config.views.mixup == 0.8 and config.views.auto_augment.startswith("rand-m7")
    assert config.views.mix_prob == 0.5


def test_a_users_words_come_before_the_start(weights):
    settings = {"init": str(weights), "image_size": 48, "lr": 0.1, "optim.layer_decay": 1}
    config = resolved(settings, photographs(), open_start(str(weights))).config
    assert (config.data.image_size, config.optim.lr) == ((48, 48), 0.1)
    assert config.optim.layer_decay == 1 and config.model.name == "deit_tiny_patch8_48"


@pytest.mark.parametrize("from_cls", [False, True])
def test_the_model_of_a_run_holds_the_start(weights, from_cls):
    """Blocks as they were, positions resized, a new head, with a teacher a distillation token."""
    data = photographs()
    settings = {"init": str(weights), "image_size": 48, "teacher": "runs/teacher"}
    settings |= {"model.init_dist_token": "cls" if from_cls else "new"}
    r = resolved(settings, data, open_start(str(weights)))
    assert r.config.model.name == "deit_tiny_distilled_patch8_48"
    alone = build_config({**{"distill.kind": "none"}}, base=r.config)
    assembly = assemble(alone, data, world=World())
    model, start = assembly.state.model.state_dict(), open_start(str(weights)).source.tensors
    assert torch.equal(model["blocks.1.mlp.fc2.weight"], start["blocks.1.mlp.fc2.weight"])
    assert torch.equal(model["cls_token"], start["cls_token"])
    assert model["pos_embed"].shape == (1, 2 + 36, 192)
    assert torch.equal(model["dist_token"], start["cls_token"]) == from_cls
    assert model["head.weight"].shape == (2, 192)
    scratch = assemble(alone, data, world=World(), starts=False).state.model.state_dict()
    assert not torch.equal(scratch["cls_token"], start["cls_token"])


def test_an_earlier_run_of_oblong_images_is_a_start(tmp_path):
    """Its bundle says which grid its positions are of: 2 x 4 patches become 4 x 4."""
    data = photographs()
    settings = {"image_size": (16, 32), "model": "deit_nano_patch8_32", "model.depth": 2}
    r = resolved(settings | {"init": "scratch"}, data, None)
    old = assemble(r.config, data, world=World())
    old.save_best(tmp_path, {})(old.state.model, {"top1": 0.5})
    start = open_start(str(tmp_path))
    assert start.image_size == (16, 32) and start.source.class_names == ("cat", "dog")
    new = resolved({"init": str(tmp_path), "image_size": 32}, data, start)
    assert new.config.model.depth == 2 and new.config.data.mean == r.config.data.mean
    model = assemble(new.config, data, world=World()).state.model.state_dict()
    before = old.state.model.state_dict()
    assert torch.equal(model["head.weight"], before["head.weight"]), "the classes are the same"
    assert torch.equal(model["blocks.1.attn.qkv.weight"], before["blocks.1.attn.qkv.weight"])
    assert torch.equal(model["pos_embed"][:, :1], before["pos_embed"][:, :1])
    assert model["pos_embed"].shape == (1, 17, 64)


def test_a_named_model_of_another_shape_than_its_start_is_refused(weights):
    """Not silently the start's shape under the name that was asked for."""
    with pytest.raises(ConfigError, match=r"embed_dim 192, not 128.*depth 2, not 6") as caught:
        resolved(
            {"init": str(weights), "model": "deit_micro_patch8_32"},
            photographs(),
            open_start(str(weights)),
        )
    assert caught.value.code == "START_SHAPE"
    named = {"init": str(weights), "model": "deit_tiny_patch8_64", "model.depth": 2}
    config = resolved(named, photographs(), open_start(str(weights))).config
    assert (config.model.name, config.data.image_size) == ("deit_tiny_patch8_64", (64, 64))

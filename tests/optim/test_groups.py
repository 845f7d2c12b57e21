"""Decay and depth of every parameter (FACTS A.22), and what an optimizer makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deitkit.errors import ConfigError
from deitkit.models import create_model
from deitkit.optim import build_optimizer, layer_depths, parameter_groups
from tests.optim.settings import SETTINGS


def entries_by_name(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Name -> (scale of the rate, decay); each parameter is in one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = [
        (names[id(p)], (group["lr_scale"], group["weight_decay"]))
        for group in groups
        for p in group["params"]
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_no_decay_on_biases_norms_tokens_and_positions():
    """Per block 4 matrices decay and 8 vectors do not; patch kernel and two heads decay."""
    model = create_model("deit_nano_distilled_patch4_32", num_classes=10)
    decayed, undecayed = parameter_groups(model, weight_decay=0.05)
    assert len(decayed["params"]) == 4 * 4 + 3
    assert len(undecayed["params"]) == 4 * 8 + 3 + 2 + 1 + 2
    assert decayed["weight_decay"] == 0.05
    assert undecayed["weight_decay"] == 0.0
    assert decayed["lr_scale"] == undecayed["lr_scale"] == 1.0
    entries = entries_by_name(model, [undecayed])
    assert {"cls_token", "dist_token", "pos_embed"} <= set(entries)


def test_each_layer_learns_half_as_fast_as_the_one_above():
    """4 blocks, d = 1/2: head 1, block 3 1/2, block 0 1/16, all before it 1/32; 12 groups."""
    model = create_model("deit_nano_distilled_patch4_32", num_classes=10, layer_scale=0.1)
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.5)
    entries = entries_by_name(model, groups)
    assert set(entries) == {name for name, _ in model.named_parameters()}
    for name, (scale, _) in entries.items():
        if name.startswith("blocks."):
            expected = 0.5 ** (4 - int(name.split(".")[1]))
        else:
            expected = 1.0 if name.startswith(("norm.", "head")) else 1 / 32
        assert scale == expected, name
    assert entries["pos_embed"] == entries["dist_token"] == (1 / 32, 0.0)
    assert entries["patch_embed.proj.weight"] == (1 / 32, 0.05)
    assert entries["blocks.2.ls1.gamma"] == (1 / 4, 0.0)
    assert len(groups) == 2 * (4 + 2)
    assert [g["lr_scale"] for g in groups] == sorted(g["lr_scale"] for g in groups)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_groups_are_those_of_timm(name):
    """But for the last norm: timm's is in the last block, ours, BEiT's and MAE's at the head."""
    import timm
    from timm.optim import param_groups_layer_decay

    theirs = timm.create_model(name)
    groups = param_groups_layer_decay(
        theirs, 0.05, no_weight_decay_list=theirs.no_weight_decay(), layer_decay=0.75
    )
    expected = entries_by_name(theirs, groups)
    ours = create_model(name)
    got = entries_by_name(ours, parameter_groups(ours, weight_decay=0.05, layer_decay=0.75))
    assert set(got) == set(expected)
    for key, (scale, decay) in expected.items():
        assert got[key][1] == decay, key
        assert got[key][0] == pytest.approx(1.0 if key.startswith("norm.") else scale), key


def test_depth_of_the_convolutional_networks():
    """RegNet by its four stages, the small CNN by its three blocks."""
    regnet = layer_depths(create_model("regnety_002"))
    assert regnet["stem.conv.weight"] == 0 and regnet["head.fc.weight"] == 5
    assert {name[:3]: depth for name, depth in regnet.items() if name[0] == "s" != name[1]} | {
        "ste": 0
    } == {"ste": 0, "s1.": 1, "s2.": 2, "s3.": 3, "s4.": 4}
    cnn = layer_depths(create_model("small_cnn"))
    assert (cnn["stem.0.weight"], cnn["blocks.0.conv1.0.weight"]) == (0, 1)
    assert (cnn["blocks.2.shortcut.0.weight"], cnn["head.weight"]) == (3, 4)


def test_eleven_blocks_are_not_taken_for_one():
    depths = layer_depths(create_model("deit_tiny_patch16_224"))
    assert depths["blocks.1.attn.qkv.weight"] == 2
    assert depths["blocks.11.attn.qkv.weight"] == 12
    assert depths["head.bias"] == 13


def test_a_decay_of_one_is_none_and_needs_no_depth():
    model = nn.Linear(3, 2)
    for layer_decay in (None, 1.0):
        groups = parameter_groups(model, weight_decay=0.1, layer_decay=layer_decay)
        assert [(g["lr_scale"], g["weight_decay"]) for g in groups] == [(1.0, 0.1), (1.0, 0.0)]


def test_impossible_decays_and_models_without_order_are_refused():
    model = create_model("deit_nano_patch4_16")
    for layer_decay in (0.0, -0.5, 1.01, math.nan):
        with pytest.raises(ConfigError, match=r"LAYER_DECAY.*not above 0 and at most 1"):
            parameter_groups(model, weight_decay=0.1, layer_decay=layer_decay)
    with pytest.raises(ConfigError, match=r"LAYER_DECAY.*Linear.*neither blocks nor stages"):
        parameter_groups(nn.Linear(3, 2), weight_decay=0.1, layer_decay=0.5)


def test_frozen_parameters_are_in_no_group():
    model = create_model("deit_nano_patch4_16", num_classes=3)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    assert set(entries_by_name(model, groups)) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_every_optimizer_starts_at_the_scaled_rate_and_obeys_each_group(name):
    model = create_model("deit_nano_patch4_16", num_classes=3, depth=2)
    optimizer = build_optimizer(name, model, **(SETTINGS | {"layer_decay": 0.5, "lr": 0.04}))
    for group in optimizer.param_groups:
        assert group["lr"] == 0.04 * group["lr_scale"]
        group["lr"] = 0.0 if group["lr_scale"] < 0.3 else group["lr"]
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    torch.manual_seed(0)
    model(torch.randn(4, 3, 16, 16)).cls_logits.square().sum().backward()
    optimizer.step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    slow = {key for key in before if key.startswith("blocks.0.")}
    slow |= {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert moved == set(before) - slow


def test_steps_of_plain_sgd_are_scaled_by_depth():
    """Momentum 0, no decay: each parameter moves by lr x scale x gradient."""
    torch.manual_seed(0)
    model = create_model("small_cnn", num_classes=3)
    options = {"momentum": 0.0, "layer_decay": 0.5, "weight_decay": 0.0, "lr": 0.5}
    optimizer = build_optimizer("sgd", model, **(SETTINGS | options))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    model(torch.randn(4, 3, 32, 32)).cls_logits.square().sum().backward()
    optimizer.step()
    depths = layer_depths(model)
    for key, p in model.named_parameters():
        expected = before[key] - 0.5 * 0.5 ** (4 - depths[key]) * p.grad
        torch.testing.assert_close(p.detach(), expected)

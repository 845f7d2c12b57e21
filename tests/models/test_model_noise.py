"""Dropout, and a network with all its noise, are a function of a key (FACTS A.7)."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.models import ModelNoise, create_model
from deitkit.models.noise import drop

NOISY = {"drop_path": 0.3, "attn_drop": 0.2, "proj_drop": 0.2, "pos_drop": 0.1}


def key(first=0, global_size=8, seed=0, step=0):
    return ModelNoise(seed=seed, step=step, first=first, global_size=global_size)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 11), max_size=4),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**7),
)
def test_any_split_of_the_batch_sees_the_same_mask(cuts, seed, step):
    whole = key(0, 12, seed, step).keep_mask("blocks.3", 12, (2,), 0.5, "cpu")
    edges = [0, *sorted(cuts), 12]
    parts = [
        key(a, 12, seed, step).keep_mask("blocks.3", b - a, (2,), 0.5, "cpu")
        for a, b in pairwise(edges)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_seed_step_and_layer_each_change_the_mask():
    masks = [
        key(0, 64, seed, step).keep_mask(layer, 64, (), 0.5, "cpu")
        for seed, step, layer in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, 3)]
    ]
    for i, mask in enumerate(masks):
        assert not any(torch.equal(mask, other) for other in masks[:i])


def test_a_network_in_training_gives_the_same_for_one_batch_or_three():
    torch.manual_seed(0)
    model = create_model("deit_nano_distilled_patch4_16", num_classes=4, depth=3, **NOISY).train()
    images = torch.randn(8, 3, 16, 16)
    rng_state = torch.get_rng_state()
    whole = model(images, key())
    assert torch.equal(rng_state, torch.get_rng_state()), "keyed noise took from a generator"
    parts = [model(images[a:b], key(first=a)) for a, b in [(0, 3), (3, 4), (4, 8)]]
    for head in (0, 1):
        torch.testing.assert_close(torch.cat([part[head] for part in parts]), whole[head])
    assert not torch.allclose(whole[0], model(images, key(step=1))[0], atol=1e-3)


def test_a_mask_of_picked_images_is_their_part_of_the_whole_mask():
    whole = key(first=2).keep_mask("x", 5, (3,), 0.5, "cpu")
    picked = dataclasses.replace(key(first=2), picked=(0, 3, 4))
    assert torch.equal(picked.keep_mask("x", 3, (3,), 0.5, "cpu"), whole[[0, 3, 4]])


def test_evaluation_drops_nothing():
    torch.manual_seed(0)
    noisy = create_model("deit_nano_patch4_16", num_classes=4, depth=3, **NOISY).eval()
    quiet = create_model("deit_nano_patch4_16", num_classes=4, depth=3).train()
    quiet.load_state_dict(noisy.state_dict())
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(noisy(images, key()).cls_logits, quiet(images).cls_logits)


@pytest.mark.parametrize("noise", [None, ModelNoise(3, 5, 0, 20_000)], ids=["torch", "keyed"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropping_keeps_the_expectation(noise, rate):
    """Values are 0 or 1 / (1 - rate), mean 1 within 4 standard errors; a row goes as a whole."""
    torch.manual_seed(0)
    num_images = 20_000
    dropped = drop(
        torch.ones(num_images, 2, 3), rate=rate, per_image_shape=(1, 1), noise=noise, layer="x"
    )
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    standard_error = math.sqrt(rate / (1 - rate) / num_images)
    assert dropped[:, 0, 0].mean().item() == pytest.approx(1, abs=4 * standard_error)

"""Stochastic depth: a fixed number of images, a function of a key, not computed (FACTS A.7)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deitkit.models import ModelNoise, create_model
from deitkit.models.blocks import Block
from deitkit.models.noise import keep_images

CPU = torch.device("cpu")


def key(first=0, global_size=8, seed=0, step=0):
    return ModelNoise(seed=seed, step=step, first=first, global_size=global_size)


def kept_of(noise, num_images, rate, layer="blocks.3.attn.drop_path"):
    return keep_images(num_images, rate=rate, noise=noise, layer=layer, device=CPU)


def a_block(rate=0.5, **options) -> Block:
    torch.manual_seed(0)
    shape = {"embed_dim": 24, "num_heads": 3, "hidden_dim": 48, "qkv_bias": True, "norm_eps": 1e-6}
    chance = {"attn_drop": 0.0, "proj_drop": 0.0, "drop_path": rate, "layer_scale": 0.5}
    block = Block(name="blocks.0", **(shape | chance | options)).train()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return block


def dense(block: Block, x_BND: Tensor, noise: ModelNoise) -> Tensor:
    """The same, each branch computed for all images and masked."""
    branches = {
        "attn": lambda x: block.ls1(block.attn(block.norm1(x), noise)),
        "mlp": lambda x: block.ls2(block.mlp(block.norm2(x), noise)),
    }
    for part, branch in branches.items():
        kept = kept_of(noise, len(x_BND), block.drop_path, f"blocks.0.{part}.drop_path")
        factor_B11 = torch.zeros(len(x_BND), 1, 1)
        factor_B11[kept.positions_J] = kept.scale
        x_BND = x_BND + factor_B11 * branch(x_BND)
    return x_BND


@pytest.mark.parametrize(
    ("global_size", "rate", "num_kept"),
    [(8, 0.3, 6), (8, 0.5, 4), (10, 0.1, 9), (4, 0.9, 1), (3, 0.99, 1), (1000, 0.0909, 909)],
)
@pytest.mark.parametrize("keyed", [True, False])
def test_a_fixed_number_is_kept_and_the_factors_add_up_to_all(global_size, rate, num_kept, keyed):
    noise = key(0, global_size) if keyed else None
    kept = kept_of(noise, global_size, rate)
    assert len(kept.positions_J) == num_kept
    assert kept.scale == global_size / num_kept
    positions = kept.positions_J.tolist()
    assert positions == sorted(set(positions)) and set(positions) <= set(range(global_size))


@pytest.mark.parametrize("noise", [None, key()], ids=["torch", "keyed"])
def test_a_rate_below_half_an_image_drops_nobody(noise):
    """8 x (1 - .06) = 7.52 rounds to 8; .07 to 7."""
    assert kept_of(noise, 8, 0.06) is None
    assert len(kept_of(noise, 8, 0.07).positions_J) == 7


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 11), max_size=5),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**7),
    rate=st.floats(0.05, 0.99),
)
def test_any_split_of_the_step_keeps_the_same_images(cuts, seed, step, rate):
    whole = kept_of(key(0, 12, seed, step), 12, rate)
    together = []
    for a, b in pairwise([0, *sorted(cuts), 12]):
        part = kept_of(key(a, 12, seed, step), b - a, rate)
        assert part.scale == whole.scale
        assert part.noise.picked == tuple(part.positions_J.tolist())
        together += (part.positions_J + a).tolist()
    assert together == whole.positions_J.tolist()


def test_every_image_is_as_likely_and_every_key_another_draw():
    """6 of 8 kept, 3,000 steps: each .75 within 5 standard errors, each pair 15 / 28."""
    mask = torch.zeros(3000, 8)
    for step in range(3000):
        mask[step, kept_of(key(step=step), 8, 0.25).positions_J] = 1
    error = math.sqrt(0.75 * 0.25 / 3000)
    assert (mask.mean(0) - 0.75).abs().max() < 5 * error
    pairs = (mask.T @ mask / 3000)[~torch.eye(8, dtype=torch.bool)]
    assert (pairs - 15 / 28).abs().max() < 5 * math.sqrt(15 * 13 / 28**2 / 3000)
    draws = [
        kept_of(key(0, 64, seed, step), 64, 0.5, layer).positions_J.tolist()
        for seed, step, layer in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    ]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["paths", "paths and dropout"])
def test_a_block_is_the_masked_dense_one(dropout):
    """Values and every gradient; dropout inside a branch falls on the same images."""
    block = a_block(attn_drop=dropout, proj_drop=dropout)
    x_BND = torch.randn(8, 5, 24, requires_grad=True)
    weights_BND = torch.randn(8, 5, 24)
    inputs = [x_BND, *block.parameters()]
    ours = block(x_BND, key())
    theirs = dense(block, x_BND, key())
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((y * weights_BND).sum(), inputs) for y in (ours, theirs)]
    for ours_grad, their_grad in zip(*gradients, strict=True):
        torch.testing.assert_close(ours_grad, their_grad, atol=1e-5, rtol=1e-4)


def test_dropped_images_are_not_computed():
    block, seen = a_block(rate=0.75), []
    for part in (block.attn, block.mlp):
        part.register_forward_hook(lambda module, args, _: seen.append(len(args[0])))
    x_BND = torch.randn(8, 5, 24)
    block(x_BND, key())
    block(x_BND)
    assert seen == [2, 2, 2, 2]
    block.eval()(x_BND)
    assert seen[4:] == [8, 8]


def test_images_out_of_both_branches_leave_the_block_as_they_came():
    block = a_block(rate=0.75)
    x_BND = torch.randn(8, 5, 24)
    kept = [
        kept_of(key(), 8, 0.75, f"blocks.0.{part}.drop_path").positions_J.tolist()
        for part in ("attn", "mlp")
    ]
    same = (block(x_BND, key()) == x_BND).flatten(1).all(1)
    assert {i for i in range(8) if same[i]} == set(range(8)) - set(kept[0]) - set(kept[1])


def test_without_a_key_torchs_generator_decides():
    block = a_block()
    x_BND = torch.randn(8, 5, 24)
    torch.manual_seed(3)
    first, second = block(x_BND), block(x_BND)
    torch.manual_seed(3)
    assert torch.equal(block(x_BND), first)
    assert not torch.equal(first, second)
    before = torch.get_rng_state()
    block(x_BND, key())
    assert torch.equal(torch.get_rng_state(), before), "keyed noise took from a generator"


def test_where_nobody_is_dropped_the_bits_are_those_of_the_plain_block():
    quiet, rare = a_block(rate=0.0), a_block(rate=0.06)
    x_BND = torch.randn(8, 5, 24)
    assert torch.equal(rare(x_BND, key()), quiet(x_BND))


def test_gradients_of_micro_batches_add_up_to_those_of_the_step():
    torch.manual_seed(0)
    chance = {"drop_path": 0.6, "drop_path_schedule": "constant", "proj_drop": 0.1}
    model = create_model("deit_nano_conv_distilled_patch4_16", num_classes=4, depth=2, **chance)
    images = torch.randn(8, 3, 16, 16)

    def gradients(edges: list[int]) -> list[Tensor]:
        model.zero_grad()
        for a, b in pairwise(edges):
            output = model(images[a:b], key(first=a))
            (output.cls_logits.square().sum() + output.dist_logits.square().sum()).backward()
        return [p.grad.clone() for p in model.parameters()]

    for got, expected in zip(gradients([0, 1, 3, 4, 8]), gradients([0, 8]), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def a_key_that_keeps_nobody(num_images: int) -> ModelNoise:
    """A step whose kept images are all in the rest of the global batch, for every branch."""
    for step in range(1000):
        noise = key(0, 64, step=step)
        if all(
            len(kept_of(noise, num_images, 0.9, f"{name}.{part}.drop_path").positions_J) == 0
            for name in ("blocks.0", "blocks.1")
            for part in ("attn", "mlp")
        ):
            return noise
    raise AssertionError("no such step")


@pytest.mark.parametrize("attn_drop", [0.0, 0.1], ids=["fused", "explicit"])
def test_a_micro_batch_without_a_kept_image_has_gradients_of_zero(attn_drop):
    """Not none: DistributedDataParallel refuses the next step after a parameter took no part."""
    torch.manual_seed(0)
    chance = {"drop_path": 0.9, "drop_path_schedule": "constant", "layer_scale": 0.1}
    model = create_model(
        "deit_nano_conv_patch4_16", num_classes=4, depth=2, attn_drop=attn_drop, **chance
    )
    images = torch.randn(2, 3, 16, 16)
    model(images, a_key_that_keeps_nobody(2)).cls_logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith("blocks."):
            assert parameter.grad.abs().max() == 0, name
    assert model.head.weight.grad.abs().max() > 0 and model.cls_token.grad.abs().max() > 0


@pytest.mark.parametrize("layer_scale", [None, 0.5], ids=["half branch", "single branch"])
def test_under_autocast_the_stream_keeps_its_dtype(layer_scale):
    block = a_block(layer_scale=layer_scale)
    x_BND = torch.randn(8, 5, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x_BND, key())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, block(x_BND, key()), atol=0.1, rtol=0.05)

"""The convolutional stem and the convolution in the MLP: counts, and what they do not touch."""

from __future__ import annotations

import pytest
import torch

from deitkit.errors import ConfigError
from deitkit.models import create_model
from deitkit.models.blocks import Mlp
from deitkit.models.patch_embed import ConvStem, PoolingStem


def num_params(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("patch", "widths"), [(2, (32, 64)), (4, (32, 64)), (8, (16, 32, 64)), (16, (8, 16, 32, 64))]
)
def test_parameters_of_the_stem_by_hand(patch, widths):
    """Each 3x3 convolution 9 in out, its norm 2 out; the projection 64 x 64 + 64."""
    stem = ConvStem(in_channels=3, embed_dim=64, patch_size=patch)
    expected, before = 64 * 64 + 64, 3
    for width in widths:
        expected += 9 * before * width + 2 * width
        before = width
    assert num_params(stem) == expected
    assert stem(torch.rand(2, 3, 32, 48)).shape == (2, 32 * 48 // patch**2, 64)


def test_a_conv_name_stands_for_stem_mlp_and_init():
    plain = create_model("deit_nano_distilled_patch4_32", num_classes=10)
    conv = create_model("deit_nano_conv_distilled_patch4_32", num_classes=10)
    assert conv.config["stem"] == "conv" and conv.config["mlp_conv"] is True
    assert conv.config["weight_init"] == "kaiming"
    stem = num_params(conv.patch_embed) - num_params(plain.patch_embed)
    in_mlps = 4 * (9 * 256 + 256)
    assert num_params(conv) - num_params(plain) == stem + in_mlps


def test_an_image_does_not_depend_on_its_batch_in_training_either():
    torch.manual_seed(0)
    model = create_model("deit_nano_conv_distilled_patch4_16", num_classes=3).train()
    images = torch.rand(5, 3, 16, 16)
    together = model(images)
    alone = model(images[3:4])
    torch.testing.assert_close(together.cls_logits[3:4], alone.cls_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.dist_logits[3:4], alone.dist_logits, atol=1e-5, rtol=1e-5)


def test_special_tokens_pass_by_the_convolution_and_patches_hear_their_neighbours():
    torch.manual_seed(0)
    mlp = Mlp(name="m", embed_dim=8, hidden_dim=16, proj_drop=0.0, conv_grid=(3, 3))
    tokens = torch.rand(1, 2 + 9, 8)
    moved = tokens.clone()
    moved[0, 2] += 1.0
    changed = (mlp(tokens) - mlp(moved)).abs().sum(-1)[0] > 1e-6
    # Patch 0 is the corner: it, its right and lower neighbours and the diagonal one hear it.
    assert changed.tolist() == [False] * 2 + [True, True, False, True, True] + [False] * 4


def test_with_a_silent_convolution_the_mlp_is_the_plain_one():
    torch.manual_seed(0)
    mlp = Mlp(name="m", embed_dim=8, hidden_dim=16, proj_drop=0.0, conv_grid=(2, 3))
    plain = Mlp(name="m", embed_dim=8, hidden_dim=16, proj_drop=0.0)
    plain.load_state_dict({k: v for k, v in mlp.state_dict().items() if "conv" not in k})
    torch.nn.init.zeros_(mlp.conv.weight)
    torch.nn.init.zeros_(mlp.conv.bias)
    tokens = torch.rand(2, 7, 8)
    torch.testing.assert_close(mlp(tokens), plain(tokens))


def test_patches_that_are_no_power_of_two_are_refused_by_the_stem():
    with pytest.raises(ConfigError, match="do not make patches of 7"):
        create_model("deit_nano_patch7_28", stem="conv")
    with pytest.raises(ConfigError, match="stem"):
        create_model("deit_nano_patch4_32", stem="dense")


@pytest.mark.parametrize(
    ("blocks", "patch", "stride", "widths"),
    [
        (2, 2, 1, (8,)),
        (2, 4, 1, (8, 32)),
        (2, 8, 2, (8, 32)),
        (2, 16, 4, (8, 32)),
        (3, 4, 1, (8, 32)),
        (3, 8, 1, (8, 32, 32)),
        (3, 16, 2, (8, 32, 32)),
        (1, 4, 2, (8,)),
    ],
)
def test_parameters_of_the_pooling_stem_by_hand(blocks, patch, stride, widths):
    """Two 3x3 kernels a block and 2 a norm; the whitening before them learns nothing."""
    stem = PoolingStem(in_channels=3, embed_dim=64, patch_size=patch, width=8, num_blocks=blocks)
    expected = widths[-1] * 64 + 64
    before = 24
    for width in widths:
        expected += 9 * before * width + 9 * width * width + 4 * width
        before = width
    assert num_params(stem) == expected
    assert stem.stem.filters.shape == (24, 3, 2 * stride, 2 * stride)
    assert stem(torch.rand(2, 3, 32, 48)).shape == (2, 32 * 48 // patch**2, 64)


@pytest.mark.parametrize(("num_blocks", "side", "grid"), [(2, 32, 8), (3, 32, 4), (3, 28, 3)])
def test_the_pooling_stem_computes_the_first_stages_of_a_quick_cnn(num_blocks, side, grid):
    """Of 28 pixels three poolings leave 14, 7 and 3: the last row and column of 7 are out."""
    torch.manual_seed(0)
    network = create_model("quick_cnn_narrow", num_classes=5, image_size=side).eval()
    stem = PoolingStem(
        in_channels=3, embed_dim=64, patch_size=2**num_blocks, width=16, num_blocks=num_blocks
    ).eval()
    stem.blocks.load_state_dict(network.blocks[:num_blocks].state_dict())
    torch.nn.init.dirac_(stem.proj.weight)
    torch.nn.init.zeros_(stem.proj.bias)
    images = torch.rand(2, 3, side, side)
    last_map = network.blocks[:num_blocks](network.stem(images))
    assert last_map.shape == (2, 64, grid, grid)
    torch.testing.assert_close(stem(images), last_map.flatten(2).mT)


def test_a_hybrid_is_a_quick_one_with_three_stages_before_fewer_tokens():
    """A third block, 64 to 64 channels twice and two norms, and 7 x 7 less 3 x 3 positions."""
    quick = create_model("deit_slim_quick_distilled_patch4_28", num_classes=10)
    hybrid = create_model("deit_slim_hybrid_distilled_patch8_28", num_classes=10)
    more = 2 * 9 * 64 * 64 + 4 * 64 - (49 - 9) * 64
    assert num_params(hybrid) - num_params(quick) == more
    assert hybrid.grid_size == (3, 3)
    out = hybrid.eval()(torch.rand(2, 3, 28, 28))
    assert out.cls_logits.shape == out.dist_logits.shape == (2, 10)


def test_a_pooling_stem_needs_room_for_one_patch_and_three_stages_at_most():
    with pytest.raises(ConfigError, match="8 is more than the image width of 4"):
        create_model("deit_slim_hybrid_patch8_32", image_size=(32, 4))
    with pytest.raises(ConfigError, match="stem_blocks"):
        create_model("deit_slim_hybrid_patch8_32", stem_blocks=4)
    with pytest.raises(ConfigError, match="does not divide"):
        create_model("deit_slim_conv_patch8_28")


def test_with_pool_mean_a_head_reads_its_token_and_the_mean_of_the_patches():
    torch.manual_seed(0)
    plain = create_model("deit_nano_distilled_patch4_16", num_classes=3).eval()
    pooled = create_model("deit_nano_distilled_patch4_16", num_classes=3, pool="mean").eval()
    pooled.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 16, 16)
    tokens = plain.forward_features(images)
    patches = tokens[:, 2:].sum(dim=1) / 16
    out = pooled(images)
    torch.testing.assert_close(out.cls_logits, plain.head(tokens[:, 0] + patches))
    torch.testing.assert_close(out.dist_logits, plain.head_dist(tokens[:, 1] + patches))
    both = (out.cls_logits + out.dist_logits) / 2
    shared = pooled.embed(images)
    pooled.head_dist.load_state_dict(pooled.head.state_dict())
    again = pooled(images)
    mean = (again.cls_logits + again.dist_logits) / 2
    torch.testing.assert_close(pooled.head(shared), mean)
    assert not torch.allclose(both, mean)
    with pytest.raises(ConfigError, match="pool"):
        create_model("deit_nano_patch4_16", pool="max")

"""The pooling network: its filters, its counts, its start."""

from __future__ import annotations

import math

import pytest
import torch

from deitkit.errors import ConfigError
from deitkit.models import create_model, model_cost
from deitkit.models.quick_cnn import PoolingBlock, whitening_filters


def test_the_filters_of_a_grey_pair_by_hand():
    """Sums and differences of 2x2, over the roots of their variances 1.95, .05 and products."""
    filters = whitening_filters(1, 2)
    assert filters.shape == (4, 1, 2, 2)
    large, small = 1 + 0.95, 1 - 0.95
    mean = torch.full((2, 2), 0.5 / math.sqrt(large * large + 5e-4))
    torch.testing.assert_close(filters[0, 0], mean)
    upright = torch.tensor([[0.5, -0.5], [0.5, -0.5]]) / math.sqrt(large * small + 5e-4)
    lying = upright.T
    assert torch.allclose(filters[1, 0], lying) or torch.allclose(filters[1, 0], upright)
    crossed = torch.tensor([[0.5, -0.5], [-0.5, 0.5]]) / math.sqrt(small * small + 5e-4)
    torch.testing.assert_close(filters[3, 0], crossed)


@pytest.mark.parametrize("side", [2, 4])
def test_the_filters_whiten_what_they_describe(side):
    """Against the covariance written out: every component has variance 1, or less by the floor,
    and no two are related more than a cosine transform leaves them."""
    filters = whitening_filters(3, side).double().flatten(1)
    place = torch.arange(side)
    lines = 0.95 ** (place[:, None] - place).abs().double()
    colours = 0.9 ** (torch.arange(3)[:, None] - torch.arange(3)).abs().double()
    covariance = filters @ torch.kron(colours, torch.kron(lines, lines)) @ filters.T
    variances = covariance.diagonal()
    assert variances.min() > 0.2 and variances.max() <= 1.0
    related = covariance / torch.outer(variances, variances).sqrt() - torch.eye(len(filters))
    assert related.abs().max() < 0.3


def test_parameters_and_products_by_hand():
    model = create_model("quick_cnn", num_classes=10, image_size=32)
    kernels = 9 * (24 * 32 + 32 * 32 + 32 * 128 + 3 * 128 * 128)
    cost = model_cost(model)
    assert cost.num_params == kernels + 4 * (32 + 128 + 128) + 128 * 10 + 10
    whitening = 32 * 32 * 12 * 24
    maps = 32**2 * 24 * 32 + 16**2 * 32 * 32 + 16**2 * 32 * 128 + 8**2 * 128 * 128
    maps += 8**2 * 128 * 128 + 4**2 * 128 * 128
    assert cost.macs_per_image == whitening + 9 * maps + 1280


def test_a_new_block_passes_its_input_through():
    torch.manual_seed(0)
    block = create_model("quick_cnn_narrow", num_classes=10, image_size=32).blocks[1]
    assert isinstance(block, PoolingBlock)
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(block.conv1(x)[:, :16], x)


def test_the_head_reads_each_channels_largest_value():
    torch.manual_seed(0)
    model = create_model("quick_cnn_narrow", num_classes=5, image_size=28, in_channels=1).eval()
    images = torch.rand(3, 1, 28, 28)
    largest = model.blocks(model.stem(images)).flatten(2).max(dim=2).values
    torch.testing.assert_close(model(images).cls_logits, model.head(largest))


@pytest.mark.parametrize(("side", "map_side"), [(8, 1), (28, 3), (32, 4), (64, 4), (96, 6)])
def test_the_last_map_of_each_size(side, map_side):
    model = create_model("quick_cnn_narrow", num_classes=5, image_size=side).eval()
    assert model.forward_features(torch.rand(1, 3, side, side)).shape[2:] == (map_side, map_side)


def test_a_width_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="width"):
        create_model("quick_cnn", width=0)


def test_blocks_that_begin_as_the_identity_pass_tokens_on():
    torch.manual_seed(0)
    model = create_model("deit_micro_quick_patch4_32", num_classes=5).eval()
    assert model.config["weight_init"] == "identity"
    images = torch.rand(2, 3, 32, 32)
    tokens = model.norm(model.embed_tokens(images))
    torch.testing.assert_close(model.forward_features(images), tokens)
    kernel = model.patch_embed.blocks[1].conv1.weight
    assert torch.equal(kernel[:32].sum(dim=(2, 3)), torch.eye(32))

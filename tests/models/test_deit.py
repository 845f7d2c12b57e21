"""What the transformer computes (FACTS A.4, A.5, A.7, A.8)."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from deitkit.errors import DataError
from deitkit.models import create_model
from deitkit.models.blocks import Attention, attention_weights
from deitkit.models.deit import drop_path_rates


def small_deit(**options):
    torch.manual_seed(0)
    options = {"num_classes": 5, **options}
    model = create_model("deit_nano_distilled_patch4_16", depth=2, **options).eval()
    with torch.no_grad():  # Away from the start, where heads and tokens hardly differ.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_198_tokens_and_both_heads_in_training_or_not():
    model = create_model("deit_tiny_distilled_patch16_224", depth=1, num_classes=3)
    images = torch.randn(1, 3, 224, 224)
    assert model.forward_features(images).shape == (1, 198, 192)
    in_training, in_evaluation = model.train()(images), model.eval()(images)
    torch.testing.assert_close(in_training, in_evaluation)
    tokens = model.forward_features(images)
    torch.testing.assert_close(in_evaluation.cls_logits, model.head(tokens[:, 0]))
    torch.testing.assert_close(in_evaluation.dist_logits, model.head_dist(tokens[:, 1]))
    torch.testing.assert_close(model.embed(images), (tokens[:, 0] + tokens[:, 1]) / 2)


def test_without_the_token_there_is_one_head_and_the_class_token_is_the_embedding():
    model = create_model("deit_nano_patch4_16", depth=1, num_classes=3).eval()
    images = torch.randn(2, 3, 16, 16)
    assert model(images).dist_logits is None
    torch.testing.assert_close(model.embed(images), model.forward_features(images)[:, 0])


def test_an_image_is_not_changed_by_its_neighbours():
    model = small_deit()
    images = torch.randn(5, 3, 16, 16)
    together = model(images)
    for i in range(5):
        alone = model(images[i : i + 1])
        torch.testing.assert_close(alone.cls_logits[0], together.cls_logits[i])
        torch.testing.assert_close(alone.dist_logits[0], together.dist_logits[i])


def test_the_patch_convolution_is_a_linear_layer_on_unfolded_patches():
    model = small_deit()
    images = torch.randn(2, 3, 16, 16)
    patches = F.unfold(images, kernel_size=4, stride=4).transpose(1, 2)
    weight = model.patch_embed.proj.weight.flatten(1)
    expected = F.linear(patches, weight, model.patch_embed.proj.bias)
    torch.testing.assert_close(model.patch_embed(images), expected, atol=1e-5, rtol=1e-5)


def test_without_positions_the_order_of_patches_does_not_matter():
    model = small_deit()
    images = torch.randn(2, 3, 16, 16)
    patches = F.unfold(images, kernel_size=4, stride=4)
    shuffled = F.fold(patches[:, :, torch.randperm(16)], (16, 16), kernel_size=4, stride=4)
    assert not torch.allclose(model(images).cls_logits, model(shuffled).cls_logits, atol=1e-3)
    with torch.no_grad():
        model.pos_embed.zero_()
    torch.testing.assert_close(model(images), model(shuffled), atol=1e-5, rtol=1e-4)


def test_the_fused_attention_is_the_explicit_one():
    torch.manual_seed(0)
    attention = Attention(
        name="a", embed_dim=24, num_heads=3, qkv_bias=True, attn_drop=1e-12, proj_drop=0.0
    )
    x_BND = torch.randn(2, 7, 24)
    q_BANE, k_BANE, v_BANE = attention.split_heads(x_BND)
    weights_BANN = attention_weights(q_BANE, k_BANE)
    torch.testing.assert_close(weights_BANN.sum(-1), torch.ones(2, 3, 7))
    torch.testing.assert_close(
        weights_BANN @ v_BANE, F.scaled_dot_product_attention(q_BANE, k_BANE, v_BANE)
    )
    # 1 - 1e-12 keeps everything, so training takes the explicit path and must agree.
    explicit, fused = attention.train()(x_BND), attention.eval()(x_BND)
    torch.testing.assert_close(explicit, fused, atol=1e-5, rtol=1e-5)


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours = Attention(name="a", embed_dim=24, num_heads=3, qkv_bias=True, attn_drop=0, proj_drop=0)
    theirs = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.proj.weight)
        theirs.out_proj.bias.copy_(ours.proj.bias)
    x_BND = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x_BND), theirs(x_BND, x_BND, x_BND)[0])


def test_drop_path_grows_linearly_or_is_constant():
    rates = drop_path_rates(0.1, 12, "linear")
    expected = [0, 0.009091, 0.018182, 0.027273, 0.036364, 0.045455]
    expected += [0.054545, 0.063636, 0.072727, 0.081818, 0.090909, 0.1]
    assert rates == pytest.approx(expected, abs=1e-6)
    assert drop_path_rates(0.05, 3, "constant") == [0.05, 0.05, 0.05]
    assert drop_path_rates(0.1, 1, "linear") == [0.0]
    model = create_model("deit_nano_patch4_16", drop_path=0.1)
    assert [block.drop_path for block in model.blocks] == drop_path_rates(0.1, 4, "linear")


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_the_first_loss_is_that_of_guessing(num_classes):
    """ln K: 2.3026, 4.6052, 6.9078."""
    torch.manual_seed(0)
    model = create_model("deit_micro_distilled_patch4_16", num_classes=num_classes)
    labels = torch.randint(num_classes, (32,))
    for logits in model(torch.randn(32, 3, 16, 16)):
        assert F.cross_entropy(logits, labels).item() == pytest.approx(
            math.log(num_classes), abs=0.15
        )


def test_the_default_start_is_truncated_normal():
    torch.manual_seed(0)
    model = create_model("deit_tiny_distilled_patch16_224", depth=2)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linears) == 2 * 4 + 2
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, abs=1e-3)
        assert linear.bias.abs().max() == 0
    for token in (model.cls_token, model.dist_token, model.pos_embed):
        assert token.std().item() == pytest.approx(0.02, abs=4e-3)
    assert not torch.equal(model.cls_token, model.dist_token)


def test_the_other_starts():
    torch.manual_seed(0)
    kaiming = create_model("deit_tiny_patch16_224", depth=1, weight_init="kaiming")
    for weight in (kaiming.blocks[0].mlp.fc1.weight, kaiming.patch_embed.proj.weight):
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    constant = create_model("deit_tiny_patch16_224", depth=1, weight_init="constant")
    assert constant.blocks[0].attn.qkv.weight.unique().tolist() == pytest.approx([0.02])
    tutorial = create_model("deit_tutorial_depth3_patch16_224", depth=1, num_classes=2)
    assert tutorial.cls_token.unique().tolist() == [1.0]
    assert tutorial.dist_token.std().item() == pytest.approx(0.02, abs=2e-3)
    assert tutorial.blocks[0].norm1.eps == tutorial.norm.eps == 1e-5
    assert tutorial.blocks[0].attn.qkv.bias is None
    assert tutorial.blocks[0].attn.num_heads == 4
    scaled = create_model("deit_nano_patch4_16", layer_scale=1e-4)
    torch.testing.assert_close(scaled.blocks[3].ls2.gamma, torch.full((64,), 1e-4))


def test_images_of_another_shape_are_refused_with_the_right_one():
    model = create_model("deit_nano_patch4_16", image_size=(16, 24), in_channels=1)
    with pytest.raises(DataError, match="16x24 pixels"):
        model(torch.zeros(1, 1, 24, 16))
    with pytest.raises(DataError, match="1 channels"):
        model(torch.zeros(1, 3, 16, 24))


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_gradients_reach_every_parameter(in_channels):
    torch.manual_seed(0)
    model = create_model(
        "deit_nano_distilled_patch4_16",
        num_classes=4,
        image_size=(8, 16),
        in_channels=in_channels,
        layer_scale=0.1,
    )
    output = model(torch.randn(2, in_channels, 8, 16))
    (output.cls_logits.square().sum() + output.dist_logits.square().sum()).backward()
    dead = [key for key, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == []

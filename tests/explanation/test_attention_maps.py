"""Rollout by hand, relevance against another implementation, and the walk against the model."""

# Shapes: B images, N tokens (P patches), A heads of attention, K classes, L blocks.

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deitkit.errors import ModelFileError
from deitkit.explanation.attention_maps import _walk, relevance, rollout
from deitkit.models import DeiT, create_model


def looks_at(*rows: tuple[float, ...], distilled: bool = False) -> DeiT:
    """A model of 2 x 2 patches in whose l-th block every token looks at the tokens by rows[l].

    Tokens are unit vectors that no block changes; queries are one constant, and a key is the
    logarithm of what its token gets.
    """
    num_tokens = 6 if distilled else 5
    width = 8
    model = create_model(
        f"deit_nano{'_distilled' if distilled else ''}_patch4_16",
        num_classes=3,
        image_size=8,
        embed_dim=width,
        depth=len(rows),
        num_heads=1,
    )
    assert isinstance(model, DeiT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.pos_embed[0] = torch.eye(width)[:num_tokens]
        # A unit vector through a norm: its own entry less the others' is this.
        step = 1 / math.sqrt((1 / width) * (1 - 1 / width) + 1e-6)
        for block, row in zip(model.blocks, rows, strict=True):
            block.norm1.weight.fill_(1)
            block.attn.qkv.bias[0] = 1.0
            keys = torch.log(torch.tensor(row)) * math.sqrt(width) / step
            block.attn.qkv.weight[width, :num_tokens] = keys
    return model.eval()


IMAGE = torch.zeros(1, 3, 8, 8)


def test_rollout_of_one_block_by_hand():
    """(A + 1) / 2 gives the class token half of (0.1, 0.2, 0.2, 0.3); the least is taken off."""
    ((only,),) = rollout(looks_at((0.2, 0.1, 0.2, 0.2, 0.3)), IMAGE)
    assert (only.head, only.method, only.class_index) == ("class", "rollout", None)
    np.testing.assert_allclose(only.grid_RC, [[0, 0.5], [0.5, 1]], atol=1e-5)


def test_rollout_of_a_head_that_reads_the_mean_too():
    """Without attention to others a patch has flowed into the mean as much as any: to its token
    (A + 1) / 2 gives half of (0.1, 0.2, 0.2, 0.3), and the mean of the patches half of these and
    an eighth for being one of four."""
    model = looks_at((0.2, 0.1, 0.2, 0.2, 0.3))
    model.pool = "mean"
    ((only,),) = rollout(model, IMAGE)
    np.testing.assert_allclose(only.grid_RC, [[0, 0.5], [0.5, 1]], atol=1e-5)


def test_rollout_of_two_blocks_by_hand():
    """Where all tokens look alike, (B + 1)(A + 1) / 4 has (2 a + b) / 4 in the class token's row:
    a = (0.1, 0.2, 0.2, 0.3), b = (0.4, 0.2, 0.1, 0.1) give (0.6, 0.6, 0.5, 0.7) / 4."""
    model = looks_at((0.2, 0.1, 0.2, 0.2, 0.3), (0.2, 0.4, 0.2, 0.1, 0.1))
    ((only,),) = rollout(model, IMAGE)
    np.testing.assert_allclose(only.grid_RC, [[0.5, 0.5], [0, 1]], atol=1e-5)


def test_rollout_has_a_map_for_each_token():
    model = looks_at((0.1, 0.1, 0.1, 0.2, 0.2, 0.3), distilled=True)
    (maps,) = rollout(model, IMAGE)
    assert [one.head for one in maps] == ["class", "distillation"]
    for one in maps:
        np.testing.assert_allclose(one.grid_RC, [[0, 0.5], [0.5, 1]], atol=1e-5)


def test_a_model_that_looks_everywhere_alike_has_an_empty_map():
    ((only,),) = rollout(looks_at((0.2,) * 5), IMAGE)
    assert not only.grid_RC.any()


KINDS = {
    "plain": {"name": "deit_nano_patch4_16"},
    "distilled": {"name": "deit_nano_distilled_patch4_16"},
    "layer scale, no qkv bias": {
        "name": "deit_nano_distilled_patch4_16",
        "layer_scale": 0.5,
        "qkv_bias": False,
    },
    "convolutions": {"name": "deit_nano_patch4_16", "stem": "conv", "mlp_conv": True},
    "residual, heads read the mean": {
        "name": "deit_nano_distilled_patch4_16",
        "stem": "pooling",
        "mlp_conv": True,
        "pool": "mean",
    },
    "DeiT III, oblong": {
        "name": "deit_nano_patch4_16",
        "pos_embed_cls": False,
        "image_size": (16, 24),
    },
}


def random_model(kind: str) -> DeiT:
    """With weights large enough that attention is far from even."""
    settings = {"num_classes": 5, "depth": 3, "embed_dim": 24, "num_heads": 2, **KINDS[kind]}
    torch.manual_seed(0)
    model = create_model(**settings).eval()
    assert isinstance(model, DeiT)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weight" in name and "norm" not in name:
                parameter.mul_(8)
    return model


def noise(model: DeiT, num: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 3, *model.image_size, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_the_walk_is_the_models_own_forward(kind):
    """Attention written out gives the logits of the model, and each of its rows is a share."""
    model = random_model(kind)
    images_BCHW = noise(model)
    with torch.no_grad():
        tokens_BND, weights_LBANN = _walk(model, images_BCHW)
        output = model(images_BCHW)
        read_BSD = model.head_inputs(tokens_BND)
        torch.testing.assert_close(model.head(read_BSD[:, 0]), output.cls_logits, atol=1e-5, rtol=0)
        if model.head_dist is not None:
            dist = model.head_dist(read_BSD[:, 1])
            torch.testing.assert_close(dist, output.dist_logits, atol=1e-5, rtol=0)
    assert len(weights_LBANN) == 3
    for weights_BANN in weights_LBANN:
        torch.testing.assert_close(weights_BANN.sum(-1), torch.ones(weights_BANN.shape[:-1]))


def other_relevance(
    model: DeiT, image_CHW: torch.Tensor, place: int, class_index: int, monkeypatch
) -> np.ndarray:
    """Chefer et al.'s equations 5 and 6 in float64 loops, from the model's own forward pass: its
    attention kernel is replaced by one that keeps the weights and their gradients."""
    kept = []

    def attention(q, k, v):
        weights = torch.softmax(torch.einsum("bhne,bhme->bhnm", q, k) / q.shape[-1] ** 0.5, dim=-1)
        weights.retain_grad()
        kept.append(weights)
        return torch.einsum("bhnm,bhme->bhne", weights, v)

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        output = model(image_CHW[None])
    logits = output.cls_logits if place == 0 else output.dist_logits
    model.zero_grad()
    logits[0, class_index].backward()
    num_tokens = kept[0].shape[-1]
    total = np.eye(num_tokens)
    for weights in kept:
        product = (weights.grad[0] * weights.detach()[0]).double().numpy()
        step = np.zeros((num_tokens, num_tokens))
        for head in product:
            step += np.where(head > 0, head, 0) / len(product)
        total = total + step @ total
    patches = total[place, model.num_special_tokens :]
    if model.pool == "mean":
        for row in total[model.num_special_tokens :]:
            patches = patches + row[model.num_special_tokens :] / (num_tokens - 2)
    return (patches / patches.max()).reshape(model.grid_size)


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_is_that_of_another_implementation(kind, monkeypatch):
    model = random_model(kind)
    images_BCHW = noise(model)
    classes = [4, 0, 2]
    for image, maps in enumerate(relevance(model, images_BCHW, classes)):
        heads = ["class"] if model.head_dist is None else ["class", "distillation"]
        assert [one.head for one in maps] == heads
        for place, one in enumerate(maps):
            expected = other_relevance(
                model, images_BCHW[image], place, classes[image], monkeypatch
            )
            assert one.class_index == classes[image]
            np.testing.assert_allclose(one.grid_RC, expected, atol=1e-4)


def test_relevance_is_of_the_class_that_is_asked_for():
    model = random_model("distilled")
    grids = [
        [one.grid_RC for one in relevance(model, noise(model, 1), [k])[0]]
        for k in range(model.num_classes)
    ]
    for head in range(2):
        for k in range(1, model.num_classes):
            assert not np.allclose(grids[0][head], grids[k][head], atol=0.01)


def test_explaining_leaves_the_model_alone():
    """No gradient stays in the weights, and gradients may be off around it."""
    model = random_model("distilled")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        relevance(model, noise(model), [0, 1, 2])
    rollout(model, noise(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_without_tokens_says_so():
    model = create_model("small_cnn", num_classes=3).eval()
    with pytest.raises(ModelFileError, match="no tokens that look at patches") as caught:
        rollout(model, torch.zeros(1, 3, 32, 32))
    assert caught.value.code == "EXPLAIN"

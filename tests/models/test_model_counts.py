"""Parameters and multiply-accumulates with published or closed-form answers (FACTS A.1 to A.3)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deitkit.models import create_model, model_cost, summary_table

PUBLISHED = {
    # name: (parameters, GMAC of one image, rounded as published)
    "deit_tiny_patch16_224": (5_717_416, 1.2537),
    "deit_tiny_distilled_patch16_224": (5_910_800, 1.261),
    "deit_small_patch16_224": (22_050_664, 4.5989),
    "deit_small_distilled_patch16_224": (22_436_432, 4.624),
    "deit_base_patch16_224": (86_567_656, 17.5638),
    "deit_base_distilled_patch16_224": (87_338_192, 17.657),
    "deit_base_patch16_384": (86_859_496, 55.4844),
    "deit_base_distilled_patch16_384": (87_630_032, 55.59),
    "deit_tutorial_depth3_patch16_224": (23_540_432, 4.502),
}


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_cost(name):
    num_params, gmacs = PUBLISHED[name]
    cost = model_cost(on_meta(name))
    assert cost.num_params == num_params
    digits = len(str(gmacs).partition(".")[2])
    assert round(cost.macs_per_image / 1e9, digits) == pytest.approx(gmacs, abs=1.01 * 10**-digits)


def test_the_tutorial_model_by_hand():
    """590,592 patch + 153,600 tokens and positions + 3 blocks + norm + two heads."""
    parts = 590_592 + 153_600 + 3 * 7_085_568 + 1_536 + 2 * 769_000
    macs_of_blocks = 3 * (12 * 768**2 * 198 + 2 * 198**2 * 768)
    cost = model_cost(on_meta("deit_tutorial_depth3_patch16_224"))
    assert cost.num_params == parts == 23_540_432
    assert cost.macs_per_image == 196 * 768 * 768 + macs_of_blocks + 2 * 768 * 1000
    with_bias = on_meta("deit_tutorial_depth3_patch16_224", qkv_bias=True)
    assert model_cost(with_bias).num_params == 23_547_344


def test_attention_products_are_part_of_the_cost():
    """Without the two attention products DeiT-tiny would cost 1.0749 GMAC (FACTS A.2)."""
    products = 12 * 2 * 197**2 * 192
    cost = model_cost(on_meta("deit_tiny_patch16_224"))
    assert round((cost.macs_per_image - products) / 1e9, 4) == 1.0749


@pytest.mark.parametrize(
    ("name", "num_classes", "options", "num_params"),
    [
        ("deit_tiny_patch4_32", 10, {}, 5_362_762),
        ("deit_tiny_patch4_32", 100, {}, 5_380_132),
        ("deit_tiny_distilled_patch4_32", 10, {}, 5_365_076),
        ("deit_tiny_distilled_patch4_32", 100, {}, 5_399_816),
        ("deit_small_patch4_32", 10, {}, 21_342_346),
        ("deit_small_patch4_32", 100, {}, 21_376_996),
        ("deit_small_distilled_patch4_32", 10, {}, 21_346_964),
        ("deit_small_distilled_patch4_32", 100, {}, 21_416_264),
        ("deit_tiny_patch2_32", 10, {}, 5_392_714),
        # DeiT III: LayerScale, positions for patches only.
        ("deit_small_patch16_224", 1000, {"layer_scale": 1e-4, "pos_embed_cls": False}, 22_059_496),
        ("deit_base_patch16_224", 1000, {"layer_scale": 1e-4, "pos_embed_cls": False}, 86_585_320),
    ],
)
def test_variants_have_their_closed_form_count(name, num_classes, options, num_params):
    model = on_meta(name, num_classes=num_classes, **options)
    assert sum(p.numel() for p in model.parameters()) == num_params


@pytest.mark.parametrize(("width", "block"), [(192, 444_864), (384, 1_774_464), (768, 7_087_872)])
def test_one_block_is_12_d_squared_plus_13_d(width, block):
    options = {"embed_dim": width, "num_heads": 3}
    one = on_meta("deit_tiny_patch16_224", depth=1, **options)
    two = on_meta("deit_tiny_patch16_224", depth=2, **options)
    assert model_cost(two).num_params - model_cost(one).num_params == block


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("regnety_002", {}),
        ("small_cnn", {"image_size": 28, "in_channels": 1, "num_classes": 10}),
        ("deit_nano_distilled_patch4_32", {"image_size": (16, 32), "num_classes": 7}),
    ],
)
def test_the_cost_agrees_with_the_flop_counter_of_torch(name, options):
    """torch.utils.flop_counter sees every operator, groups and attention too; MAC = FLOP / 2."""
    model = create_model(name, **options).eval()
    # The math backend: the counter does not know the fused attention of the CPU.
    counter, plain = FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)
    with counter, plain, torch.no_grad():
        model(torch.zeros(1, model.in_channels, *model.image_size))
    assert counter.get_total_flops() == 2 * model_cost(model).macs_per_image


def test_the_cost_leaves_the_model_and_the_generator_alone():
    model = create_model("deit_nano_patch2_8", num_classes=10, drop_path=0.2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rng_state = torch.get_rng_state()
    model_cost(model)
    summary_table(model)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(rng_state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_summary_says_why_torchinfo_is_too_low():
    """torchinfo: 4 images x (each Linear once, the patch convolution at 196 places)."""
    artefact = 4 * 590_592 * 196 + 4 * (3 * 7_085_568 + 1_536 + 1_538_000)
    assert artefact == 554_209_088
    table = summary_table(on_meta("deit_tutorial_depth3_patch16_224"), batch_size=4)
    assert "Total params: 23,540,432" in table
    assert "Total mult-adds (M): 554.21" in table
    assert "4.502 GMAC per image, 18.008 GMAC for this batch of 4" in table
    assert "torchinfo's 554.21 M above" in table and "too low" in table


def test_the_summary_of_a_network_without_tokens_has_nothing_to_excuse():
    table = summary_table(create_model("small_cnn", num_classes=10), batch_size=2)
    assert "GMAC per image" in table and "too low" not in table

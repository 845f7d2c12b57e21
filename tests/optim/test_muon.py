"""Muon: the iteration, the step, and which parameters it is for (FACTS A.22)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deitkit.errors import ConfigError
from deitkit.models import create_model
from deitkit.optim import Muon, build_optimizer
from deitkit.optim.muon import orthogonalise, update_scale
from tests.optim.settings import SETTINGS

ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}


def polynomial(s: Tensor) -> Tensor:
    """What five iterations make of a singular value."""
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 3), (3, 12), (15, 3)])
def test_singular_values_go_through_the_polynomial_and_vectors_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(2, *shape, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    expected = u @ torch.diag_embed(polynomial(s / s.norm(dim=1, keepdim=True))) @ vt
    torch.testing.assert_close(orthogonalise(matrix), expected)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(48, 192), (192, 48), (64, 64)]),
    spread=st.floats(1.0, 30.0),
    scale=st.floats(1e-5, 1e5),
    seed=st.integers(0, 1000),
)
def test_singular_values_come_out_near_one(shape, spread, scale, seed):
    """In [.5, 1.5] for matrices whose singular values are up to 30-fold apart, of any size."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vt = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    s = torch.logspace(0, -math.log10(spread), min(shape)) * scale
    out = torch.linalg.svdvals(orthogonalise((u * s @ vt)[None]))
    assert out.min() > 0.5 and out.max() < 1.5
    half = torch.linalg.svdvals(orthogonalise((u * s @ vt)[None].bfloat16()).float())
    assert half.min() > 0.3 and half.max() < 1.6


def test_a_gradient_of_zero_stays_zero():
    assert torch.equal(orthogonalise(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


def test_the_scale_gives_a_step_the_size_of_adamws():
    """192 x 768: .2 sqrt(768) = 5.5426; times an orthogonal matrix, a root mean square of .2."""
    assert update_scale(192, 768) == update_scale(768, 192) == pytest.approx(5.5426, abs=1e-4)
    orthogonal = torch.linalg.qr(torch.randn(768, 192))[0]
    rms = (orthogonal * update_scale(768, 192)).square().mean().sqrt()
    assert rms.item() == pytest.approx(0.2, rel=1e-4)


def single(weight: Tensor, *, num_matrices: int = 1, **group) -> tuple[nn.Parameter, Muon]:
    parameter = nn.Parameter(weight.clone())
    groups = [{"params": [parameter], "is_hidden": True, "num_matrices": num_matrices, **group}]
    return parameter, Muon(groups, lr=0.01, momentum=0.95, **ADAM)


@pytest.mark.parametrize("shape", [(48, 48), (48, 160), (160, 48)])
def test_steps_are_those_of_torch(shape):
    """torch's iterates in bfloat16, so directions agree to a few in a hundred."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, our_optimizer = single(start, weight_decay=0.1)
    theirs = nn.Parameter(start.clone())
    their_optimizer = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        before = ours.detach().clone()
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        our_optimizer.step()
        their_optimizer.step()
        moved = (ours - before).norm()
        assert (ours - theirs).norm() < 0.03 * moved
        with torch.no_grad():
            theirs.copy_(ours)


def test_a_step_by_hand():
    """A gradient of 2 I: each singular value .7071 goes through the polynomial, then .2 sqrt(2)."""
    weight, optimizer = single(torch.eye(2), weight_decay=0.5)
    weight.grad = 2 * torch.eye(2)
    optimizer.step()
    step = 0.01 * 0.2 * math.sqrt(2) * polynomial(torch.tensor(math.sqrt(0.5)))
    torch.testing.assert_close(weight.detach(), torch.eye(2) * (1 - 0.01 * 0.5 - step))


def test_momentum_remembers_and_nesterov_looks_ahead():
    """Gradients g, then h: buffer b = .05 (.95 g + h), direction .05 h + .95 b."""
    torch.manual_seed(0)
    g, h = torch.randn(2, 4, 6)
    weight, optimizer = single(torch.zeros(4, 6))
    for gradient in (g, h):
        weight.grad = gradient.clone()
        before = weight.detach().clone()
        optimizer.step()
    direction = 0.05 * h + 0.95 * 0.05 * (0.95 * g + h)
    expected = before - 0.01 * 0.2 * math.sqrt(6) * orthogonalise(direction[None])[0]
    torch.testing.assert_close(weight.detach(), expected)


def test_queries_keys_and_values_are_three_matrices():
    torch.manual_seed(0)
    start, gradient = torch.randn(2, 24, 8)
    gradient[:8] *= 100  # Together, the loud queries would drown the others.
    fused, fused_optimizer = single(start, num_matrices=3)
    fused.grad = gradient.clone()
    fused_optimizer.step()
    parts = []
    for weight, grad in zip(start.chunk(3), gradient.chunk(3), strict=True):
        part, optimizer = single(weight)
        part.grad = grad.clone()
        optimizer.step()
        parts.append(part.detach())
    torch.testing.assert_close(fused.detach(), torch.cat(parts))
    whole, whole_optimizer = single(start)
    whole.grad = gradient.clone()
    whole_optimizer.step()
    assert (whole - fused).abs().max() > 1e-3


def a_network():
    torch.manual_seed(0)
    shape = {"depth": 2, "embed_dim": 24, "num_heads": 2, "layer_scale": 0.5}
    return create_model("deit_nano_conv_distilled_patch4_16", num_classes=4, **shape)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_only_the_matrices_of_the_blocks_are_orthogonalised(layer_decay):
    """Not the heads and tokens, which are 2-D or more too, nor kernels of convolutions."""
    model = a_network()
    optimizer = build_optimizer("muon", model, **(SETTINGS | {"layer_decay": layer_decay}))
    names = {id(p): name for name, p in model.named_parameters()}
    held = {
        names[id(p)]: (group["num_matrices"], group["weight_decay"], p.ndim)
        for group in optimizer.param_groups
        for p in group["params"]
        if group["is_hidden"]
    }
    expected = {}
    for i in (0, 1):
        expected[f"blocks.{i}.attn.qkv.weight"] = (3, 0.05, 2)
        for part in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            expected[f"blocks.{i}.{part}.weight"] = (1, 0.05, 2)
    assert held == expected
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert len(optimizer.param_groups) == (4 if layer_decay is None else 2 * 4 + 2 * 2)


def test_all_the_rest_is_torchs_adamw():
    """Heads, tokens, kernels, norms and biases, bit for bit, over four steps."""
    model = a_network()
    optimizer = build_optimizer("muon", model, **(SETTINGS | {"layer_decay": 0.5}))
    rest = [group for group in optimizer.param_groups if not group["is_hidden"]]
    copies = [[nn.Parameter(p.detach().clone()) for p in group["params"]] for group in rest]
    theirs = torch.optim.AdamW(
        [
            {"params": copy, "lr": group["lr"], "weight_decay": group["weight_decay"]}
            for copy, group in zip(copies, rest, strict=True)
        ],
        fused=True,
        **ADAM,
    )
    for _ in range(4):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for copy, group in zip(copies, rest, strict=True):
            for mine, parameter in zip(copy, group["params"], strict=True):
                mine.grad = parameter.grad.clone()
        optimizer.step()
        theirs.step()
    assert len(rest) == 6 + 2
    for copy, group in zip(copies, rest, strict=True):
        for mine, parameter in zip(copy, group["params"], strict=True):
            assert torch.equal(mine, parameter)


def test_a_parameter_without_gradient_stays():
    model = a_network()
    optimizer = build_optimizer("muon", model, **SETTINGS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        if "blocks.0" in name:
            p.grad = torch.randn_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != ("blocks.0" in name), name


def test_a_network_without_transformer_blocks_is_refused():
    with pytest.raises(ConfigError, match=r"OPTIMIZER.*muon.*RegNet.*use adamw or sgd"):
        build_optimizer("muon", create_model("regnety_002"), **SETTINGS)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_moves_as_the_matrix_of_its_outputs(layout):
    torch.manual_seed(0)
    kernel, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    ours, optimizer = single(kernel.to(memory_format=layout))
    ours.grad = gradient.to(memory_format=layout)
    theirs, other = single(kernel.flatten(1))
    theirs.grad = gradient.flatten(1)
    for one in (optimizer, other):
        one.step()
        one.step()
    torch.testing.assert_close(ours.flatten(1), theirs)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("quick_cnn", [f"blocks.{i}.conv{j}" for i in range(3) for j in (1, 2)]),
        ("small_cnn", [f"blocks.{i}.conv{j}.0" for i in range(3) for j in (1, 2)]),
        (
            "deit_slim_quick_patch4_32",
            [f"patch_embed.blocks.{i}.conv{j}" for i in range(2) for j in (1, 2)],
        ),
    ],
)
def test_kernels_inside_blocks_are_hidden_and_learn_at_their_own_rate(name, kernels):
    model = create_model(name)
    optimizer = build_optimizer("muon", model, **SETTINGS, hidden_lr=6.0)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: group["lr"] / SETTINGS["lr"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    hidden = [f"{kernel}.weight" for kernel in kernels]
    assert [rates[kernel] for kernel in hidden] == [6.0] * len(hidden)
    four = [name for name, p in model.named_parameters() if p.ndim == 4 and name not in hidden]
    assert all(rates[name] == 1.0 for name in four)

"""Blocks computed twice: the same bits for less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from deitkit.models import ModelNoise, create_model

CHANCE = {"drop_path": 0.4, "attn_drop": 0.1, "proj_drop": 0.1, "pos_drop": 0.1}
NOISE = ModelNoise(seed=1, step=2, first=0, global_size=6)
DEPTH = 3


def a_model(enabled: bool):
    torch.manual_seed(0)
    model = create_model("deit_nano_distilled_patch4_16", num_classes=4, depth=DEPTH, **CHANCE)
    model.set_grad_checkpointing(enabled)
    return model.train()


def images() -> Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def loss_of(model, noise) -> Tensor:
    output = model(images(), noise)
    return output.cls_logits.square().sum() + output.dist_logits.exp().sum()


@pytest.mark.parametrize("noise", [NOISE, None], ids=["keyed", "torch"])
def test_loss_and_gradients_have_the_same_bits(noise):
    """Twice over, so that chance in the second computing cannot have shifted what follows."""
    results = []
    for enabled in (False, True):
        model = a_model(enabled)
        torch.manual_seed(7)
        losses = []
        for _ in range(2):
            loss = loss_of(model, noise)
            loss.backward()
            losses.append(loss.item())
        results.append((losses, [p.grad for p in model.parameters()]))
    (plain_losses, plain), (losses, checkpointed) = results
    assert losses == plain_losses
    assert all(torch.equal(a, b) for a, b in zip(checkpointed, plain, strict=True))
    assert noise is not None or losses[0] != losses[1]


def kept_bytes(model) -> int:
    """Bytes that autograd keeps between forward and backward, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, NOISE).backward()
    return sum(kept.values())


def test_less_is_kept_for_the_backward_pass():
    """What enters each block (6 images, 18 tokens, 64 numbers) is kept outside autograd's sight."""
    inputs = DEPTH * 6 * 18 * 64 * 4
    assert kept_bytes(a_model(True)) + inputs < kept_bytes(a_model(False)) / 3


def count_runs(model) -> list[str]:
    runs: list[str] = []
    for block in model.blocks:
        block.norm1.register_forward_hook(lambda *_, name=block.name: runs.append(name))
    return runs


def test_blocks_run_twice_in_training_and_once_elsewhere():
    model = a_model(True)
    runs = count_runs(model)
    before = torch.get_rng_state()
    loss_of(model, NOISE).backward()
    assert runs == [f"blocks.{i}" for i in (0, 1, 2, 2, 1, 0)]
    assert torch.equal(torch.get_rng_state(), before), "keyed noise took from a generator"
    runs.clear()
    with torch.no_grad():
        loss_of(model, NOISE)
    model.eval()
    loss_of(model, None).backward()
    assert runs == ["blocks.0", "blocks.1", "blocks.2"] * 2


def test_it_can_be_switched_off():
    model = a_model(True)
    model.set_grad_checkpointing(False)
    runs = count_runs(model)
    loss_of(model, NOISE).backward()
    assert len(runs) == DEPTH and not model.grad_checkpointing

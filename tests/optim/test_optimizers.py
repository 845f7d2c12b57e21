"""Every optimizer by name: by hand, saved and gone on with, and that it learns."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deitkit.artifacts.checkpoint import pack_optimizer, unpack_optimizer
from deitkit.errors import ConfigError
from deitkit.models import ImageModel, create_model
from deitkit.optim import OPTIMIZERS, build_optimizer
from tests.optim.settings import SETTINGS


def toy_deit(seed: int = 0) -> ImageModel:
    torch.manual_seed(seed)
    shape = {"depth": 2, "embed_dim": 24, "num_heads": 2, "layer_scale": 0.5}
    return create_model("deit_nano_distilled_patch4_16", num_classes=4, **shape)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> float:
    """Steps on eight fixed images; the last loss."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(8, 3, 16, 16, generator=generator)
    labels = torch.arange(8) % 4
    for _ in range(num_steps):
        output = model(images)
        loss = F.cross_entropy(output.cls_logits, labels)
        loss = loss + F.cross_entropy(output.dist_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_one_adamw_step_by_hand():
    """First step moves by lr x sign(gradient) after the decay factor 1 - lr x wd."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    settings = SETTINGS | {"lr": 0.1, "weight_decay": 0.5, "eps": 0.0}
    optimizer = build_optimizer("adamw", model, **settings)
    model(torch.tensor([[3.0, -1.0]])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.95 - 0.1, -1.9 + 0.1]]))


def test_two_sgd_steps_by_hand():
    """Gradient 1 + wd w, momentum .9, Nesterov: w = 1 goes to .905 with lr .05 and wd 0, since
    the first step is 1 + .9 = 1.9 gradients; the second is 1 + .9 x 1.9 = 2.71."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer("sgd", model, **(SETTINGS | {"lr": 0.05, "weight_decay": 0.0}))
    nn.init.ones_(model.weight)
    for expected in (1 - 0.05 * 1.9, 1 - 0.05 * (1.9 + 2.71)):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    decayed = build_optimizer(
        "sgd", model, **(SETTINGS | {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.0})
    )
    nn.init.ones_(model.weight)
    decayed.step()
    assert model.weight.item() == pytest.approx(1 - 0.1 * (1 + 0.5 * 1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_optimizer_goes_on_with_the_same_bits(name):
    """T17, through the tensors and the JSON of a checkpoint."""
    options = SETTINGS | {"layer_decay": 0.8, "lr": 0.01}

    def fresh(seed: int):
        model = toy_deit(seed)
        return model, build_optimizer(name, model, **options)

    model, optimizer = fresh(0)
    train(model, optimizer, 3)
    tensors, description = pack_optimizer(optimizer.state_dict())
    tensors = {key: value.clone() for key, value in tensors.items()}
    other, other_optimizer = fresh(9)
    other.load_state_dict(model.state_dict())
    other_optimizer.load_state_dict(
        unpack_optimizer(tensors, json.loads(json.dumps(description, allow_nan=False)))
    )
    repacked, redescribed = pack_optimizer(other_optimizer.state_dict())
    assert redescribed == description
    assert {k: v.numpy().tobytes() for k, v in repacked.items()} == {
        k: v.numpy().tobytes() for k, v in tensors.items()
    }
    assert train(model, optimizer, 3) == train(other, other_optimizer, 3)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize(("name", "lr"), [("adamw", 5e-3), ("sgd", 5e-2), ("muon", 5e-3)])
def test_eight_images_are_learnt(name, lr):
    model = toy_deit()
    optimizer = build_optimizer(name, model, **(SETTINGS | {"lr": lr, "weight_decay": 0.0}))
    assert train(model, optimizer, 1) > 2.5
    assert train(model, optimizer, 60) < 0.1


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"OPTIMIZER.*lamb.*choose adamw or sgd or muon"):
        build_optimizer("lamb", nn.Linear(1, 1), **SETTINGS)

"""The optimizers by name. A new one is one function and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deitkit.errors import ConfigError
from deitkit.optim.groups import parameter_groups
from deitkit.optim.muon import Muon, hidden_matrix


def build_adamw(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    layer_decay: float | None,
    momentum: float,
    hidden_lr: float,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), fused.

    `momentum` and `hidden_lr` are not read.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    return torch.optim.AdamW(_with_lr(groups, lr), lr=lr, betas=betas, eps=eps, fused=True)


def build_sgd(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    layer_decay: float | None,
    momentum: float,
    hidden_lr: float,
) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, plain at momentum 0; `betas`, `eps` and `hidden_lr` are not
    read.

    Its decay is a part of the gradient (L2), as usual, and not AdamW's: 1e-4 is common.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    return torch.optim.SGD(
        _with_lr(groups, lr), lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True
    )


def build_muon(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    layer_decay: float | None,
    momentum: float,
    hidden_lr: float,
) -> torch.optim.Optimizer:
    """Muon on the matrices and kernels of the blocks, at `hidden_lr` times the rate; AdamW on all
    the rest.

    Raises:
        ConfigError: OPTIMIZER for a model without such matrices.
    """
    groups = parameter_groups(
        model, weight_decay=weight_decay, layer_decay=layer_decay, label=hidden_matrix
    )
    if not any(group["is_hidden"] for group in groups):
        raise ConfigError(
            "OPTIMIZER",
            "muon",
            f"{type(model).__name__} has no matrices or kernels of blocks that could be trained",
            "use adamw or sgd",
        )
    for group in groups:
        if group["is_hidden"]:
            group["lr_scale"] *= hidden_lr
    return Muon(_with_lr(groups, lr), lr=lr, betas=betas, eps=eps, momentum=momentum)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": build_adamw,
    "sgd": build_sgd,
    "muon": build_muon,
}
"""Name -> what builds it from a model and the settings of `build_optimizer`."""


def build_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float | None,
    betas: tuple[float, float],
    eps: float,
    momentum: float,
    hidden_lr: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimizer called `name` over `parameter_groups` of `model`.

    Each group keeps its "lr_scale" and starts at lr x lr_scale; whoever sets a rate later
    multiplies by it again.

    Raises:
        ConfigError: OPTIMIZER for an unknown name, or one that does not fit the model; LAYER_DECAY
            for an impossible factor.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(
            "OPTIMIZER", name, "no optimizer has this name", f"choose {' or '.join(OPTIMIZERS)}"
        )
    return OPTIMIZERS[name](
        model,
        lr=lr,
        weight_decay=weight_decay,
        betas=betas,
        eps=eps,
        layer_decay=layer_decay,
        momentum=momentum,
        hidden_lr=hidden_lr,
    )


def _with_lr(groups: list[dict[str, Any]], lr: float) -> list[dict[str, Any]]:
    return [group | {"lr": lr * group["lr_scale"]} for group in groups]

"""Which weights decay, and the optimizer that knows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

UNDECAYED_NAMES = ("cls_token", "dist_token", "pos_embed")


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weight matrices and kernels decay; biases, norms, tokens and positions do not.

    The paper (Touvron et al. 2021, section 6) decays by 0.05 and says nothing of exceptions; they
    are those of the authors' code, with the distillation token, which that code forgot, added.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_token = name.rpartition(".")[2] in UNDECAYED_NAMES
        (undecayed if parameter.ndim < 2 or is_token else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]


def build_adamw(
    model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over `parameter_groups`, fused."""
    groups = parameter_groups(model, weight_decay=weight_decay)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps, fused=True
    )

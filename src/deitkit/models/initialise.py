"""How weights start. Each function fills one tensor in place."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def trunc_normal(tensor: Tensor) -> None:
    """Normal with standard deviation .02 (Touvron et al. 2021, arXiv:2012.12877, section 6).

    The cut is at plus and minus 2, a hundred deviations out, as in the authors' code: a cut at two
    deviations would shrink the spread to .0176.
    """
    nn.init.trunc_normal_(tensor, std=0.02)


def kaiming(tensor: Tensor) -> None:
    """Normal with variance 2 / fan-in (He et al. 2015, arXiv:1502.01852, equation 10)."""
    nn.init.kaiming_normal_(tensor, nonlinearity="relu")


def constant(tensor: Tensor) -> None:
    """One value everywhere. No two units differ, so little is learnt: it is here to compare."""
    nn.init.constant_(tensor, 0.02)


WEIGHT_INITS: dict[str, Callable[[Tensor], None]] = {
    "trunc_normal": trunc_normal,
    "kaiming": kaiming,
    "identity": kaiming,
    "constant": constant,
}
"""What fills a linear layer. "identity" then zeroes the last layer of each branch, so that blocks
begin by passing their input on."""

TOKEN_INITS: dict[str, Callable[[Tensor], object]] = {
    "trunc_normal": trunc_normal,
    "ones": nn.init.ones_,
    "zeros": nn.init.zeros_,
}


def init_transformer(model: nn.Module, weight_init: str) -> None:
    """Linear weights as `weight_init` says, biases 0, LayerNorm the identity.

    With "trunc_normal" the patch projection keeps torch's uniform fan-in start, as the authors'
    code leaves it; the others fill it as well.
    """
    fill = WEIGHT_INITS[weight_init]
    for module in model.modules():
        if isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and weight_init != "trunc_normal"
        ):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if weight_init == "identity":
        for name, parameter in model.named_parameters():
            if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                nn.init.zeros_(parameter)


@torch.no_grad()
def init_convnet(model: nn.Module) -> None:
    """Convolutions normal with variance 2 / fan-out (He et al. 2015), the head normal .01.

    The fan-out is that of one group: a channel of a grouped convolution reaches no other group.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            num_taps = math.prod(module.kernel_size)
            fan_out = num_taps * module.out_channels // module.groups
            module.weight.normal_(0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0.0, 0.01)
            module.bias.zero_()


@torch.no_grad()
def pass_through(model: nn.Module) -> None:
    """The first output channels of each kernel, as many as there are inputs, copy their input.

    Zagoruyko & Komodakis 2017, DiracNets, arXiv:1706.00388, as the start of a plain kernel.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight[: module.in_channels])

"""What a model costs, and its layers as a table."""

# Shapes: B images, C channels, H height, W width, N tokens, D width.

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torchinfo
from torch import Tensor, nn

from deitkit.models.base import ImageModel
from deitkit.models.blocks import Attention
from deitkit.models.factory import create_model
from deitkit.models.quick_cnn import Whitening


class ModelCost(NamedTuple):
    """What one image costs."""

    num_params: int
    macs_per_image: int
    """Multiply-accumulates of one forward pass: linear layers, convolutions, attention products."""


def model_cost(model: ImageModel) -> ModelCost:
    """Count the weights and, over one image, every product a matrix or a convolution makes.

    A linear layer counts once for each token, a convolution once for each output pixel and only
    within its groups, attention 2 N^2 D for q k^T and weights v. Biases, norms and activations are
    left out, as the literature does. One multiply-accumulate is two FLOP; a training step costs
    about three forward passes. Nothing is computed: a twin without memory is walked through.
    """
    twin = _twin(model)
    macs = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Linear):
            macs += output.numel() * module.in_features
        elif isinstance(module, nn.Conv2d):
            taps = math.prod(module.kernel_size) * module.in_channels // module.groups
            macs += output.numel() * taps
        elif isinstance(module, Whitening):
            macs += output.numel() * module.filters[0].numel()
        elif isinstance(module, Attention):
            num_tokens, width = inputs[0].shape[1:]
            macs += 2 * num_tokens**2 * width

    for module in twin.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, Whitening, Attention)):
            module.register_forward_hook(count)
    with torch.no_grad():
        twin(_images(twin, batch_size=1))
    return ModelCost(sum(p.numel() for p in model.parameters()), macs)


def summary_table(model: ImageModel, batch_size: int = 4) -> str:
    """The layers as torchinfo prints them, and below what one image really costs."""
    twin = _twin(model)
    statistics = torchinfo.summary(
        twin,
        input_data=_images(twin, batch_size=batch_size),
        device="meta",
        col_names=("output_size", "num_params", "mult_adds"),
        row_settings=("var_names",),
        verbose=0,
    )
    cost = model_cost(model)
    lines = [
        # torchinfo 1.8 prints the name of its enum instead of the unit.
        str(statistics).replace("Units.MEGABYTES", "M").replace("Units.GIGABYTES", "G"),
        f"Honest cost: {_giga(cost.macs_per_image)} GMAC per image, "
        f"{_giga(cost.macs_per_image * batch_size)} GMAC for this batch of {batch_size} "
        "(1 MAC = 2 FLOP; training is about 3 times that).",
    ]
    if any(isinstance(module, Attention) for module in twin.modules()):
        lines.append(
            f"torchinfo's {statistics.total_mult_adds / 1e6:,.2f} M above, for the whole batch, "
            "is too low: it counts the weights of a linear layer\nonce per image however many "
            "tokens pass through, and leaves out the products inside attention."
        )
    return "\n".join(lines)


def _twin(model: ImageModel) -> ImageModel:
    """The same shape in evaluation mode on the meta device: no memory, no state to disturb."""
    with torch.device("meta"):
        return create_model(**model.config).eval()


def _images(model: ImageModel, *, batch_size: int) -> Tensor:
    shape_BCHW = (batch_size, model.in_channels, *model.image_size)
    return torch.empty(shape_BCHW, device="meta")


def _giga(macs: int) -> str:
    return f"{macs / 1e9:,.3f}" if macs >= 1e7 else f"{macs / 1e9:,.6f}"

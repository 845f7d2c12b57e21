"""Which weights decay, and how fast each depth of the network learns."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from deitkit.errors import ConfigError

UNDECAYED_NAMES = ("cls_token", "dist_token", "pos_embed")
_TOP = re.compile(r"^(norm|head|head_dist)\.")

Label = Callable[[str, nn.Parameter], dict[str, Any]]


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    layer_decay: float | None = None,
    label: Label | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: "params", "weight_decay" and "lr_scale", a factor of the rate.

    Weight matrices and kernels decay; biases, norms, tokens and positions do not. The paper
    (Touvron et al. 2021, section 6) decays by 0.05 and says nothing of exceptions; they are those
    of the authors' code, with the distillation token, which that code forgot, added.

    With a `layer_decay` d below 1 a parameter of depth l, of L layers, learns at d^(L + 1 - l) of
    the rate, see `layer_depths` (Clark et al. 2020, ELECTRA, arXiv:2003.10555, for text; Bao et al.
    2022, BEiT, arXiv:2106.08254, for images). Without it there are two groups and every scale is 1.
    `label` may add entries, and parts the groups by them. Groups go from input to output; none is
    empty.

    Raises:
        ConfigError: LAYER_DECAY for a factor not above 0 and at most 1, or a model whose layers
            have no order that we know.
    """
    scales = _lr_scales(model, layer_decay)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_token = name.rpartition(".")[2] in UNDECAYED_NAMES
        decays = parameter.ndim >= 2 and not is_token
        scale = scales.get(name, 1.0)
        more = {} if label is None else label(name, parameter)
        entries = {"weight_decay": weight_decay if decays else 0.0, "lr_scale": scale, **more}
        group = groups.setdefault((scale, not decays, *more.values()), {"params": [], **entries})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Depth of each parameter by name: 0 at the input, then each layer, then norm and heads.

    A layer is one entry of `blocks` (DeiT, the small CNN) or one stage named in `stage_names`
    (RegNet: a published one has up to 27 blocks in 4 stages, and a decay for each block would stop
    the first ones). With L layers the largest depth is L + 1.

    Raises:
        ConfigError: LAYER_DECAY for a model with neither.
    """
    blocks, stage_names = getattr(model, "blocks", None), getattr(model, "stage_names", None)
    if isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        layers = [f"blocks.{i}." for i in range(len(blocks))]
    elif stage_names:
        layers = [f"{name}." for name in stage_names]
    else:
        raise ConfigError(
            "LAYER_DECAY",
            type(model).__name__,
            "it has neither blocks nor stages, so its layers have no known order",
            "leave layer_decay at 1",
        )
    depths = {}
    for name, _ in model.named_parameters():
        inside = [i for i, layer in enumerate(layers) if name.startswith(layer)]
        above = len(layers) + 1 if _TOP.match(name) else 0
        depths[name] = inside[0] + 1 if inside else above
    return depths


def _lr_scales(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    if layer_decay is None or layer_decay == 1.0:
        return {}
    if not 0.0 < layer_decay < 1.0:
        raise ConfigError(
            "LAYER_DECAY", "layer_decay", f"{layer_decay} is not above 0 and at most 1", "use 0.75"
        )
    depths = layer_depths(model)
    top = max(depths.values())
    return {name: layer_decay ** (top - depth) for name, depth in depths.items()}

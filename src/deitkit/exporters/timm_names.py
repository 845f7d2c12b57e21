"""timm's names of our networks, and the arguments by which a network differs from its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
_SIZES3 = {
    "small": _SIZES["small"],
    "medium": (512, 12, 8),
    "base": _SIZES["base"],
    "large": (1024, 24, 16),
}


def _shape(embed_dim: int, depth: int, num_heads: int, **others: Any) -> dict[str, Any]:
    return {
        "img_size": 224,
        "in_chans": 3,
        "patch_size": 16,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "no_embed_class": False,
        "init_values": None,
        **others,
    }


PLAIN: dict[str, dict[str, Any]] = {
    **{f"deit_{size}_patch16_224": _shape(*shape) for size, shape in _SIZES.items()},
    "deit_base_patch16_384": _shape(*_SIZES["base"], img_size=384),
    **{
        f"deit3_{size}_patch16_{side}": _shape(
            *shape, img_size=side, no_embed_class=True, init_values=1e-6
        )
        for size, shape in _SIZES3.items()
        for side in (224, 384)
        if (size, side) != ("medium", 384)
    },
}
"""Architecture -> every argument it stands for, as timm 1.0 defines it."""

DISTILLED: dict[str, dict[str, Any]] = {
    **{f"deit_{size}_distilled_patch16_224": _shape(*shape) for size, shape in _SIZES.items()},
    "deit_base_distilled_patch16_384": _shape(*_SIZES["base"], img_size=384),
}
"""The same with the distillation token."""


def closest_transformer(model: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """timm's architecture with the fewest other arguments for a DeiT's config, and those."""
    height, width = model["image_size"]
    wanted = {
        "img_size": height if height == width else [height, width],
        "in_chans": model["in_channels"],
        "patch_size": model["patch_size"],
        "embed_dim": model["embed_dim"],
        "depth": model["depth"],
        "num_heads": model["num_heads"],
        "mlp_ratio": model["mlp_ratio"],
        "qkv_bias": model["qkv_bias"],
        # timm's distilled networks always have position rows for their tokens.
        "no_embed_class": not model["pos_embed_cls"] and not model["distilled"],
        "init_values": model["layer_scale"],
    }
    candidates = {
        name: {key: wanted[key] for key in shape if _differs(key, wanted[key], shape[key])}
        for name, shape in (DISTILLED if model["distilled"] else PLAIN).items()
        # timm reads an argument of None as one not given, so LayerScale cannot be taken away.
        if wanted["init_values"] is not None or shape["init_values"] is None
    }
    name = min(candidates, key=lambda name: len(candidates[name]))
    return name, candidates[name]


def _differs(key: str, wanted: Any, named: Any) -> bool:
    """The start of LayerScale only says that there is one: the weights hold its factors."""
    if key == "init_values":
        return (wanted is None) != (named is None)
    return wanted != named

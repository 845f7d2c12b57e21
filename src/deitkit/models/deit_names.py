"""The names of the DeiT family and what they stand for."""

from __future__ import annotations

import re
from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "slim": {"embed_dim": 64, "depth": 1, "num_heads": 4, "mlp_ratio": 2.0, "stem_width": 16},
    "shallow": {"embed_dim": 128, "depth": 1, "num_heads": 4, "mlp_ratio": 2.0, "stem_width": 32},
    "nano": {"embed_dim": 64, "depth": 4, "num_heads": 4},
    "micro": {"embed_dim": 128, "depth": 6, "num_heads": 4},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
"""tiny, small and base: Touvron et al. 2021, arXiv:2012.12877, table 1. slim to micro are
ours, for small images on a few CPU cores."""

TUTORIAL_NAME = "deit_tutorial_depth3_patch16_224"

TUTORIAL: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 3,
    "num_heads": 4,
    "qkv_bias": False,
    "norm_eps": 1e-5,
    "distilled": True,
    "class_token_init": "ones",
}
"""A shallow, wide DeiT to teach with: 23,540,432 parameters with 1,000 classes."""

CONV: dict[str, Any] = {"stem": "conv", "mlp_conv": True, "weight_init": "kaiming"}
"""What `_conv` in a name stands for: convolutions where small data needs them. Narrow models start
better with the wider weights, see docs/experiments.md."""

QUICK: dict[str, Any] = {
    "stem": "pooling",
    "stem_width": 32,
    "mlp_conv": True,
    "pool": "mean",
    "weight_init": "identity",
}
"""What `_quick` stands for: the first stages of a quick_cnn before the blocks, and heads that read
all patches. It learns most in few minutes, see docs/experiments.md."""

HYBRID: dict[str, Any] = {**QUICK, "stem_blocks": 3}
"""What `_hybrid` stands for: all stages of a quick_cnn before the blocks, so that those see few
tokens (Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1, "Hybrid Architecture")."""

PARTS: dict[str | None, dict[str, Any]] = {
    None: {},
    "_conv": CONV,
    "_quick": QUICK,
    "_hybrid": HYBRID,
}

_NAME = re.compile(
    rf"deit_({'|'.join(SIZES)})({'|'.join(filter(None, PARTS))})?(_distilled)?"
    r"_patch([1-9]\d{0,3})_([1-9]\d{0,4})"
)


def patch_size_for(side: int) -> int:
    """Pixels a side of a patch, so that an image of `side` pixels is 16 to 200 tokens."""
    for largest_side, patch in ((16, 2), (40, 4), (96, 8)):
        if side <= largest_side:
            return patch
    return 16


def parse_deit_name(name: str) -> dict[str, Any] | None:
    """What `deit_{size}[_conv|_quick|_hybrid][_distilled]_patch{P}_{S}` means; None for other
    names."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    size, parts, token, patch_size, image_size = match.groups()
    return {
        **PARTS[parts],
        **SIZES[size],
        "distilled": token is not None,
        "patch_size": int(patch_size),
        "image_size": int(image_size),
    }


def named_like(name: str, *, distilled: bool, side: int | None = None) -> str:
    """The name of the same shape with or without distillation token, at another image size if
    `side` says so.

    Names that do not follow the pattern are passed on.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    size, parts, _, patch_size, own_side = match.groups()
    token = "_distilled" if distilled else ""
    return f"deit_{size}{parts or ''}{token}_patch{patch_size}_{side or own_side}"


def listed_deit_names() -> list[str]:
    """The published shapes, then those for images of 8 to 64 px with 16 to 256 patches, and with
    all stages of a quick_cnn before 9 to 16."""
    shapes = [(size, 16, side) for side in (224, 384) for size in ("tiny", "small", "base")]
    small = ("slim", "shallow", "nano", "micro", "tiny", "small")
    shapes += [
        (f"{size}{parts or ''}", patch, side)
        for size in small
        for parts in (None, "_conv", "_quick")
        for side in (8, 16, 28, 32, 48, 64)
        for patch in (2, 4, 8)
        if side % patch == 0 and 16 <= (side // patch) ** 2 <= 256
    ]
    shapes += [
        (f"{size}_hybrid", 2 * patch_size_for(side), side)
        for size in small
        for side in (28, 32, 48, 64)
    ]
    return [
        f"deit_{size}{token}_patch{patch}_{side}"
        for size, patch, side in shapes
        for token in ("", "_distilled")
    ]

"""From tensors to the arguments of `create_model` that make a model they fit."""

# Shapes: D width, K classes, C channels.

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deitkit.errors import ModelFileError
from deitkit.models.deit_names import SIZES, TUTORIAL, TUTORIAL_NAME
from deitkit.models.pos_embed import grid_of_rows
from deitkit.models.regnet import REGNETY, stage_shapes
from deitkit.models.source_facts import timm_settings

Config = Mapping[str, Any]

NUM_HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Widths of published models (huge, giant, gigantic) whose heads are not 64 wide."""

TIMM_NUM_HEADS = {
    "tiny": 3,
    "small": 6,
    "medium": 8,
    "base": 12,
    "large": 16,
    "huge": 16,
    "giant": 16,
    "gigantic": 16,
}
"""What the size in timm's names of ViT and DeiT stands for."""

NORM_EPS = {"timm": 1e-6, "hf": 1e-12, "tutorial": TUTORIAL["norm_eps"]}
"""Of LayerNorm, where no config tells: what the code these names come from has by default."""

LAYER_SCALE = 1e-4
"""Where there is a LayerScale; the weights replace this start of it."""

HEAD_KEYS = ("head.weight", "head.fc.weight")


def head_key(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the class head's matrix [K, D]; None without a head."""
    return next((key for key in HEAD_KEYS if key in tensors and tensors[key].ndim == 2), None)


def infer_architecture(
    tensors: Mapping[str, Tensor], config: Config | None = None, *, format: str = "timm"
) -> dict[str, Any]:
    """Arguments with which `create_model` builds what `tensors`, under timm's names, fit.

    `config` is the config.json of Hugging Face or of timm's hub. The number of heads and the
    epsilon of the norms leave no trace in the tensors: they come from it, else from what `format`
    (of `weight_formats`) has by custom. Without a head there is no "num_classes" in the result.

    Raises:
        ModelFileError: ARCHITECTURE, for tensors and settings that no model here has; GRID, for
            position embeddings of a grid that is not square and that `config` does not tell.
    """
    config = config or {}
    if isinstance(config.get("model"), Mapping) and "schema" in config:
        return dict(config["model"])  # our own bundle keeps the very arguments
    if "patch_embed.proj.weight" in tensors and "pos_embed" in tensors:
        return _deit(tensors, config, format)
    if "s1.b1.conv1.conv.weight" in tensors and "stem.conv.weight" in tensors:
        return _regnet(tensors, config)
    raise _unfit(
        "they are neither a vision transformer with position embeddings nor a RegNetY",
        "give weights of a ViT, DeiT or RegNetY",
    )


def _unfit(why: str, do: str) -> ModelFileError:
    return ModelFileError("ARCHITECTURE", "weights", why, do)


def _deit(tensors: Mapping[str, Tensor], config: Config, format: str) -> dict[str, Any]:
    _check_settings(config)
    patch_size, in_channels = _patches(tensors)
    hidden_key = "blocks.0.mlp.fc1.weight"
    if hidden_key not in tensors or "cls_token" not in tensors:
        raise _unfit(
            f"{hidden_key if hidden_key not in tensors else 'cls_token'} is not among them",
            "give the whole file of a ViT or DeiT",
        )
    hidden_dim, embed_dim = tensors[hidden_key].shape
    depth = 1 + max(int(m[1]) for key in tensors if (m := re.match(r"blocks\.(\d+)\.", key)))
    distilled = "dist_token" in tensors
    num_special, grid = grid_of_rows(
        tensors["pos_embed"].shape[1],
        num_tokens=2 if distilled else 1,
        patch_size=patch_size,
        image_sizes=image_sizes_of(config),
    )
    image_size = grid[0] * patch_size, grid[1] * patch_size
    found: dict[str, Any] = {
        "image_size": list(image_size),
        "in_channels": in_channels,
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": _num_heads(embed_dim, depth, config, format),
        "distilled": distilled,
        "mlp_ratio": _ratio(hidden_dim, embed_dim),
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "pos_embed_cls": num_special > 0,
        "layer_scale": LAYER_SCALE if "blocks.0.ls1.gamma" in tensors else None,
        "norm_eps": _norm_eps(config, format),
        "mlp_conv": "blocks.0.mlp.conv.weight" in tensors,
    }
    key = head_key(tensors)
    if key is not None:
        found["num_classes"] = tensors[key].shape[0]
    return {"name": _nearest_name(found, format), **found}


def _check_settings(config: Config) -> None:
    """Refuse what would load without a murmur and then compute something else."""
    act = config.get("hidden_act", "gelu")
    if act not in ("gelu", "gelu_python"):
        raise _unfit(f"their activation is {act}, ours is gelu", "give a ViT or DeiT with gelu")
    if "quickgelu" in str(config.get("architecture", "")):
        raise _unfit("their activation is quick gelu, ours is gelu", "give a ViT with gelu")
    pool = config.get("global_pool") or "token"
    if pool != "token":
        raise _unfit(
            f"their head reads the {pool} of the tokens, ours the class token",
            "give a ViT or DeiT whose head reads the class token",
        )


def _patches(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(patch size, channels) of a patch embedding that is one strided convolution."""
    shape = tuple(tensors["patch_embed.proj.weight"].shape)
    if any(key.startswith("patch_embed.convs.") for key in tensors):
        raise _unfit(
            "their patch embedding is a stack of convolutions, which does not tell the patch size",
            "give the run or bundle that they come from",
        )
    if len(shape) != 4 or shape[2] != shape[3]:
        raise _unfit(
            f"their patch embedding is {list(shape)}, not that of square patches",
            "give weights with square patches",
        )
    return shape[2], shape[1]


def image_sizes_of(config: Config) -> list[tuple[int, int]]:
    """Image sizes (height, width), in pixels, that a config.json states, the surest first."""
    said = [
        config.get("image_size"),
        _inner(config, "model_args", "img_size"),
        _inner(config, "model", "image_size"),
        timm_settings(config).get("input_size"),
    ]
    sizes = []
    for size in said:
        sides = [size, size] if isinstance(size, int) else size
        # timm's input_size starts with the channels.
        if isinstance(sides, list) and len(sides) in (2, 3):
            height, width = sides[-2:]
            if isinstance(height, int) and isinstance(width, int):
                sizes.append((height, width))
    return sizes


def _inner(config: Config, table: str, key: str) -> Any:
    inner = config.get(table)
    return inner.get(key) if isinstance(inner, Mapping) else None


def _num_heads(embed_dim: int, depth: int, config: Config, format: str) -> int:
    heads = said_num_heads(config)
    if heads is None:
        # Sizes that stand behind a stem of their own are no guess for plain weights.
        plain = (shape for shape in SIZES.values() if "stem_width" not in shape)
        family = (s for s in plain if (s["embed_dim"], s["depth"]) == (embed_dim, depth))
        heads = next((shape["num_heads"] for shape in family), None)
        if format == "tutorial":
            heads = TUTORIAL["num_heads"]
        elif heads is None:
            heads = NUM_HEADS.get(embed_dim, embed_dim // 64 if embed_dim % 64 == 0 else 0)
    if not isinstance(heads, int) or heads < 1 or embed_dim % heads:
        raise _unfit(
            f"the number of heads is not known for a width of {embed_dim}"
            if heads == 0
            else f"{heads} heads do not divide the width {embed_dim}",
            "give the folder with the config.json that tells the number of heads",
        )
    return heads


def said_num_heads(config: Config) -> Any:
    """The number of heads that a config.json of Hugging Face, timm or ours states, if it does."""
    for table in ("model_args", "model"):
        heads = _inner(config, table, "num_heads")
        if heads is not None:
            return heads
    named = re.match(r"(?:vit|deit3?)_([a-z]+)_", str(config.get("architecture", "")))
    if named:
        return TIMM_NUM_HEADS.get(named[1])
    return config.get("num_attention_heads")


def _norm_eps(config: Config, format: str) -> float:
    return float(config.get("layer_norm_eps") or NORM_EPS[format])


def _ratio(hidden_dim: int, embed_dim: int) -> float:
    """The ratio from which `int(embed_dim * ratio)` makes `hidden_dim` again."""
    ratio = hidden_dim / embed_dim
    return ratio if int(embed_dim * ratio) == hidden_dim else math.nextafter(ratio, math.inf)


def _nearest_name(found: Mapping[str, Any], format: str) -> str:
    """The name in our family that is most like it; the other arguments say what differs."""
    if format == "tutorial":
        return TUTORIAL_NAME

    def distance(size: str) -> tuple[float, int]:
        shape = SIZES[size]
        wider = abs(math.log(shape["embed_dim"] / found["embed_dim"]))
        return wider, abs(shape["depth"] - found["depth"])

    size = min(SIZES, key=distance)
    token = "_distilled" if found["distilled"] else ""
    return f"deit_{size}{token}_patch{found['patch_size']}_{max(found['image_size'])}"


def _regnet(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Any]:
    stages = _stages_of(tensors)
    known = (n for n, shape in REGNETY.items() if [*map(tuple, stage_shapes(**shape))] == stages)
    name = next(known, None)
    if name is None:
        raise _unfit(
            f"their stages (blocks, width, width of a group) {stages} are those of no RegNetY here",
            f"give weights of one of {', '.join(REGNETY)}",
        )
    sizes = image_sizes_of(config)
    found: dict[str, Any] = {"name": name, "in_channels": tensors["stem.conv.weight"].shape[1]}
    if sizes:
        found["image_size"] = list(sizes[0])
    key = head_key(tensors)
    if key is not None:
        found["num_classes"] = tensors[key].shape[0]
    return found


def _stages_of(tensors: Mapping[str, Tensor]) -> list[tuple[int, int, int]]:
    depths: dict[int, int] = {}
    for key in tensors:
        match = re.fullmatch(r"s(\d+)\.b(\d+)\.conv2\.conv\.weight", key)
        if match:
            stage = int(match[1])
            depths[stage] = max(depths.get(stage, 0), int(match[2]))
    stages = []
    for stage in sorted(depths):
        grouped = tensors[f"s{stage}.b{depths[stage]}.conv2.conv.weight"]
        stages.append((depths[stage], grouped.shape[0], grouped.shape[1]))
    return stages

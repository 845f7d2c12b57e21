"""Whose names are these? Recognise the public formats by their keys; rename them to timm's.

Known are timm and facebookresearch/deit (DeiT, DeiT III and RegNetY), the ViT and DeiT of Hugging
Face in the old and the new spelling of transformers, and the names of the DeiT tutorial network.
"""

# Shapes: D width.

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deitkit.errors import ModelFileError

FORMATS: dict[str, str] = {
    "timm": "timm or facebookresearch/deit",
    "hf": "Hugging Face ViT or DeiT",
    "tutorial": "the DeiT tutorial network",
    "deitkit": "a run of deitkit",
}
"""What `Renamed.format` says -> how people call it."""

NUM_LISTED = 10
"""Keys named in a message; the rest are counted."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and training frameworks put before every key."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """Tensors under timm's names."""

    format: str
    """A key of `FORMATS`."""
    tensors: dict[str, Tensor]
    """A name no rule knows is kept as it was, so that it counts as unexpected."""
    set_aside: tuple[str, ...]
    """Keys, in the source's spelling, of layers that no classifier reads."""


def rename_weights(
    tensors: Mapping[str, Tensor], subject: str, *, model_keys: Collection[str] = ()
) -> Renamed:
    """Recognise the format of `tensors` and give them timm's names.

    `model_keys` are names that count as known besides, those of the model to be filled.

    Raises:
        ModelFileError: NAMES for a set of names that no format has; MISMATCH where two keys mean
            the same parameter, or queries, keys and values do not make one projection.
    """
    bare = _without_wrappers(dict(tensors))
    found = _format_of(bare, model_keys)
    if found is None:
        raise ModelFileError(
            "NAMES",
            subject,
            f"its {len(bare)} names are not known: {listed(list(bare))}",
            f"give weights of one of: {'; '.join(FORMATS.values())}",
        )
    if found == "hf":
        return _rename_hugging_face(bare, subject)
    rules = _TUTORIAL if found == "tutorial" else _TIMM
    return Renamed(found, _rename(bare, rules, subject), ())


def listed(keys: list[str]) -> str:
    """Up to ten keys by name, the rest by number."""
    rest = len(keys) - NUM_LISTED
    return ", ".join(keys[:NUM_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors:
        prefixes = [p for p in WRAPPER_PREFIXES if all(key.startswith(p) for key in tensors)]
        if not prefixes:
            break
        tensors = {key.removeprefix(prefixes[0]): value for key, value in tensors.items()}
    return tensors


_TUTORIAL_KEY = re.compile(r"patch_embedding\.|encoder\.layers\.\d+\.")
_HF_KEY = re.compile(
    r"(vit\.|deit\.)?(embeddings\.(cls_token|patch_embeddings)"
    r"|(encoder\.layer|layers)\.\d+\.(attention\.|layernorm_))"
)
_TIMM_KEY = re.compile(r"blocks\.\d+\.(norm1|attn|mlp)\.|patch_embed\.|s1\.b1\.conv1\.")


def _format_of(keys: Collection[str], model_keys: Collection[str]) -> str | None:
    """One telling key is enough: a half-matching file gets as far as the list of what it lacks."""
    for name, pattern in (("tutorial", _TUTORIAL_KEY), ("hf", _HF_KEY), ("timm", _TIMM_KEY)):
        if any(pattern.match(key) for key in keys):
            return name
    return "timm" if not set(model_keys).isdisjoint(keys) else None


Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), target) for pattern, target in pairs)


# DeiT III as its authors publish it calls the two factors of LayerScale gamma_1 and gamma_2.
_TIMM = _rules((r"blocks\.(\d+)\.gamma_([12])", r"blocks.\1.ls\2.gamma"))

_TUTORIAL = _rules(
    (r"patch_embedding\.patch_embedding\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"patch_embedding\.class_token", "cls_token"),
    (r"patch_embedding\.distill_token", "dist_token"),
    (r"patch_embedding\.position_embedding", "pos_embed"),
    (r"encoder\.layers\.(\d+)\.attn_norm\.(.+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layers\.(\d+)\.mlp_norm\.(.+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layers\.(\d+)\.((?:attn|mlp)\..+)", r"blocks.\1.\2"),
    (r"encoder\.norm\.(.+)", r"norm.\1"),
    (r"head_distill\.(.+)", r"head_dist.\1"),
)

_BLOCK = r"(?:encoder\.layer|layers)\.(\d+)\."
_HUGGING_FACE = _rules(
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.+)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (_BLOCK + r"layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
    (r"(?:cls_)?classifier\.(.+)", r"head.\1"),
    (r"distillation_classifier\.(.+)", r"head_dist.\1"),
)
_HF_QKV = re.compile(
    _BLOCK + r"attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.(weight|bias)"
)
# The pooler feeds no classification head, the mask token only masked pre-training.
_HF_SET_ASIDE = re.compile(r"pooler\..+|embeddings\.mask_token")


def _rename(tensors: Mapping[str, Tensor], rules: Rules, subject: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        matches = ((rule.fullmatch(key), target) for rule, target in rules)
        name = next((match.expand(target) for match, target in matches if match), key)
        if name in renamed:
            raise ModelFileError(
                "MISMATCH", subject, f"two of its keys mean {name}", "save it with one of them"
            )
        renamed[name] = tensor
    return renamed


def _rename_hugging_face(tensors: dict[str, Tensor], subject: str) -> Renamed:
    kept: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    set_aside = []
    for key, tensor in tensors.items():
        name = key.removeprefix("vit.").removeprefix("deit.")
        qkv = _HF_QKV.fullmatch(name)
        if _HF_SET_ASIDE.fullmatch(name):
            set_aside.append(key)
        elif qkv:
            block, which, kind = qkv.groups()
            place = parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})
            if which[0] in place:
                why = f"block {block} has two projections for its {which[0]}"
                raise ModelFileError("MISMATCH", subject, why, "save it with one of them")
            place[which[0]] = tensor
        else:
            kept[name] = tensor
    joined = {name: _join_qkv(name, part, subject) for name, part in parts.items()}
    return Renamed("hf", _rename(kept | joined, _HUGGING_FACE, subject), tuple(set_aside))


def _join_qkv(name: str, parts: Mapping[str, Tensor], subject: str) -> Tensor:
    """Queries, keys and values [D, D] or [D], one below the other, as one projection holds them."""
    lacking = [which for which in "qkv" if which not in parts]
    layouts = {(tensor.shape, tensor.dtype) for tensor in parts.values()}
    if lacking or len(layouts) > 1:
        why = f"no {' and no '.join(lacking)}" if lacking else "q, k and v of different shapes"
        raise ModelFileError(
            "MISMATCH", subject, f"{name} has {why}", "give the whole file, as it was saved"
        )
    return torch.cat([parts[which] for which in "qkv"])

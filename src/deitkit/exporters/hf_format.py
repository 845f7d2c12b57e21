"""A bundle as a folder that Hugging Face Transformers opens."""

# Shapes: D width, M = special tokens + patches.

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing, covered_sides
from deitkit.exporters.card import model_card
from deitkit.exporters.exported import (
    CARD_FILE,
    CONFIG_FILE,
    PLACEHOLDER,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
    WITHOUT_OWN_PARTS,
    Exported,
    answer_notes,
    no_such_network,
    outline,
    own_parts,
    weights_bytes,
    with_token_rows,
    write_export,
)
from deitkit.models import DeiT, ImageModel, RegNet

_BICUBIC = 3
"""Pillow's number of the filter, which the processors keep."""

_EMBEDDINGS = {
    "cls_token": "cls_token",
    "dist_token": "distillation_token",
    "pos_embed": "position_embeddings",
    "patch_embed.proj.weight": "patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "patch_embeddings.projection.bias",
}
_LAYER = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_SCALED = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}


def export_hf(bundle: Bundle, folder: Path) -> Exported:
    """Write the names and config of ViTForImageClassification, or with a distillation token of
    DeiTForImageClassificationWithTeacher, the processor's settings and a model card.

    `AutoModelForImageClassification.from_pretrained` then gives the same logits. LayerScale, which
    those classes lack, is multiplied into the layers before it, and missing position rows of the
    special tokens are written as zeros: both leave the network what it was.

    Raises:
        ModelFileError: EXPORT, for a network that Transformers does not have.
        ResourceError: the disk refused.
    """
    model = _checked(outline(bundle))
    notes = answer_notes(bundle, model, "Transformers")
    if model.config["layer_scale"] is not None:
        notes.append("LayerScale is multiplied into the layers it follows, which rounds once")
    if not model.pos_embed_cls:
        notes.append("the special tokens have position rows, which are zeros here")
    card = model_card(
        bundle,
        model,
        library="transformers",
        title=str(model.config["name"]),
        code=_code(PLACEHOLDER),
        notes=notes,
        preprocessing_notes=_preprocessing_notes(bundle.preprocessing),
    )
    files = {
        WEIGHTS_FILE: weights_bytes(_tensors(bundle, model)),
        CONFIG_FILE: _json(_config(bundle, model)),
        PROCESSOR_FILE: _json(_processor(bundle.preprocessing)),
        CARD_FILE: card,
    }
    write_export(folder, files, export_format="hf")
    return Exported(folder=folder, code=_code(str(folder)), notes=tuple(notes))


def _tensors(bundle: Bundle, model: DeiT) -> dict[str, Tensor]:
    """The weights under the names that every release reads, queries, keys and values apart."""
    tensors = dict(bundle.state_dict)
    prefix = "vit" if model.dist_token is None else "deit"
    if not model.pos_embed_cls:
        tensors["pos_embed"] = with_token_rows(
            tensors["pos_embed"], num_special_tokens=model.num_special_tokens
        )
    for number in range(len(model.blocks)):
        for scale, layer in _SCALED.items():
            gamma_D = tensors.pop(f"blocks.{number}.{scale}", None)
            if gamma_D is not None:
                weight, bias = (f"blocks.{number}.{layer}.{part}" for part in ("weight", "bias"))
                tensors[weight] = gamma_D[:, None] * tensors[weight]
                tensors[bias] = gamma_D * tensors[bias]
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            layer, part = name.removeprefix("blocks.").split(".attn.qkv.")
            base = f"{prefix}.encoder.layer.{layer}.attention.attention"
            for kind, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{base}.{kind}.{part}"] = third
        else:
            renamed[_hf_name(name, prefix)] = tensor
    return renamed


def _hf_name(name: str, prefix: str) -> str:
    if name in _EMBEDDINGS:
        return f"{prefix}.embeddings.{_EMBEDDINGS[name]}"
    module, _, part = name.rpartition(".")
    if module == "norm":
        return f"{prefix}.layernorm.{part}"
    if module == "head_dist":
        return f"distillation_classifier.{part}"
    if module == "head":
        return f"{'cls_classifier' if prefix == 'deit' else 'classifier'}.{part}"
    _, number, layer = module.split(".", 2)
    return f"{prefix}.encoder.layer.{number}.{_LAYER[layer]}.{part}"


def _checked(model: ImageModel) -> DeiT:
    """The model as the DeiT that Transformers has. Raises ModelFileError EXPORT."""
    if not isinstance(model, DeiT):
        do = "use to=timm" if isinstance(model, RegNet) else "export a deit_* model"
        raise no_such_network(model, "Transformers", ["it is no transformer"], do)
    if reasons := own_parts(model):
        raise no_such_network(model, "Transformers", reasons, WITHOUT_OWN_PARTS)
    return model


def _config(bundle: Bundle, outlined: DeiT) -> dict[str, Any]:
    model, names = outlined.config, bundle.class_names
    architecture = (
        "DeiTForImageClassificationWithTeacher"
        if model["distilled"]
        else "ViTForImageClassification"
    )
    height, width = model["image_size"]
    return {
        "architectures": [architecture],
        "model_type": "deit" if model["distilled"] else "vit",
        "hidden_size": model["embed_dim"],
        "num_hidden_layers": model["depth"],
        "num_attention_heads": model["num_heads"],
        "intermediate_size": int(model["embed_dim"] * model["mlp_ratio"]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model["norm_eps"],
        "image_size": height if height == width else [height, width],
        "patch_size": model["patch_size"],
        "num_channels": model["in_channels"],
        "qkv_bias": model["qkv_bias"],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _processor(spec: Preprocessing) -> dict[str, Any]:
    """CLIP's processor: the one that resizes either way and crops in every release."""
    height, width = covered_sides(spec)
    squashed = {"height": height, "width": width}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": spec.channels == 3,
        "do_resize": True,
        "size": squashed if spec.resize == "squash" else {"shortest_edge": max(height, width)},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": spec.image_size[0], "width": spec.image_size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def _preprocessing_notes(spec: Preprocessing) -> list[str]:
    notes = [
        '`AutoImageProcessor.from_pretrained("path/to/this/folder")` does this (with the class '
        "CLIPImageProcessor, whose steps these are); it rounds levels after resizing, so they "
        "differ by up to one of 255",
        "it puts no background under transparent pixels",
    ]
    if spec.resize == "shorter" and spec.image_size[0] != spec.image_size[1]:
        notes.append(
            f"it resizes the shorter side to {_processor(spec)['size']['shortest_edge']} pixels, "
            "and so crops more than deitkit: the class has no resize to just cover another shape"
        )
    if spec.channels != 3:
        notes.append(f"give it images of {spec.channels} channels")
    return notes


def _code(folder: str) -> str:
    return (
        "from transformers import AutoModelForImageClassification\n\n"
        f"model = AutoModelForImageClassification.from_pretrained({folder!r}).eval()"
    )


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode("ascii")

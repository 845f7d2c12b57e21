"""A bundle as a folder of timm's hub layout, which `timm.create_model` opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.exporters.card import model_card
from deitkit.exporters.exported import (
    CARD_FILE,
    CONFIG_FILE,
    PLACEHOLDER,
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
from deitkit.exporters.timm_names import closest_transformer
from deitkit.models import DeiT, ImageModel, RegNet, create_model

NORM_EPS = 1e-6
"""What timm's DeiTs add under the root of every LayerNorm; no argument of theirs changes it."""


def export_timm(bundle: Bundle, folder: Path) -> Exported:
    """Write weights under timm's names, `config.json` as timm's hub keeps it, and a model card.

    `timm.create_model` then gives the same logits; of a distilled model the mean of both heads.
    Weights are the bundle's bit for bit, but for one case: timm's distilled networks have position
    rows for their tokens, so a model without them gets rows of zeros.

    Raises:
        ModelFileError: EXPORT, for a network that timm does not have.
        ResourceError: the disk refused.
    """
    model = outline(bundle)
    _check(model)
    notes = answer_notes(bundle, model, "timm")
    tensors = dict(bundle.state_dict)
    if isinstance(model, DeiT):
        architecture, arguments = closest_transformer(model.config)
        if model.dist_token is not None and not model.pos_embed_cls:
            tensors["pos_embed"] = with_token_rows(tensors["pos_embed"], num_special_tokens=2)
            notes.append("the special tokens have position rows, which are zeros here")
    else:
        architecture = str(model.config["name"])
        arguments = {} if model.in_channels == 3 else {"in_chans": model.in_channels}
    config = _config(bundle, model, architecture, arguments)
    card = model_card(
        bundle,
        model,
        library="timm",
        title=architecture,
        code=_code(bundle, architecture, arguments, PLACEHOLDER),
        notes=notes,
        preprocessing_notes=_preprocessing_notes(bundle.preprocessing),
    )
    files = {
        WEIGHTS_FILE: weights_bytes(tensors),
        CONFIG_FILE: (json.dumps(config, indent=2, allow_nan=False) + "\n").encode("ascii"),
        CARD_FILE: card,
    }
    write_export(folder, files, export_format="timm")
    code = _code(bundle, architecture, arguments, str(folder))
    return Exported(folder=folder, code=code, notes=tuple(notes))


def _check(model: ImageModel) -> None:
    config = model.config
    reasons: list[str] = []
    do = "export a deit_* or regnety_* model"
    if isinstance(model, DeiT):
        reasons = own_parts(model)
        do = WITHOUT_OWN_PARTS
        if config["norm_eps"] != NORM_EPS:
            do = do if reasons else "use to=hf, whose config holds it"
            reasons.append(f"norm_eps is {config['norm_eps']:g} and not {NORM_EPS:g}")
    elif isinstance(model, RegNet):
        with torch.device("meta"):
            named = create_model(str(config["name"])).config
        own = ("num_classes", "in_channels", "image_size")
        changed = [key for key in named if key not in own and config[key] != named[key]]
        reasons = [f"{key} is {config[key]}" for key in changed]
        do = f"train {config['name']} as it is"
    else:
        reasons.append("this family is deitkit's own")
    if reasons:
        raise no_such_network(model, "timm", reasons, do)


def _config(
    bundle: Bundle, model: ImageModel, architecture: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    spec = bundle.preprocessing
    is_deit = isinstance(model, DeiT)
    deit_heads = ["head", "head_dist"] if model.config.get("distilled") else "head"
    return {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.embed_dim,
        "global_pool": "token" if is_deit else "avg",
        "label_names": list(bundle.class_names),
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "num_classes": model.num_classes,
            "input_size": [spec.channels, *spec.image_size],
            "fixed_input_size": is_deit,
            "interpolation": spec.filter,
            "crop_pct": spec.crop_ratio,
            "crop_mode": "squash" if spec.resize == "squash" else "center",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "first_conv": "patch_embed.proj" if is_deit else "stem.conv",
            "classifier": deit_heads if is_deit else "head.fc",
        },
    }


def _code(bundle: Bundle, architecture: str, arguments: Mapping[str, Any], folder: str) -> str:
    """Exact Python that opens the export with timm."""
    given = {
        "num_classes": len(bundle.class_names),
        **arguments,
        "checkpoint_path": f"{folder}/{WEIGHTS_FILE}",
    }
    words = ", ".join(f"{key}={value!r}" for key, value in given.items())
    return f"import timm\n\nmodel = timm.create_model({architecture!r}, {words}).eval()"


def _preprocessing_notes(spec: Preprocessing) -> list[str]:
    notes = [
        "`timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))` does this "
        'for `timm.create_model("local-dir:path/to/this/folder", pretrained=True)`; it rounds '
        "levels after resizing, so they differ by up to one of 255",
        "timm puts no background under transparent pixels",
    ]
    if spec.channels != 3:
        notes.append(f"give timm's transform an image of {spec.channels} channels")
    return notes

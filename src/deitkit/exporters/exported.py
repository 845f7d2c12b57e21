"""What every export has: a folder that is whole, the code that opens it, what it cannot carry."""

# Shapes: P patches, S special tokens, M = S + P, D width.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from deitkit.artifacts.bundle import Bundle
from deitkit.artifacts.state_tree import to_saved_tensors
from deitkit.errors import ModelFileError
from deitkit.models import DeiT, ImageModel, create_model
from deitkit.runtime.sealed_folder import MANIFEST, replace_folder

KIND = "export"
SCHEMA = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
CARD_FILE = "README.md"
PLACEHOLDER = "path/to/this/folder"
"""Stands in a card for wherever the folder is."""
WITHOUT_OWN_PARTS = "train it with model.stem=linear model.mlp_conv=false model.pool=token"
ONNX_FILE = "model.onnx"
INT8_FILE = "model.int8.onnx"
WEB_FILES = (
    *("index.html", "app.js", "asking.js", "offline.js", "files.js", "style.css", "icon.svg"),
    *("model.json", "app.webmanifest", "LICENSE-onnxruntime.txt"),
    *("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
)
EXPORT_FILES = (
    *(WEIGHTS_FILE, CONFIG_FILE, PROCESSOR_FILE, CARD_FILE, MANIFEST),
    *(ONNX_FILE, INT8_FILE, *WEB_FILES),
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One finished export."""

    folder: Path
    code: str
    """Python lines that open it."""
    notes: tuple[str, ...]
    """What the other library does differently from the bundle; empty where nothing."""


def write_export(folder: Path, files: Mapping[str, bytes], *, export_format: str) -> None:
    """Write the folder as one unit (FAULTS X06), replacing what `check_target` let through.

    Raises:
        ResourceError: the disk refused; what was there before is intact.
    """
    extras = {"kind": KIND, "schema": SCHEMA, "format": export_format}
    replace_folder(folder, files, extras)


def weights_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file; both libraries look for the one entry of its metadata."""
    return safetensors.torch.save(to_saved_tensors(tensors), metadata={"format": "pt"})


def outline(bundle: Bundle) -> ImageModel:
    """The bundle's network without memory for weights; its `config` holds every argument."""
    with torch.device("meta"):
        return create_model(**bundle.model_config)


def with_token_rows(pos_embed_1PD: Tensor, *, num_special_tokens: int) -> Tensor:
    """[1, M, D]: positions of patches alone, with rows of zeros before them for the tokens.

    Adding zeros to a token is adding none, so the network stays the same.
    """
    rows_1SD = pos_embed_1PD.new_zeros(1, num_special_tokens, pos_embed_1PD.shape[2])
    return torch.cat([rows_1SD, pos_embed_1PD], dim=1)


def own_parts(model: DeiT) -> list[str]:
    """The parts that no other library's DeiT has."""
    stem, pool = model.config["stem"], model.config["pool"]
    parts = {
        f"stem={stem}": stem != "linear",
        "mlp_conv=true": model.config["mlp_conv"],
        f"pool={pool}": pool != "token",
    }
    return [part for part, is_there in parts.items() if is_there]


def no_such_network(
    model: ImageModel, library: str, reasons: Sequence[str], do: str
) -> ModelFileError:
    """The error of a network that `library` does not have, for these `reasons`."""
    why = f"{library} has no such network: {', '.join(reasons)}"
    return ModelFileError("EXPORT", str(model.config["name"]), why, do)


def answer_notes(bundle: Bundle, model: ImageModel, library: str) -> list[str]:
    """How the library's logits differ from the bundle's answer, if they do."""
    notes = []
    if model.config.get("distilled") and bundle.fusion != "mean":
        weight = bundle.fusion_weight
        share = "" if weight is None else f" with {weight:g} of the distillation head"
        notes.append(
            f"{library} answers with the mean of both heads' logits; this model was to fuse them "
            f"by {bundle.fusion!r}{share}"
        )
    if bundle.temperature != 1:
        notes.append(
            f"divide {library}'s logits by {bundle.temperature:g} before the softmax: that is the "
            "temperature of this model's probabilities"
        )
    return notes

"""A bundle as a folder with one ONNX file that needs nothing else, and its int8 twin."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from deitkit.artifacts.bundle import Bundle
from deitkit.exporters.card import model_card
from deitkit.exporters.exported import (
    CARD_FILE,
    INT8_FILE,
    ONNX_FILE,
    PLACEHOLDER,
    Exported,
    outline,
    write_export,
)
from deitkit.exporters.gate import Checked
from deitkit.exporters.onnx_graph import onnx_bytes, quantised_bytes
from deitkit.runtime.durable import faults_told

Gate = Callable[[Path], Checked]
"""Measures a file; raises ModelFileError where it does not answer as its bundle does."""


def export_onnx(
    bundle: Bundle, folder: Path, *, int8: bool, gate: Gate
) -> tuple[Exported, list[Checked]]:
    """Write model.onnx, with `int8` also model.int8.onnx, and a card, once each passed the gate.

    Raises:
        ConfigError: MISSING_PACKAGE.
        ModelFileError: EXPORT; and as `gate`: then nothing is written, and what was there stays.
        ResourceError: the disk refused.
    """
    names = [ONNX_FILE, INT8_FILE] if int8 else [ONNX_FILE]
    contents, checked = checked_files(bundle, folder, names, gate=gate)
    notes = ("its answer holds both heads, the temperature and the softmax: use it as it is",)
    card = model_card(
        bundle,
        outline(bundle),
        library="onnxruntime",
        title=str(bundle.model_config["name"]),
        code=_code(PLACEHOLDER),
        notes=notes,
        preprocessing_notes=("all of it is in the file: give decoded pixels, 0 to 255",),
    )
    write_export(folder, {**contents, CARD_FILE: card}, export_format="onnx")
    return Exported(folder=folder, code=_code(str(folder)), notes=notes), checked


def checked_files(
    bundle: Bundle, folder: Path, names: Sequence[str], *, gate: Gate
) -> tuple[dict[str, bytes], list[Checked]]:
    """The files of these names, each of which has been on a disk and passed."""
    content = onnx_bytes(bundle, subject=str(folder))
    contents: dict[str, bytes] = {}
    checked = []
    with tempfile.TemporaryDirectory(prefix="deitkit-export-") as temporary:
        for name in names:
            path = Path(temporary) / name
            contents[name] = quantised_bytes(content) if name == INT8_FILE else content
            with faults_told(path):
                path.write_bytes(contents[name])
            checked.append(gate(path))
    return contents, checked


def _code(folder: str) -> str:
    return (
        "import numpy as np, onnxruntime\n"
        "from PIL import Image\n\n"
        f'session = onnxruntime.InferenceSession("{folder}/{ONNX_FILE}")\n'
        'pixels = np.asarray(Image.open("photo.jpg").convert("RGB"))  # uint8 [H, W, 3], any size\n'
        '(probabilities,) = session.run(["probabilities"], {"images": pixels[None]})'
    )

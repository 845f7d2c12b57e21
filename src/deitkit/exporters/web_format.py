"""A bundle as a folder of static files: one page that classifies in the browser, without a server.

Any web server will do, under any path; after the first visit it works without a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from deitkit.artifacts.bundle import Bundle
from deitkit.data import DecodePolicy
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
from deitkit.exporters.onnx_format import Gate, checked_files
from deitkit.exporters.web_runtime import VERSION

PAGE_FILES = ("index.html", "app.js", "style.css", "icon.svg", "offline.js")
ASKING_FILE, FACTS_FILE, LIST_FILE = "asking.js", "model.json", "files.js"
APP_FILE, LICENCE_FILE = "app.webmanifest", "LICENSE-onnxruntime.txt"
LICENCE = """onnxruntime-web, Copyright (c) Microsoft Corporation

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def export_web(
    bundle: Bundle,
    folder: Path,
    *,
    int8: bool,
    gate: Gate,
    card: Mapping[str, Any],
    runtime: Mapping[str, bytes],
) -> tuple[Exported, list[Checked]]:
    """Write page, model and `runtime` (`web_runtime`), once the model's file passed the gate.

    `card` is what the page says of the model.

    Raises:
        ConfigError: MISSING_PACKAGE.
        ModelFileError: EXPORT; and as `gate`: then nothing is written, and what was there stays.
        ResourceError: the disk refused.
    """
    name = INT8_FILE if int8 else ONNX_FILE
    models, checked = checked_files(bundle, folder, [name], gate=gate)
    shown = {**page_files(bundle, card, model_file=name), **runtime, **models}
    shown[LIST_FILE] = _list_of(shown)
    notes = ("a model that browsers run: nothing is sent anywhere",)
    readme = model_card(
        bundle,
        outline(bundle),
        library="onnxruntime",
        title=str(bundle.model_config["name"]),
        code=_code(PLACEHOLDER),
        notes=notes,
        preprocessing_notes=(
            "all of it is in the file; browsers decode some pictures 1 level off",
        ),
        language="sh",
    )
    files = {**shown, CARD_FILE: readme, LICENCE_FILE: LICENCE.encode()}
    write_export(folder, files, export_format="web")
    return Exported(folder=folder, code=_code(str(folder)), notes=notes), checked


def page_files(bundle: Bundle, card: Mapping[str, Any], *, model_file: str) -> dict[str, bytes]:
    """The page, and what it knows of the model."""
    home = resources.files("deitkit") / "page"
    files = {name: home.joinpath(name).read_bytes() for name in PAGE_FILES}
    spec = bundle.preprocessing
    facts = {
        "card": dict(card),
        "file": model_file,
        "channels": spec.channels,
        "background": list(spec.background),
        "least_side": DecodePolicy().min_side,
        "onnxruntime_web": VERSION,
    }
    app = {
        "name": str(card["name"]),
        "short_name": "classify",
        "start_url": "./",
        "display": "standalone",
        "icons": [{"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"}],
    }
    files[ASKING_FILE] = home.joinpath("ask_browser.js").read_bytes()
    files[FACTS_FILE] = (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode()
    files[APP_FILE] = (json.dumps(app, indent=1) + "\n").encode()
    return files


def _list_of(files: Mapping[str, bytes]) -> bytes:
    """The names for `offline.js`, and a version that changes whenever a file does."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    names = ["./", *sorted(files), LIST_FILE]
    version = digest.hexdigest()[:16]
    return f"self.version = {json.dumps(version)};\nself.files = {json.dumps(names)};\n".encode()


def _code(folder: str) -> str:
    return f"python -m http.server --directory {folder}\n# then open http://localhost:8000"

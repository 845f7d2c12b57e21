"""The model card that lies beside exported weights: Markdown, safe whatever a class is called."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deitkit.artifacts.bundle import Bundle
from deitkit.data import printable
from deitkit.data.preprocess import Preprocessing, covered_sides
from deitkit.models import ImageModel

MAX_LISTED = 100
"""Classes named in a card; all of them are in config.json."""
MAX_NAME_LENGTH = 200
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+.!|~$-])")


def model_card(
    bundle: Bundle,
    model: ImageModel,
    *,
    library: str,
    title: str,
    code: str,
    notes: Sequence[str],
    preprocessing_notes: Sequence[str],
    language: str = "python",
) -> bytes:
    """What it is, how to open it, what it reads and where it comes from, as UTF-8 Markdown.

    `code` opens it, in `language`.
    """
    num_params = sum(parameter.numel() for parameter in model.parameters())
    origin, licence_lines = _origin(bundle.provenance)
    provenance = {"provenance": bundle.provenance, "metrics": bundle.metrics}
    differences = [f"- {note}" for note in notes] or ["Nothing but rounding."]
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-classification",
        "tags: [image-classification, deitkit]",
        *licence_lines,
        "---",
        "",
        f"# {title}",
        "",
        f"An image classifier with {len(bundle.class_names):,} classes and {num_params:,} "
        f"parameters, `{model.config['name']}` in deitkit, exported for {library}; its weights "
        f"come from {origin}.",
        "",
        "## Open it",
        "",
        f"```{language}",
        code,
        "```",
        "",
        f"## What {library} does differently",
        "",
        *differences,
        "",
        "## Preprocessing",
        "",
        *_preprocessing_lines(bundle.preprocessing),
        *(f"- {note}" for note in preprocessing_notes),
        "",
        "## Classes",
        "",
        *_class_lines(bundle.class_names),
        "",
        "## Where it comes from",
        "",
        "```json",
        json.dumps(provenance, indent=1, allow_nan=False),
        "```",
        "",
    ]
    return "\n".join(lines).encode()


def shown_name(name: str) -> str:
    """One line of Markdown that displays `name` and can be no markup, heading or tag."""
    cut = name if len(name) <= MAX_NAME_LENGTH else name[:MAX_NAME_LENGTH] + " ..."
    text = cut.encode("utf-8", "backslashreplace").decode()
    escaped = _MARKDOWN.sub(r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _origin(provenance: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Where the weights come from, in words, and what the head of the card says of a licence."""
    imported = provenance.get("imported")
    if not isinstance(imported, Mapping):
        return "a training there", []
    licence = imported.get("licence")
    is_name = isinstance(licence, str) and _LICENCE.fullmatch(licence)
    return shown_name(str(imported.get("source"))), [f"license: {licence}"] if is_name else []


def _class_lines(names: Sequence[str]) -> list[str]:
    lines = [f"{index}. {shown_name(name)}" for index, name in enumerate(names[:MAX_LISTED])]
    rest = len(names) - MAX_LISTED
    return [*lines, *([f"and {rest:,} more, all in config.json"] if rest > 0 else [])]


def _preprocessing_lines(spec: Preprocessing) -> list[str]:
    height, width = spec.image_size
    resized = " x ".join(map(str, covered_sides(spec)))
    how = (
        f"both sides to {resized}"
        if spec.resize == "squash"
        else f"keeping its shape, until it just covers {resized}"
    )
    return [
        f"- {spec.channels} channels; transparent pixels on the background {list(spec.background)}",
        f"- resized (bicubic, antialiased) {how} pixels (height x width)",
        f"- the centre {height} x {width} pixels of that",
        f"- levels of 0 to 1, minus the mean {list(spec.mean)}, "
        f"over the deviation {list(spec.std)}",
    ]
